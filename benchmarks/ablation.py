"""What the look at each gradient costs a learner: the rows of `streamgrad bench` with it and without it.

python benchmarks/ablation.py --out results/bench/learner-ablation.json
"""

import argparse
import json
from pathlib import Path

import jax.numpy as jnp

import streamgrad.train._guard as guard
from streamgrad.lab.bench import ROWS, measure

SOUND = guard.Skip.sound


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/bench/learner-ablation.json"))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    found = {}
    for row in ("learner-sgd", "learner-adam", "learner-every-8"):
        for look in (True, False):
            guard.Skip.sound = SOUND if look else lambda self, loss, given, gradient: jnp.array(True)
            measured = measure(ROWS[row], rounds=options.rounds)
            name = f"{row}, {'with' if look else 'without'} the look"
            found[name] = {"microseconds_a_step": measured["microseconds_a_step"], "ratio": measured["ratio"]}
            print(f"{name}: {measured['ratio']:.2f} of the loop by hand", flush=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
