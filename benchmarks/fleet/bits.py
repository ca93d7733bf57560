"""Whether a fleet's bits depend on anything but its rows, in float32 and with all of XLA's optimisations.

    python benchmarks/fleet/bits.py [--multi-output] --out results/fleet

The same rows in calls of 1 to 3,000, with 1 to 10,000 slots, in memory and through a store: digests of predictions,
losses and states must be one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

from rates import MULTI_OUTPUT


def digest(kernel, rows, size: int, slots: int, store) -> str:
    import numpy as np

    import streamgrad as sg

    keys, x, target, resets = rows
    with sg.Fleet.of(kernel, slots=slots, store=store) as fleet:
        outs = []
        for start in range(0, len(keys), size):
            some = slice(start, start + size)
            outs.append(fleet.update(keys[some], x[some], target[some], resets[some]))
        parts = [np.concatenate([out[k] for out in outs]).tobytes() for k in range(3)]
        states = [fleet.state(key) for key in sorted(fleet)]
    return hashlib.sha256(b"".join(parts + states)).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--multi-output", action="store_true")
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--out", type=Path, default=Path("results/fleet"))
    given = parser.parse_args()
    if given.multi_output:
        os.environ["XLA_FLAGS"] = MULTI_OUTPUT
    import nets
    import numpy as np

    import streamgrad as sg

    rng, lines = np.random.default_rng(0), []
    keys = (rng.zipf(1.3, size=given.rows) % 700).tolist()
    x = rng.normal(size=(given.rows, 1)).astype(np.float32)
    target = np.where(rng.random((given.rows, 1)) < 0.1, np.nan, np.sin(3 * x)).astype(np.float32)
    rows = keys, x, target, rng.random(given.rows) < 0.02
    for name in ("lru-16 adam", "gru-16 adam", "lru-16 kalman by layer"):
        make, update = nets.LEARNERS[name]
        kernel = sg.fleet.Kernel(make, update, loss=sg.losses.mse, delay=1, like=(x[0], target[0]))
        for size, slots in [(3000, 10_000), (512, 10_000), (64, 50), (7, 3), (1, 1)]:
            with tempfile.TemporaryDirectory() as folder:
                found = digest(kernel, rows, size, slots, Path(folder) / "fleet.db")
            lines.append({"learner": name, "rows_a_call": size, "slots": slots, "sha256": found})
            print(json.dumps(lines[-1]), flush=True)
    same = len({(line["learner"], line["sha256"]) for line in lines}) == len({line["learner"] for line in lines})
    given.out.mkdir(parents=True, exist_ok=True)
    name = f"bits{'-multi-output' if given.multi_output else ''}.json"
    (given.out / name).write_text(json.dumps({"same": same, "rows": lines}, indent=1) + "\n")
    print("the same" if same else "NOT THE SAME")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
