r"""Memory tasks learned by the Kalman filter and by Adam, on the same net with the same gradient.

- copy: one random bit ±1 a step, target the bit of 8 steps ago; xor: the product of this bit and the one of 4 steps
  ago. GRU of 12 units and a linear readout, 24,000 steps, squared error; under RTRL, and under SnAp-1 with the present
  step as kept and in full (`present="full"`), where the bias binds;
- trace: trace patterning (`sg.tasks`), 60,000 steps, γ = .9: 8 LSTM columns under SnAp-1, which is exact there. The
  target is the discounted sum of the next 44 cumulants, which comes 44 steps late (`delay`); the filter has
  `horizon=44`, as errors overlap. The error is that of the prediction made at the time against the true return; that of
  predicting 0 and of the best prediction stand beside it;
- trace-td: the same by temporal differences; Adam with λ = .9, the filter with λ = 0 (Kalman temporal differences);
- digits: the digits of scikit-learn one after another, a pixel a step, without end; the label comes with a digit's last
  pixel, after the answer. RTU of 16 units under SnAp-1 (exact), cross-entropy, 6,000 digits; accuracy of the answers.

Each learner's one number (Adam's rate, the filter's prior; λ .9999) is chosen by two seeds that are not scored, by the
mean error of the whole stream: from three values, and while the best of them is the last of the list, one
more at that end, the same rule for all. Then three other seeds: errors, the sample from which the running mean reaches
each level, and the processor's seconds until then, without compilation.

python benchmarks/kalman/memory.py --out results/kalman-memory [--only copy]

A row that is in the file is not run again.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import streamgrad as sg
from streamgrad.lab.experiments import digits_stream
from streamgrad.lab.tasks.trace_patterning import TracePatterning

TUNING, SEEDS = (100, 101), (0, 1, 2)
STEP, LATE = 10**0.5, 44
LEARNERS: dict[str, tuple[Callable[[Any], Any], tuple[float, ...]]] = {
    "Adam": (optax.adam, (1e-3, 3.16e-3, 1e-2)),
    "Kalman by unit": (lambda prior: sg.Kalman("unit", prior=prior, forgetting=0.9999), (0.1, 0.316, 1.0)),
    "Kalman, rank 20": (lambda prior: sg.Kalman(20, prior=prior, forgetting=0.9999), (0.1, 0.316, 1.0)),
    "Kalman": (lambda prior: sg.Kalman(prior=prior, forgetting=0.9999), (0.1, 0.316, 1.0)),
}
ALGORITHMS = {"RTRL": sg.RTRL(), "SnAp-1": sg.SnAp(1), "SnAp-1-full": sg.SnAp(1, present="full")}


class Task(NamedTuple):
    """`errors(update, algorithm, number, seed, stream) -> (samples,)`, to be compiled; `stream(seed)` its inputs;
    `levels`: of the running mean over `mean` samples; `floors`: what stands beside."""

    samples: int
    errors: Callable[..., jax.Array]
    stream: Callable[[int], Any]
    levels: tuple[float, ...]
    mean: int
    floors: dict[str, float] = {}  # noqa: RUF012


def net(cell: Callable[..., Any], algorithm: Any, in_size: int, units: int, outputs: int, seed: Any) -> Any:
    """A layer and a readout, drawn by a seed."""
    first, second = jax.random.split(jax.random.key(seed))
    layer = sg.Recurrent(cell(in_size, units, key=first), algorithm)
    return sg.nn.Sequential([layer, sg.Readout(layer.cell.out_size, outputs, key=second)])


def bits(task: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets, (time, 1)."""
    drawn = np.random.default_rng(seed).choice([-1.0, 1.0], size=(24_000 + 8, 1)).astype(np.float32)
    return drawn[8:], drawn[:-8] if task == "copy" else drawn[8:] * drawn[4:-4]


def of_bits(update: Any, algorithm: Any, number: Any, seed: Any, stream: Any) -> jax.Array:
    """The squared error of every step."""
    model = net(sg.cells.GRU, algorithm, 1, 12, 1, seed)
    learner = sg.Learner(model, update(number), loss=sg.losses.mse)
    st = learner.init(key=jax.random.key(seed), like=jax.tree.map(lambda leaf: leaf[0], stream))
    return learner.run(st, *stream)[1].loss


def patterns(seed: int) -> tuple[np.ndarray, ...]:
    """Inputs, cumulants and true returns of 60,000 steps."""
    found = TracePatterning().stream(seed)
    each = found.inputs(0, 60_000), found.cumulants(0, 60_000)[:, None], found.returns(0, 60_000, 0.9)
    return tuple(np.asarray(array, np.float32) for array in each)


