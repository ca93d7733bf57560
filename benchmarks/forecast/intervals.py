"""Coverage, finite share and interval score of the forecaster's intervals, on every series that is here.

    python benchmarks/forecast/intervals.py --folder FILES --out results/forecast-intervals

One and 24 rows ahead, by the default learner; beside it an interval from the quantiles of the newest 500 residuals.
Each series is scored as it is, and with a change of level in its middle: from there on 20 of its deviations are added.
A line of JSON for each; those that are there are not run again. In the end: of all series the mean coverage, its range,
the least share of finite intervals, the interval score beside that of the plain quantiles, and where coverage lies more
than two points off (with fewer than 200 times the horizon rows: three standard errors of so many samples).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from streamgrad.forecast import Forecaster
from streamgrad.lab.experiments import _series

LEVELS = (0.8, 0.95)
PLAIN = 500  # residuals


def plain_ends(truth: np.ndarray, due: np.ndarray, ahead: np.ndarray, level: float) -> np.ndarray:
    """Ends around each forecast, from the quantiles of the newest residuals that came due."""
    residuals, window, out = truth - due, [], np.full((len(truth), 2), np.nan)
    for t, residual in enumerate(residuals):
        if np.isfinite(residual):
            window = [*window[-PLAIN + 1 :], residual]
        if len(window) > 20:
            out[t] = ahead[t] + np.quantile(window, [(1 - level) / 2, (1 + level) / 2])
    return out


def scored(truth: np.ndarray, ends: np.ndarray, level: float, horizon: int) -> dict[str, float]:
    """Coverage and so on of ends made `horizon` rows before."""
    low, high = np.concatenate([np.full((horizon, 2), np.nan), ends[:-horizon]]).T
    asked = np.isfinite(truth) & (np.arange(len(truth)) >= horizon)
    there = asked & np.isfinite(low) & np.isfinite(high)
    outside = np.maximum(low - truth, 0) + np.maximum(truth - high, 0)
    score = high - low + 2 / (1 - level) * outside
    return {
        "coverage": float(np.mean(outside[there] == 0)),
        "finite": float(there.sum() / asked.sum()),
        "score": float(np.mean(score[there]) / np.nanstd(truth)),
    }


def summary(rows: list[dict]) -> None:
    """Print the table of all series."""
    print("ahead  change  level  coverage (least, most)  finite  score / plain, better on  beyond the rule")
    for horizon in (1, 24):
        for shift in (False, True):
            for level in LEVELS:
                mine = [r for r in rows if r["horizon"] == horizon and r["shift"] == shift]
                own, plain = ([r[f"{name}{level:g}"] for r in mine] for name in ("", "plain "))
                found = np.array([each["coverage"] for each in own])
                ratio = np.array([a["score"] / b["score"] for a, b in zip(own, plain, strict=True)])
                samples = np.array([r["rows"] for r in mine]) / horizon
                allowed = np.where(samples >= 200, 0.02, 3 * np.sqrt(level * (1 - level) / samples))
                beyond = [r["series"] for r, far in zip(mine, np.abs(found - level) > allowed, strict=True) if far]
                print(
                    f"{horizon:5}  {'yes' if shift else 'no':6}  {level:5.0%}  {found.mean():8.1%} "
                    f"({found.min():.1%}, {found.max():.1%})  {min(each['finite'] for each in own):6.1%}  "
                    f"{np.exp(np.log(ratio).mean()):.3f}, {(ratio < 1).sum()} of {len(mine)}  {' '.join(beyond) or '-'}"
                )


def main() -> None:
    """Run what is not there yet."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--folder", default="")
    options.add_argument("--out", type=Path, default=Path("results/forecast-intervals"))
    options.add_argument("--rows", type=int, default=12_000)
    options.add_argument("--learner", default="mixture")
    given = options.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "results.jsonl"
    done = {(r["series"], r["horizon"], r["shift"]) for r in map(json.loads, path.open())} if path.exists() else set()
    for name in _series.present(given.folder):
        for horizon in (1, 24):
            for shift in (False, True):
                if (name, horizon, shift) in done:
                    continue
                values = _series.read(name, given.folder, given.rows)
                if shift:
                    values = np.where(
                        np.arange(len(values)) < len(values) // 2, values, values + 20 * np.nanstd(values)
                    )
                said = Forecaster("y", horizon=horizon, levels=LEVELS, learner=given.learner).run({"y": values})
                row = {"series": name, "horizon": horizon, "shift": shift, "rows": len(values)}
                for k, level in enumerate(LEVELS):
                    ends = np.stack([said.lower[:, k], said.upper[:, k]], axis=1)
                    other = plain_ends(said.truth, said.due, said.value, level)
                    row[f"{level:g}"] = scored(said.truth, ends, level, horizon)
                    row[f"plain {level:g}"] = scored(said.truth, other, level, horizon)
                with path.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(row, flush=True)
    summary([json.loads(line) for line in path.open()])


if __name__ == "__main__":
    main()
