"""What a history is worth: passes over the first half of a series, then online, beside online from nothing.

    python benchmarks/forecast/fit.py --folder FILES --out results/forecast-fit

nRMSE one row ahead over the second half alone. Online from nothing has seen the first half once, row by row, so that
both know the same rows; fitted forecasters have seen them twice and four times. A line of JSON for each series.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from streamgrad.forecast import Forecaster
from streamgrad.lab.experiments import _series

PASSES = (1, 2, 4)


def error(values: np.ndarray, passes: int) -> float:
    """nRMSE of the second half, after so many passes over the first."""
    half, forecaster = len(values) // 2, Forecaster("y")
    forecaster.fit({"y": values[:half]}, passes=passes)
    said = forecaster.run({"y": values[half:]})
    wrong = said.due - said.truth
    return float(np.sqrt(np.nanmean(wrong**2)) / np.nanstd(values[half:]))


def main() -> None:
    """Run what is not there yet."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--folder", default="")
    options.add_argument("--out", type=Path, default=Path("results/forecast-fit"))
    options.add_argument("--rows", type=int, default=12_000)
    given = options.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "results.jsonl"
    done = {json.loads(line)["series"] for line in path.open()} if path.exists() else set()
    for name in _series.present(given.folder):
        if name not in done:
            values = _series.read(name, given.folder, given.rows)
            row = {"series": name, "rows": len(values)} | {f"{k}": error(values, k) for k in PASSES}
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
    rows = [json.loads(line) for line in path.open()]
    for k in PASSES:
        ratio = np.array([row[f"{k}"] / row["1"] for row in rows])
        print(
            f"{k} passes: {np.exp(np.log(ratio).mean()):.3f} of one pass, better on {(ratio < 1).sum()} of {len(rows)}"
        )


if __name__ == "__main__":
    main()