def columns(algorithm: Any, seed: Any) -> Any:
    """8 LSTM columns and a readout."""
    return net(functools.partial(sg.cells.LSTM, wiring=sg.wiring.Columns()), algorithm, 12, 8, 1, seed)


def of_sums(update: Any, algorithm: Any, number: Any, seed: Any, stream: Any) -> jax.Array:
    """The squared error of every step against the true return, learned from sums that come late."""
    xs, cumulants, came = stream
    past = jnp.concatenate([jnp.zeros(LATE - 1), cumulants[:, 0]])
    sums = jnp.convolve(past, 0.9 ** jnp.arange(LATE - 1, -1, -1), "valid")
    targets = jnp.where(jnp.arange(len(xs)) < LATE, jnp.nan, sums)[:, None]
    rule = update(number)
    rule = eqx.tree_at(lambda rule: rule.horizon, rule, float(LATE)) if isinstance(rule, sg.Kalman) else rule
    learner = sg.Learner(columns(algorithm, seed), rule, loss=sg.losses.mse, delay=LATE)
    st = learner.init(key=jax.random.key(seed), like=(xs[0], targets[0]))
    return (learner.run(st, xs, targets)[1].prediction[:, 0] - came) ** 2


def of_patterns(update: Any, algorithm: Any, number: Any, seed: Any, stream: Any) -> jax.Array:
    """The squared error of every step against the true return, learned by temporal differences."""
    xs, cumulants, came = stream
    model, rule = columns(algorithm, seed), update(number)
    learner = sg.td.TDLambda(model, rule, gamma=0.9, lam=0.0 if isinstance(rule, sg.Kalman) else 0.9)
    out = learner.run(learner.init(key=jax.random.key(seed)), xs, cumulants)[1]
    return (out.prediction[:, 0] - came) ** 2


