"""streamgrad beside braintrace: `compare.py gradients` and `compare.py speed`. See README.md."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
# Net, batch (None: one stream without a batch axis), and steps a call. Cheap and dear programs get others,
# so that a call is neither lost in its overhead nor endless.
ROWS = {
    "gru": ("gru", None, 4096),
    "gru-16": ("gru", 16, 32),
    "rnn": ("rnn", None, 4096),
    "lstm": ("lstm", None, 1024),
    "gru-reset-before": ("gru-reset-before", None, 2048),
}
STEPS = {
    ("gru-16", "braintrace ES_D_RTRL(0.9)"): 1024,
    ("gru-16", "braintrace ES_D_RTRL(0.9), multi-step"): 512,
    ("gru-reset-before", "streamgrad SnAp(1)"): 8,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("gradients", "speed", "show"), help="show: tables from results/")
    parser.add_argument("rows", nargs="*", help=f"speed: some of {', '.join(ROWS)}")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="few steps: whether it runs, not how fast")
    options = parser.parse_intermixed_args()
    if options.what == "show":
        for name, show in {"gradients": _gradient_table, "speed": _speed_table}.items():
            show(json.loads((RESULTS / f"{name}.json").read_text("utf-8")))
        return
    if hasattr(os, "sched_setaffinity"):  # one core, before JAX makes its threads
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    # The options that streamgrad compiles with (sg.compiler_options(batched=True)), for both: wide vectors, and
    # XLA's own loops for sums over streams.
    flags = "--xla_cpu_prefer_vector_width=512 --xla_cpu_experimental_ynn_fusion_type=-LIBRARY_FUSION_TYPE_REDUCE"
    os.environ.setdefault("XLA_FLAGS", flags)
    os.environ["JAX_PLATFORMS"] = "cpu"
    results = _machine() | (gradients() if options.what == "gradients" else speed(options))
    (_gradient_table if options.what == "gradients" else _speed_table)(results)
    if not options.quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{options.what}.json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")


def _machine():
    names = ("streamgrad", "braintrace", "brainstate", "jax", "jaxlib", "equinox", "numpy")
    versions = {name: importlib.metadata.version(name) for name in names if name != "streamgrad"}
    import streamgrad

    versions["streamgrad"] = streamgrad.__version__
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = models[0] if models else cpu
    return {"versions": versions, "python": platform.python_version(), "cpu": cpu}


# Gradients.


def gradients():
    """The summed online gradient of both libraries against BPTT of the same net, in float64."""
    import jax

    jax.config.update("jax_enable_x64", True)
    import brainstate

    brainstate.environ.set(precision=64)
    import nets

    in_size, units, found = 8, 16, []
    for net in nets.GATES:
        for recurrence in ("dense",) if net == "rnn-elementwise" else ("dense", "diagonal", "zero"):
            p = nets.parameters(net, in_size, units, recurrence=recurrence)
            for steps in (1, 20):
                xs, ys = nets.stream(in_size, steps)
                loss, exact = nets.bptt(net, p, xs, ys)
                for name, side, algorithm in _programs():
                    own_loss, gradient = side.Learner(net, p, algorithm).gradient(xs, ys)
                    case = {"net": net, "recurrence": recurrence, "steps": steps, "program": name}
                    case["loss"] = abs(float(own_loss / loss) - 1)
                    found.append(case | _beside(gradient, exact))
    return {"in_size": in_size, "units": units, "dtype": "float64", "cases": found}


def _programs():
    import braintrace_side
    import streamgrad_side

    for side in (streamgrad_side, braintrace_side):
        for algorithm in side.ALGORITHMS:
            yield f"{side.__name__.removesuffix('_side')} {algorithm}", side, algorithm


def _beside(gradient, exact):
    """Relative error and cosine of the cell's gradient, relative error of the readout's, and the factor
    <g, g*> / <g*, g*> gate by gate."""
    import jax.numpy as jnp

    flat = lambda tree, keys: jnp.concatenate([tree[k].ravel() for k in keys])
    error = lambda a, b: float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))
    cell, out = ("x", "h", "b"), ("out", "out_b")
    g, best = flat(gradient, cell), flat(exact, cell)
    gates = range(exact["x"].shape[1])
    factor = lambda k: jnp.sum(gradient["x"][:, k] * exact["x"][:, k]) / jnp.sum(exact["x"][:, k] ** 2)
    # At the first step from a zero state a reset gate has no gradient.
    return {
        "cell_error": error(g, best),
        "cosine": float(g @ best / jnp.linalg.norm(g) / jnp.linalg.norm(best)),
        "gate_factors": [float(factor(k)) if jnp.any(exact["x"][:, k]) else None for k in gates],
        "readout_error": error(flat(gradient, out), flat(exact, out)),
    }


def _gradient_table(results):
    at = {(c["net"], c["recurrence"], c["steps"], c["program"]): c for c in results["cases"]}
    programs = dict.fromkeys(program for *_, program in at)
    digits = lambda x: f"{x:.3f}" if x > 1e-6 else f"{x:.0e}"
    print("| net | program | T = 1 | T = 20, zero | T = 20, diagonal | T = 20, dense: cosine | readout |")
    print("|---|---|---|---|---|---|---|")
    for net, program in dict.fromkeys((net, program) for net, _, _, program in at):
        last = at[net, "dense", 20, program]
        cells = [digits(at[net, "dense", 1, program]["cell_error"])]
        if net == "rnn-elementwise":  # its only recurrence is a diagonal one
            cells += ["", digits(last["cell_error"]), ""]
        else:
            cells += [digits(at[net, kind, 20, program]["cell_error"]) for kind in ("zero", "diagonal")]
            cells += [f"{last['cosine']:.3f}"]
        print(f"| {net} | {program} | {' | '.join(cells)} | {digits(last['readout_error'])} |")
    print("\n| program | lstm, T = 1: i | g | o | gru-reset-before, T = 20: z | r | a |")
    print("|---|---|---|---|---|---|---|")
    for program in programs:
        i, _, g, o = at["lstm", "dense", 1, program]["gate_factors"]
        factors = i, g, o, *at["gru-reset-before", "dense", 20, program]["gate_factors"]
        print(f"| {program} | {' | '.join(f'{f:.3f}' for f in factors)} |")
    print(f"\nLosses agree with the oracle's to {max(c['loss'] for c in results['cases']):.0e}.")


# Speed.


def speed(options):
    """Microseconds a step of the online gradient with an SGD update, float32; programs take turns."""
    rows = {row: _speed_row(row, options.rounds, options.quick) for row in options.rows or ROWS}
    return {"in_size": 32, "units": 128, "dtype": "float32", "rounds": options.rounds, "rows": rows}


def _speed_row(row, rounds, quick):
    import jax
    import nets

    net, batch, usual = ROWS[row]
    p = nets.parameters(net, 32, 128)
    ready, found = {}, {}
    for name, side, algorithm in _programs():
        for way in side.WAYS if batch else side.WAYS[:1]:
            steps = 8 if quick else STEPS.get((row, name), usual)
            data = nets.stream(32, steps, batch)
            start = time.process_time()
            learner = side.Learner(net, p, algorithm, batch, way)
            jax.block_until_ready(learner.run(*data))
            first = time.process_time() - start
            jax.block_until_ready(learner.run(*data))  # some programs compile again, for strong types
            key = f"{name} ({way})" if batch else name
            ready[key] = learner, data, steps, first
            found[key] = {"cpu": [], "wall": []}
    for _ in range(rounds):
        for key, (learner, data, steps, _) in ready.items():
            wall, cpu = time.perf_counter(), time.process_time()
            losses = jax.block_until_ready(learner.run(*data))
            found[key]["cpu"].append((time.process_time() - cpu) / steps * 1e6)
            found[key]["wall"].append((time.perf_counter() - wall) / steps * 1e6)
            assert jax.numpy.isfinite(losses).all(), key
    for key, (learner, _, steps, first) in ready.items():
        one = found[key]
        median = statistics.median(one["cpu"])
        one |= {
            "cpu_median": median,
            "cpu_min": min(one["cpu"]),
            "wall_median": statistics.median(one["wall"]),
            "wall_min": min(one["wall"]),
            "build_and_compile_seconds": first - median * steps / 1e6,
            "carried_bytes": learner.carried_bytes(),
            "parameters": learner.parameter_count(),
            "steps": steps,
        }
    return {"load": os.getloadavg(), "programs": found}


def _speed_table(results):
    print("| net | program | CPU µs a step: median | min | wall: median | state and trace, bytes | build, CPU s |")
    print("|---|---|---|---|---|---|---|")
    for row, result in results["rows"].items():
        for name, one in result["programs"].items():
            times = " | ".join(f"{one[key]:.1f}" for key in ("cpu_median", "cpu_min", "wall_median"))
            build = f"{one['build_and_compile_seconds']:.1f}"
            print(f"| {row} | {name} | {times} | {one['carried_bytes']:,} | {build} |")
    loads = ", ".join(f"{result['load'][0]:.1f}" for result in results["rows"].values())
    print(f"\n{results['rounds']} rounds; load of the machine after each row: {loads}.")


if __name__ == "__main__":
    main()
