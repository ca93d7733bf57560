"""`streamgrad bench`: the speed of online learning, beside forward-only and BPTT on the same net."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

#: Lets XLA's CPU compiler write several results from one loop: the traces of cells with two state entries
#: (LSTM) then take about half the time. Only the environment can ask for it, before JAX first compiles.
MULTI_OUTPUT = "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion"


@dataclasses.dataclass(frozen=True)
class Options:
    """Time rows of the benchmark: one pinned core, warm-up, programs in turn, medians, ratios within a run."""

    rows: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Rows to time; all of them when none is named."""
    rounds: int = 9
    """How often each program is timed."""
    quick: bool = False
    """A few steps and rounds: whether it runs, not how fast."""
    multi_output: bool = False
    """Ask XLA for loops that write several results, as XLA_FLAGS can: see MULTI_OUTPUT."""
    out: Path | None = None
    """Write the figures here as JSON."""


def main(arguments: Sequence[str]) -> int:
    """Run the rows, print a table, write JSON. `bench algorithms` is a command of its own."""
    if arguments[:1] == ["algorithms"]:
        _pin()
        from .compare import main as compare

        return compare(arguments[1:])
    options = tyro.cli(Options, args=arguments, prog="streamgrad bench")
    core = _pin()
    if options.multi_output:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {MULTI_OUTPUT}".strip()
    import jax
    from rich.console import Console

    from ..lab.bench import ROWS, measure

    unknown = [name for name in options.rows if name not in ROWS]
    if unknown:
        print(f"streamgrad bench has no row {unknown[0]!r}; it has {', '.join(ROWS)}.", file=sys.stderr)
        return 2
    if options.rounds < 1:
        print(f"--rounds must be at least 1, got {options.rounds}.", file=sys.stderr)
        return 2
    console = Console()
    where = f"one core ({core})" if core is not None else "all cores (this system cannot pin)"
    device = jax.devices()[0].device_kind
    console.print(f"JAX {jax.__version__} on {device}, {where}; microseconds a step, medians")
    results = []
    names = options.rows or tuple(ROWS)
    for k, name in enumerate(names):
        # No spinner: its thread would share the core, and the cache, with what is timed.
        print(f"({k + 1} of {len(names)}) {name} ...", end="\r", flush=True)
        row = ROWS[name]
        result = measure(row, 2, 128) if options.quick else measure(row, options.rounds)
        results.append({"name": name, **result})
        console.print(_text(name, row, result), highlight=False)
    if options.out is not None:
        machine = {"jax": jax.__version__, "device": device, "machine": platform.machine()}
        machine |= {"pinned": core is not None, "xla_flags": os.environ.get("XLA_FLAGS", "")}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({**machine, "rows": results}, indent=1) + "\n", "utf-8")
        console.print(f"wrote {options.out}")
    return 0


def _pin() -> int | None:
    """Stay on one core, the last one allowed: XLA splits small loops over threads and loses. Before JAX makes
    its threads, so before it is imported. None where the system cannot pin."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return core


def _text(name, row, result) -> str:
    lines = [f"\n[bold]{name}[/]  {row.title} ({row.detail})"]
    for program, time in result["microseconds_a_step"].items():
        lines.append(f"  {program:<34}{time['median']:>10.2f} µs  ({time['min']:.2f} to {time['max']:.2f})")
    for what, count in result["counts"].items():
        each = count.items() if isinstance(count, dict) else [("", count)]
        figures = ", ".join(f"{name} {n:,}" if isinstance(n, int) else f"{name} {n:.2f}" for name, n in each)
        lines.append(f"  {what.replace('_', ' ')}: {figures.strip()}")
    sign = ">=" if row.larger_is_better else "<="
    aim = "no aim" if row.to_reach is None else f"aim {sign} {row.to_reach:g}, stretch {row.stretch:g}"
    verdict = "" if row.to_reach is None else f": {result['reached']}"
    lines.append(f"  [bold]{result['ratio']:.2f}[/] {row.meaning}; {aim}{verdict}")
    return "\n".join(lines)