def digits(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and marks (digits, 64, 2), labels (digits,)."""
    xs, labels, _ = digits_stream.stream(6_000, 1, seed)
    return xs[:, 0].reshape(-1, 64, 2).astype(np.float32), labels[63::64, 0].astype(np.int32)


def of_digits(update: Any, algorithm: Any, number: Any, seed: Any, stream: Any) -> jax.Array:
    """1 for every wrong answer, 0 for a right one: the net goes from pixel to pixel, and learns at the last one."""
    model, rule = net(sg.cells.RTU, algorithm, 2, 16, 10, seed), update(number)
    kalman = isinstance(rule, sg.Kalman)
    family = sg.train.family(sg.losses.cross_entropy) if kalman else None
    step = sg.train.Filter(rule, model) if kalman else sg.train.Descent(rule)
    program = sg.train.Program(model, sg.train.Loss(sg.losses.cross_entropy, None, family), step, sg.train.Skip())
    memory = program.init(eqx.filter(model, eqx.is_array), *jax.random.split(jax.random.key(seed)))
    if not program.is_open(memory):
        memory = program.opened(memory, stream[0][0, 0], stream[1][0], jnp.zeros(10))

    def digit(memory, now):
        pixels, label = now
        whole = eqx.combine(memory.model, program.static)
        carry = jax.lax.scan(lambda carry, x: (whole(carry, x)[0], None), memory.carry, pixels[:-1])[0]
        memory, told = program.step(memory._replace(carry=carry), pixels[-1], label, None)
        return memory, told.y

    answers = jax.lax.scan(digit, memory, stream)[1].argmax(-1)
    return (answers != stream[1]).astype(jnp.float32)


@functools.cache
def of_returns() -> dict[str, float]:
    """Errors of predicting 0 and of the best prediction in the last sixth of the scored streams."""
    streams, span = [TracePatterning().stream(seed) for seed in SEEDS], (50_000, 60_000)
    came = [stream.returns(*span, 0.9) for stream in streams]
    best = [stream.bayes(*span, 0.9) for stream in streams]
    return {
        "predict zero": float(np.mean([np.mean(c**2) for c in came])),
        "best prediction": float(np.mean([np.mean((c - b) ** 2) for c, b in zip(came, best, strict=True)])),
    }


TASKS = {
    "copy": Task(24_000, of_bits, functools.partial(bits, "copy"), (0.5, 0.1, 0.02), 500, {"predict zero": 1.0}),
    "xor": Task(24_000, of_bits, functools.partial(bits, "xor"), (0.5, 0.1, 0.02), 500, {"predict zero": 1.0}),
    "trace": Task(60_000, of_sums, patterns, (0.016, 0.012, 0.008), 10_000),
    "trace-td": Task(60_000, of_patterns, patterns, (0.016, 0.012, 0.008), 10_000),
    "digits": Task(6_000, of_digits, digits, (0.5, 0.3, 0.2, 0.1), 500, {"chance": 0.9}),
}
PLAIN, LOW = [name for name in LEARNERS if "rank" not in name], "Kalman, rank 20"
CASES = [
    *(("trace", name, "SnAp-1") for name in ("Kalman", "Adam", "Kalman by unit")),
    *(("xor", name, "RTRL") for name in ("Kalman", "Adam", "Kalman by unit")),
    *(("digits", name, "SnAp-1") for name in ("Adam", "Kalman by unit", "Kalman")),
    *(("xor", name, algorithm) for algorithm in ("SnAp-1-full", "SnAp-1") for name in ("Kalman", "Adam")),
    *(("copy", name, "RTRL") for name in PLAIN),
    *(("copy", name, algorithm) for algorithm in ("SnAp-1-full", "SnAp-1") for name in ("Kalman", "Adam")),
    *(("trace-td", name, "SnAp-1") for name in PLAIN),
    *((task, LOW, "RTRL" if task in ("xor", "copy") else "SnAp-1") for task in ("copy", "xor", "trace", "digits")),
]


def row(task: str, name: str, algorithm: str) -> dict[str, Any]:
    """Tune, run, and say what was found."""
    found, (update, numbers) = TASKS[task], LEARNERS[name]
    errors = jax.jit(functools.partial(found.errors, update, ALGORITHMS[algorithm]))
    tuning: dict[float, float] = {}

    def run(number, seed):
        stream = jax.tree.map(jnp.asarray, found.stream(seed))
        start = time.process_time()
        return np.asarray(errors(jnp.float32(number), seed, stream)), time.process_time() - start

    def tried(number):
        number = float(f"{number:.3g}")
        mean = np.mean([run(number, seed)[0].mean() for seed in TUNING])
        tuning[number] = float(mean) if np.isfinite(mean) else float("inf")

    for number in numbers:
        tried(number)
    while (best := min(tuning, key=lambda number: tuning[number])) in (min(tuning), max(tuning)):
        tried(best / STEP if best == min(tuning) else best * STEP)
    runs = []
    for seed in SEEDS:
        error, seconds = run(best, seed)
        running = np.convolve(error, np.ones(found.mean) / found.mean, "valid")
        reached = {}
        for level in found.levels:
            below = np.flatnonzero(running <= level)
            samples = int(below[0]) + found.mean if len(below) else None
            reached[str(level)] = [samples, None if samples is None else round(seconds * samples / len(error), 2)]
        ends = {str(end): float(error[end - found.mean : end].mean()) for end in (found.samples // 2, found.samples)}
        runs.append({"seed": seed, "error": ends, "reached": reached, "cpu_seconds": round(seconds, 2)})
    case = {"task": task, "learner": name, "algorithm": algorithm}
    floors = of_returns() if task.startswith("trace") else found.floors
    return {**case, "chosen": best, "tuning": dict(sorted(tuning.items())), "floors": floors, "runs": runs}


def main() -> None:
    """The rows that are not there yet."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--only", default="", help="Rows whose task, learner and algorithm hold this.")
    given = options.parse_args()
    file = given.out / "memory.json"
    rows = json.loads(file.read_text("utf-8"))["rows"] if file.exists() else []
    key = lambda row: (row["task"], row["learner"], row["algorithm"])
    for case in CASES:
        if case in map(key, rows) or given.only not in " ".join(case):
            continue
        new = row(*case)
        rows.append(new)
        given.out.mkdir(parents=True, exist_ok=True)
        made = {"tuning_seeds": TUNING, "levels": {k: t.levels for k, t in TASKS.items()}, "jax": jax.__version__}
        rows.sort(key=lambda row: CASES.index(key(row)))
        file.write_text(json.dumps({**made, "rows": rows}, indent=1) + "\n", "utf-8")
        ends = ", ".join(f"{list(run['error'].values())[-1]:.4f}" for run in new["runs"])
        print(f"{' '.join(case):32} {new['chosen']:<7g} error at the end {ends};", end=" ", flush=True)
        for level in TASKS[case[0]].levels:
            print(f"{level:g} at {[run['reached'][str(level)][0] for run in new['runs']]}", end=" ")
        print(flush=True)


if __name__ == "__main__":
    main()
