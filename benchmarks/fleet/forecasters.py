"""What a key of `streamgrad fleet` costs: bytes, microseconds a row by rows a key and call, commits, cold keys.

    python benchmarks/fleet/forecasters.py --out results/fleet-forecasters

CPU time of one pinned core, the best of three rounds; random walks of 50 keys.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

KEYS, ROUNDS = 50, 3


def measure(learner: str, folder: Path) -> dict:
    import numpy as np

    import streamgrad as sg

    rng = np.random.default_rng(0)

    def rows(count):
        names = [f"s{k}" for _ in range(count) for k in range(KEYS)]
        return names, np.cumsum(rng.normal(size=(len(names), 1)), axis=0)

    fleet = sg.fleet.Forecasters("y", learner=learner, store=folder / f"{learner}.db")
    fleet.learn(*rows(70))
    found = {"learner": learner, "bytes_a_key": fleet.bytes, "us_a_row": {}}
    for count in (1, 8, 64, 256):
        times = []
        for _ in range(ROUNDS):
            some, begun = rows(count), time.process_time()
            fleet.learn(*some)
            times.append((time.process_time() - begun) / (KEYS * count))
        found["us_a_row"][count] = round(1e6 * min(times), 1)
    times = []
    for k in range(ROUNDS):
        fleet.learn(*rows(1))
        begun = time.process_time()
        fleet.commit(offset=k)
        times.append((time.process_time() - begun) / KEYS)
    found["commit_us_a_key"] = round(1e6 * min(times), 1)
    fleet.close()
    with sg.fleet.Forecasters("y", learner=learner, store=folder / f"{learner}.db", slots=1) as cold:
        some, begun = rows(1), time.process_time()
        cold.learn(*some)
        found["us_a_row_cold"] = round(1e6 * (time.process_time() - begun) / KEYS, 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learners", nargs="+", default=["light", "mixture"])
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/fleet-forecasters"))
    given = parser.parse_args()
    os.sched_setaffinity(0, {given.core})
    os.environ.setdefault("NPROC", "1")
    given.out.mkdir(parents=True, exist_ok=True)
    import jax

    with tempfile.TemporaryDirectory() as folder:
        lines = [measure(learner, Path(folder)) for learner in given.learners]
    head = {"jax": jax.__version__, "python": platform.python_version(), "machine": platform.machine()}
    head |= {"load": os.getloadavg(), "keys": KEYS, "rounds": ROUNDS}
    (given.out / "rates.json").write_text(json.dumps({**head, "rows": lines}, indent=1) + "\n")
    for line in lines:
        print(json.dumps(line))


if __name__ == "__main__":
    main()
