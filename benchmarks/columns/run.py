"""LSTM columns learned by TD(lambda): the library beside hand-written C++, timed in turn on one core. See ../README.md.

python benchmarks/columns/run.py --check
python benchmarks/columns/run.py --rounds 9 --out results/bench/columns.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from compiled import ARRAYS, FLAGS, VARIANTS, Compiled, Hyperparameters, compiler, shape
from reference import Reference

INPUTS = 16
#: Lets XLA's CPU compiler write several results from one loop, as `streamgrad bench --multi-output`.
MULTI_OUTPUT = "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion"
#: Lets it make one function of each loop, as `streamgrad experiment` does for small networks.
WHOLE_LOOPS = "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=1000000000"


class Aim(NamedTuple):
    """Of the library's time over the plain loop's."""

    aim: float
    stretch: float


AIMS = {"16 columns": Aim(2.5, 1.2), "128 columns": Aim(1.2, 0.9), "1024 columns": Aim(1.3, 1.1)}
AIMS["32 seeds of 16 columns"] = Aim(1.5, 0.7)


def stream(steps: int, inputs: int = INPUTS, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Inputs that are 1 one time in ten, and cumulants that are 1 one time in a hundred."""
    random = np.random.default_rng(seed)
    xs = random.random((steps, inputs)) < 0.1
    return xs.astype(np.float32), (random.random(steps) < 0.01).astype(np.float32)


# Agreement.


def parameters(inputs: int, columns: int, seed: int = 1) -> dict[str, np.ndarray]:
    """Parameters of a fresh learner, drawn at random; nothing starts at zero, so that nothing hides."""
    random = np.random.default_rng(seed)
    return {
        "value": random.uniform(-0.5, 0.5, (inputs + 2, 4, columns)).astype(np.float32),
        "weight": random.uniform(-0.1, 0.1, columns).astype(np.float32),
    }


def difference(found: np.ndarray, exact: np.ndarray) -> float:
    """The largest difference, relative to the largest number. NaN stays NaN."""
    return float(np.abs(np.asarray(found) - exact).max() / np.abs(exact).max())


