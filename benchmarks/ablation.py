"""What the look at each gradient costs a learner: rows of `streamgrad bench` that look at all of it, at rows of it (as
the library does), and not at all.

python benchmarks/ablation.py --out results/bench/learner-ablation.json
"""

import argparse
import json
from pathlib import Path

import jax.numpy as jnp

import streamgrad.train._guard as guard
import streamgrad.train._program as program
from streamgrad.lab.bench import ROWS, measure

SOUND, BY_ROW = guard.Skip.sound, program.told_by_row
LOOKS = {
    "at all": (SOUND, lambda model: None),
    "at rows": (SOUND, BY_ROW),
    "not at all": (lambda self, loss, given, gradient: jnp.array(True), BY_ROW),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/bench/learner-ablation.json"))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    found = {}
    for row in ("learner-sgd", "learner-adam", "learner-every-8"):
        for look, (guard.Skip.sound, program.told_by_row) in LOOKS.items():
            measured = measure(ROWS[row], rounds=options.rounds)
            name = f"{row}, looking {look}"
            found[name] = {"microseconds_a_step": measured["microseconds_a_step"], "ratio": measured["ratio"]}
            print(f"{name}: {measured['ratio']:.2f} of the loop by hand", flush=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
