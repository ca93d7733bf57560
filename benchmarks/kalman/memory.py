r"""Memory tasks learned by the Kalman filter and by Adam, on the same net with the same exact gradient.

GRU of 12 units under RTRL and a linear readout, one random bit ±1 a step:

- copy: the bit of 8 steps ago;
- xor: the product of this bit and the one of 4 steps ago.

Each learner's one number (Adam's rate, the filter's prior) is chosen among three by two seeds that are not scored: the
least mean squared error of the first 12,000 steps. Then three other seeds: the error at 12,000 and 24,000 steps (means
of 1,000), and the step from which the mean of 500 lies below .1. The floor is 1, of predicting 0.

python benchmarks/kalman/memory.py --out results/kalman-memory
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import jax
import numpy as np
import optax

import streamgrad as sg

STEPS, UNITS = 24_000, 12
CHOICES = {
    "Adam": (1e-3, 3e-3, 1e-2),
    "Kalman by unit": (0.1, 0.3, 1.0),
    "Kalman": (0.1, 0.3, 1.0),
}
TUNING, SEEDS = (100, 101), (0, 1, 2)


def stream(task: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets, (time, 1)."""
    bits = np.random.default_rng(seed).choice([-1.0, 1.0], size=(STEPS + 8, 1)).astype(np.float32)
    return bits[8:], bits[:-8] if task == "copy" else bits[8:] * bits[4:-4]


def learner(name: str, number: float) -> sg.Learner:
    """A learner by its name and its one number."""
    update = {
        "Adam": lambda: optax.adam(number),
        "Kalman by unit": lambda: sg.Kalman(blocks="unit", prior=number, forgetting=0.9999),
        "Kalman": lambda: sg.Kalman(prior=number, forgetting=0.9999),
    }[name]()
    return sg.Learner(net(0), update, loss=sg.losses.mse)


def net(seed: int) -> sg.nn.Sequential:
    """The net of a seed."""
    cell, readout = jax.random.split(jax.random.key(seed))
    layer = sg.Recurrent(sg.cells.GRU(1, UNITS, key=cell), sg.RTRL())
    return sg.nn.Sequential([layer, sg.Readout(UNITS, 1, key=readout)])


def errors(taught: sg.Learner, task: str, seed: int) -> np.ndarray:
    """The squared error of every step."""
    xs, targets = stream(task, seed)
    like = xs[0], targets[0]
    st = taught.init(key=jax.random.key(seed), model=net(seed), like=like)
    return np.asarray(taught.run(st, xs, targets)[1].loss)


def main() -> None:
    """Tune, run, print, write."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path)
    out, rows = options.parse_args().out, []
    for task in ("copy", "xor"):
        for name, numbers in CHOICES.items():
            tuning = {}
            for number in numbers:
                taught = learner(name, number)
                tuning[number] = float(np.mean([errors(taught, task, seed)[:12_000].mean() for seed in TUNING]))
            best = min(tuning, key=lambda number: tuning[number])
            taught, found, start = learner(name, best), [], time.process_time()
            for seed in SEEDS:
                error = errors(taught, task, seed)
                below = np.flatnonzero(np.convolve(error, np.ones(500) / 500, "valid") < 0.1)
                solved = int(below[0]) + 500 if len(below) else None
                at = [float(error[end - 1000 : end].mean()) for end in (12_000, 24_000)]
                found.append({"seed": seed, "error": dict(zip(("12000", "24000"), at, strict=True)), "solved": solved})
            seconds = (time.process_time() - start) / len(SEEDS)
            rows.append({"task": task, "learner": name, "chosen": best, "tuning": tuning, "runs": found})
            rows[-1]["cpu_seconds_a_run"] = round(seconds, 1)
            at = [f"{run['error']['12000']:.3f}" for run in found]
            print(f"{task:5} {name:15} {best:<6g} error at 12,000: {', '.join(at)}", end="; ", flush=True)
            print("solved at", ", ".join(str(run["solved"]) for run in found), flush=True)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        what = {"steps": STEPS, "units": UNITS, "tuning_seeds": TUNING, "choices": CHOICES, "jax": jax.__version__}
        (out / "memory.json").write_text(json.dumps({**what, "rows": rows}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
