"""What the forecaster costs: several targets, paths, learners, and a million rows.

    python benchmarks/forecast/cost.py --out results/forecast-cost

Microseconds of a row by the clock (the least of three runs, compiled before; pin it to one core), resident memory at
10%, 50% and 100% of a million rows with nine columns, and the error of the first step of a path beside that of
`horizon=1`. One line of JSON for each.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np

from streamgrad.forecast import Forecaster

N = 4000


def series(n: int, columns: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Seasons, a walk and noise, in some columns."""
    rng, t = np.random.default_rng(seed), np.arange(n)[:, None]
    phase = rng.uniform(0, 6, columns)
    values = 3 * np.sin(2 * np.pi * t / 24 + phase) + rng.standard_normal((n, columns))
    values += 0.1 * rng.standard_normal((n, columns)).cumsum(axis=0)
    return {f"y{k}": values[:, k] for k in range(columns)}


def micros(rows: dict[str, np.ndarray], n: int = N, **settings) -> float:
    """Microseconds of a row, the least of three runs."""
    make = lambda: Forecaster(tuple(rows) if len(rows) > 1 else next(iter(rows)), **settings)
    make().run({name: column[:300] for name, column in rows.items()})  # compiles
    times = []
    for _ in range(3):
        forecaster = make()
        began = time.perf_counter()
        forecaster.run({name: column[:n] for name, column in rows.items()})
        times.append((time.perf_counter() - began) / n * 1e6)
    return min(times)


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Measure, and write a line for each figure."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path, default=Path("results/forecast-cost"))
    options.add_argument("--rows", type=int, default=1_000_000)
    options.add_argument("--only", nargs="*", default=())
    given = options.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)

    def tell(**row):
        with (given.out / "results.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)

    if not given.only or "learners" in given.only:
        one = series(N, 1)
        for learner in ("mixture", "light", "rls", "reservoir", "columns", "fast-columns", "adam", "frozen"):
            tell(what="learner", learner=learner, micros=micros(one, learner=learner))
    if not given.only or "targets" in given.only:
        for many in (1, 4, 16):
            rows = series(1000, many)
            for learner in ("mixture", "light"):
                tell(what="targets", targets=many, learner=learner, micros=micros(rows, 1000, learner=learner))
    if not given.only or "paths" in given.only:
        rows = series(N, 1)
        for path in (8, 48):
            tell(what="path", path=path, micros=micros(rows, 2000, path=path))
        path, one = Forecaster("y0", path=48), Forecaster("y0")
        path.run(rows)
        one.run(rows)
        first = path.scores()["steps"][1]["nrmse"]["network"], one.scores()["nrmse"]["network"]
        tell(what="first step", path=first[0], horizon_1=first[1])
    if not given.only or "million" in given.only:
        for learner in ("light",):
            rng = np.random.default_rng(0)
            names = [f"x{k}" for k in range(9)]
            forecaster = Forecaster("x0", features=tuple(names[1:]), learner=learner)
            at, memory, began = 0, {}, time.perf_counter()
            while at < given.rows:
                block = rng.standard_normal((min(10_000, given.rows - at), 9))
                block[:, 0] += np.sin(np.arange(at, at + len(block)) / 4)
                for part in np.array_split(block, -(-len(block) // 256)):
                    forecaster.learn(part)
                at += len(block)
                for share in (10, 50, 100):
                    if at * 100 >= share * given.rows and share not in memory:
                        memory[share] = resident()
            rate = given.rows / (time.perf_counter() - began)
            tell(what="million", learner=learner, rows=given.rows, rows_a_second=rate, resident=memory)


if __name__ == "__main__":
    main()
