"""Ten million steps through a session, beside `run` over the same rows: the same predictions, and the memory.

python benchmarks/session/soak.py --steps 10000000 --out results/session
"""

import argparse
import json
import resource
import time
from pathlib import Path

import jax
import numpy as np
import optax

import streamgrad as sg

PART = 100_000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000_000)
    parser.add_argument("--out", type=Path, default=Path("results/session"))
    options = parser.parse_args()
    key = jax.random.key(0)
    cell = sg.cells.GRU(4, 8, key=key)
    net = sg.nn.Sequential([sg.Recurrent(cell, sg.SnAp(1)), sg.Readout(8, 1, key=key)])
    learner = sg.Learner(net, optax.sgd(1e-2), loss=sg.losses.mse)
    plain, session = learner.init(key=key), learner.session(learner.init(key=key), native=True)
    differences, taken, memory, said = 0, 0.0, [], np.zeros(PART, np.float32)
    for part in range(options.steps // PART):
        rng = np.random.default_rng(part)
        xs, ys = rng.normal(size=(PART, 4)).astype(np.float32), rng.normal(size=(PART, 1)).astype(np.float32)
        began = time.perf_counter()
        for k in range(PART):
            said[k] = session.step(xs[k], ys[k]).prediction[0]
        taken += time.perf_counter() - began
        plain, outs = learner.run(plain, xs, ys)
        differences += int((np.asarray(outs.prediction)[:, 0] != said).sum())
        memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        if part % 10 == 9:
            print(f"{(part + 1) * PART:>10,} steps, {differences} differences, {memory[-1]:.0f} MB", flush=True)
    session.close()
    found = {
        "steps": options.steps,
        "differences": differences,
        "micros": taken / options.steps * 1e6,
        "megabytes": [memory[0], memory[len(memory) // 2], memory[-1]],
        "counted": session.state.steps,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "soak.json").write_text(json.dumps(found, indent=1) + "\n")
    print(found)


if __name__ == "__main__":
    main()