def check_compiled() -> float:
    """The largest difference between C++ and NumPy, in predictions and all arrays."""
    usual = Hyperparameters()
    cases = [
        ("as timed", 16, 16, 500, usual),
        ("part of a block", 16, 5, 300, usual),
        ("several blocks", 16, 40, 200, usual),
        ("other inputs", 7, 4, 300, usual),
        ("moving normalisation", 16, 16, 500, usual._replace(norm_beta=0.99, prior=10.0)),
        ("large steps", 16, 16, 300, usual._replace(alpha=0.1, readout_alpha=0.03, beta2=0.99)),
        ("large epsilon", 16, 16, 300, usual._replace(alpha=0.01, epsilon=0.01, beta2=0.99)),
        ("small moments", 16, 40, 300, usual),
    ]
    worst = 0.0
    for title, inputs, columns, steps, hyper in cases:
        xs, cumulants = stream(steps, inputs)
        start = parameters(inputs, columns)
        if title == "small moments":  # in some columns only, so that both forms of the blocked update are met
            start["moment"] = np.ones_like(start["value"])
            start["moment"][..., : columns // 3] = 1e-14
        learners = {"NumPy": Reference(inputs, columns, hyper)}
        learners |= {variant: Compiled(variant, inputs, columns, hyper) for variant in VARIANTS}
        found = {}
        for name, learner in learners.items():
            learner.set(**start)
            cut = steps // 3  # in two calls, with a look between, which must change nothing
            first = learner.run(xs[:cut], cumulants[:cut])
            learner.get("value")
            predictions = np.concatenate([first, learner.run(xs[cut:], cumulants[cut:])])
            found[name] = {"predictions": predictions} | {name: learner.get(name) for name in ARRAYS}
        exact = found["NumPy"]
        moved = np.abs(exact["value"] - start["value"]).max()
        print(f"{title}: {inputs} inputs, {columns} columns, {steps} steps, weights moved by up to {moved:.1e}")
        for variant in VARIANTS:
            errors = {name: difference(found[variant][name], exact[name]) for name in exact}
            name = max(errors, key=errors.__getitem__)
            print(
                f"  C++ {variant:8} NumPy: predictions {errors['predictions']:.1e}, value {errors['value']:.1e}, "
                f"worst {errors[name]:.1e} ({name})"
            )
            worst = float(np.max([worst, *errors.values()]))  # NaN stays NaN
    return worst


def check_library(columns: int = 16, steps: int = 500) -> tuple[float, float]:
    """The largest differences from the library, of C++ in float32 and of NumPy in float64: predictions, and what is
    learned."""
    import jax
    import streamgrad_side

    hyper = Hyperparameters(alpha=0.1, readout_alpha=0.1 / columns)
    xs, cumulants = stream(steps)
    worst = {}
    for dtype in ("float64", "float32"):
        jax.config.update("jax_enable_x64", dtype == "float64")
        library = streamgrad_side.Single(INPUTS, columns, hyper)
        start = streamgrad_side.parameters(library.model)
        exact = {"predictions": library.run(xs.astype(dtype), cumulants.astype(dtype))}
        exact |= streamgrad_side.parameters(library.state.model)
        assert all(array.dtype == dtype for array in exact.values())
        moved = np.abs(exact["value"] - start["value"]).max()
        print(f"the library in {dtype}: {columns} columns, {steps} steps, weights moved by up to {moved:.1e}")
        others = {"NumPy": Reference(INPUTS, columns, hyper)}
        if dtype == "float32":
            others = {f"C++ {variant}": Compiled(variant, INPUTS, columns, hyper) for variant in VARIANTS}
        worst[dtype] = 0.0
        for name, learner in others.items():
            learner.set(value=start["value"], weight=start["weight"])
            found = {"predictions": learner.run(xs, cumulants), "bias_value": learner.get("bias")[0]}
            found |= {array: learner.get(array) for array in ("value", "weight")}
            errors = {array: difference(found[array], np.asarray(exact[array])) for array in exact}
            print(f"  {name:12} " + ", ".join(f"{array} {error:.1e}" for array, error in errors.items()))
            worst[dtype] = float(np.max([worst[dtype], *errors.values()]))
    seeds = 3
    streams = [stream(steps, seed=seed) for seed in range(seeds)]
    together = streamgrad_side.Seeds(INPUTS, columns, hyper, seeds).run(*stacked(streams))
    for seed, own in enumerate(streams):
        alone = streamgrad_side.Single(INPUTS, columns, hyper, seed).run(*own)
        error = difference(together[:, seed], np.asarray(alone))
        print(f"  the library, seed {seed} of {seeds} at once, beside it alone: predictions {error:.1e}")
        worst["float32"] = float(np.max([worst["float32"], error]))
    return worst["float32"], worst["float64"]


def check() -> None:
    """Compare all, and exit with an error where they differ."""
    compiled = check_compiled()
    single, double = check_library()
    print(f"worst: C++ and NumPy {compiled:.1e}, library and C++ {single:.1e}, library and NumPy {double:.1e}")
    if not (compiled < 1e-4 and single < 1e-4 and double < 1e-12):
        raise SystemExit("They differ: see above.")


# Speed.


def stacked(streams: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Streams side by side: (steps, streams, ...)."""
    xs, cumulants = zip(*streams, strict=True)
    return np.stack(xs, 1), np.stack(cumulants, 1)


class Program(NamedTuple):
    """`run()` takes `steps` time steps; `renew()` comes before it, untimed."""

    run: Callable[[], object]
    steps: int
    renew: Callable[[], object] = tuple


def interleaved(programs: dict[str, Program], rounds: int) -> dict[str, dict[str, float]]:
    """Microseconds a step: the median, minimum and maximum of the CPU time, and the median of the wall time, over
    rounds in which all programs take turns after one to warm up."""
    import jax

    taken = {name: [] for name in programs}
    for timed in [False] + [True] * rounds:
        for name, program in programs.items():
            program.renew()
            start = time.process_time(), time.perf_counter()
            jax.block_until_ready(program.run())
            end = time.process_time(), time.perf_counter()
            if timed:
                taken[name].append(np.subtract(end, start) / program.steps * 1e6)
    found = {}
    for name, times in taken.items():
        cpu, wall = np.transpose(times)
        found[name] = {
            "median": float(np.median(cpu)),
            "min": min(cpu),
            "max": max(cpu),
            "wall": float(np.median(wall)),
        }
    return found


def measure(columns: int, seeds: int, rounds: int, steps: int) -> dict[str, dict[str, float]]:
    """The times of the programs. With `seeds`, the library takes that many learners at once and its time is that of
    one of them; the C++ takes one at a time."""
    import jax
    import streamgrad_side

    hyper = Hyperparameters()._replace(readout_alpha=Hyperparameters().alpha / columns)
    library = streamgrad_side.Single(INPUTS, columns, hyper)
    start = streamgrad_side.parameters(library.model)
    xs, cumulants = stream(steps)
    programs = {}
    if seeds:
        each = max(1, steps // seeds)
        library = streamgrad_side.Seeds(INPUTS, columns, hyper, seeds)
        given = jax.device_put(stacked([stream(each, seed=seed) for seed in range(seeds)]))
        programs["library"] = Program(lambda: library.run(*given), each * seeds)
    else:
        given = jax.device_put((xs, cumulants))
        programs["library"] = Program(lambda: library.run(*given), steps)
    moments = {name: np.ones(shape(name, INPUTS, columns)) for name in ("moment", "weight_moment")}
    for variant in VARIANTS:
        learner = Compiled(variant, INPUTS, columns, hyper)
        learner.set(value=start["value"], weight=start["weight"])

        def renew(learner=learner):
            # The blocked loop takes a form of the update that costs 15% more once a second moment falls below 1e-9,
            # which takes some 200,000 steps. Fresh moments make all rounds the same work, and the C++ the faster one.
            learner.set(**moments)

        programs[variant] = Program(lambda learner=learner: learner.run(xs, cumulants), steps, renew)
    return interleaved(programs, rounds)


def row(columns: int, seeds: int, rounds: int, steps: int, judge: bool) -> dict:
    """One row of the table, its ratio judged by the aim or not."""
    name = f"{seeds} seeds of {columns} columns" if seeds else f"{columns} columns"
    times = measure(columns, seeds, rounds, steps)
    ratios = {variant: times["library"]["median"] / times[variant]["median"] for variant in VARIANTS}
    aim = AIMS.get(name)
    reached = "not judged" if aim else "no aim"
    if aim and judge:
        ratio = ratios["plain"]
        reached = "stretch reached" if ratio <= aim.stretch else "reached" if ratio <= aim.aim else "missed"
    return {
        "name": name,
        "steps": steps,
        "microseconds_a_step": times,
        "library_over": ratios,
        "to_reach": aim and aim.aim,
        "stretch": aim and aim.stretch,
        "reached": reached,
    }


def table(rows: list[dict]) -> str:
    """Markdown."""
    lines = [
        "| CPU µs a step (min to max) | library | C++ plain | C++ blocked | library / plain | / blocked | aim |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        times = row["microseconds_a_step"]
        cells = [row["name"]]
        for name in ("library", *VARIANTS):
            taken = times[name]
            cells.append(f"{taken['median']:.2f} ({taken['min']:.2f} to {taken['max']:.2f})")
        cells += [f"{row['library_over'][variant]:.2f}" for variant in VARIANTS]
        aim = f"{row['to_reach']:g}, stretch {row['stretch']:g}: " if row["to_reach"] else ""
        cells.append(aim + row["reached"])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare the numbers instead of timing")
    parser.add_argument("--columns", type=int, nargs="*", default=[16, 128, 1024])
    parser.add_argument("--seeds", type=int, default=32, help="of 16 columns, at once, in a last row; 0: no such row")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="few steps and rounds: whether it runs, not how fast")
    parser.add_argument("--whole-loops", action="store_true", help=f"add {WHOLE_LOOPS} to XLA_FLAGS")
    parser.add_argument("--multi-output", action="store_true", help=f"add {MULTI_OUTPUT} to XLA_FLAGS")
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    options = parser.parse_args()
    if options.rounds < 1 or options.seeds < 0 or any(columns < 1 for columns in options.columns):
        parser.error("--rounds and --columns must be at least 1, --seeds at least 0.")
    core = None
    if hasattr(os, "sched_setaffinity"):  # one core, before JAX makes its threads
        core = max(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {core})
    os.environ["JAX_PLATFORMS"] = "cpu"
    for wanted, flag in ((options.multi_output, MULTI_OUTPUT), (options.whole_loops, WHOLE_LOOPS)):
        if wanted:
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    version = subprocess.run([compiler(), "--version"], capture_output=True, text=True, check=True).stdout
    version = version.splitlines()[0]
    print(f"{version}, {' '.join(FLAGS)}")
    if options.check:
        return check()

    import jax

    import streamgrad as sg

    machine = {
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
        "pinned": core is not None,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "compiler_options": {
            "columns": sg.compiler_options() | sg.td.KEEP_ORDER,
            "seeds": sg.compiler_options(batched=True) | sg.td.KEEP_ORDER,
        },
        "compiler": version,
        "compiler_flags": " ".join(FLAGS),
        "rounds": 2 if options.quick else options.rounds,
    }
    where = f"core {core}" if core is not None else "all cores (this system cannot pin)"
    print(f"JAX {machine['jax']} on {where}, XLA_FLAGS {machine['xla_flags'] or 'not set'}")
    rows, loads = [], []
    for columns, seeds in [(columns, 0) for columns in options.columns] + [(16, options.seeds)] * bool(options.seeds):
        steps = 512 if options.quick else steps_for(columns)
        rows.append(row(columns, seeds, machine["rounds"], steps, judge=not options.quick))
        loads.append(os.getloadavg()[0] if hasattr(os, "getloadavg") else None)
    print(table(rows))
    print(f"load of the machine after each row: {', '.join(f'{load:.1f}' for load in loads if load is not None)}")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({**machine, "loads": loads, "rows": rows}, indent=1) + "\n", "utf-8")
        print(f"wrote {options.out}")


def steps_for(columns: int) -> int:
    """Steps a round: about a second of the library's, so that what a call of `run` costs by itself (some 25 ms) is
    little of it."""
    return max(6000, min(100_000, 5_000_000 // columns))


if __name__ == "__main__":
    main()
