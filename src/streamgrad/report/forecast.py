"""The picture of a `learn` run: forecast against truth, and the running error."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

TAIL = 1 << 16  # bytes of predictions from which the newest rows are taken
SHOWN = 240  # newest rows shown
DASHED = (0, (4, 4))  # of what lies on top of the forecast
INK, BLUE, GREY, GREEN, ORANGE = "#222222", "#1565c0", "#9e9e9e", "#2e7d32", "#ef6c00"
COLOURS = {  # in the order in which they are drawn
    "last value": GREY,
    "seasonal last value": GREEN,
    "network": BLUE,
    "RLS on lags": ORANGE,
}


def plot_run(folder: str | os.PathLike[str], *, title: str = "") -> Path:
    """Draw `forecast.png` in the folder of a run, from its predictions and metrics.

    Only the newest rows and a thinned curve are read, so memory does not grow with the run.
    """
    from matplotlib.figure import Figure

    folder = Path(folder)
    figure = Figure(figsize=(10, 7), dpi=120, layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=(3, 2))
    _forecasts(above, folder, title)
    _errors(below, folder)
    for axes in (above, below):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    path = folder / "forecast.png"
    temporary = folder / ".forecast.tmp.png"
    figure.savefig(temporary)
    os.replace(temporary, path)
    return path


def newest_rows(folder: Path, most: int = SHOWN) -> tuple[list[str], np.ndarray]:
    """Names and values of the last rows of `predictions.csv`; an empty field is NaN."""
    path = folder / "predictions.csv"
    with open(path, "rb") as file:
        names = file.readline().decode().strip().split(",")
        start, size = file.tell(), os.path.getsize(path)
        file.seek(max(start, size - TAIL))
        if size - TAIL > start:
            file.readline()  # the rest of a line
        text = file.read().decode()
    rows = [[float(v or "nan") for v in row] for row in csv.reader(io.StringIO(text))]
    return names, np.asarray(rows[-most:], float).reshape(-1, len(names))


def read_metrics(folder: Path, most: int = 2000) -> tuple[int, list[dict[str, Any]]]:
    """Rows between two lines of `metrics.jsonl`, and the lines, thinned to about `most`."""
    path, every, lines = folder / "metrics.jsonl", 0, []
    with open(path) as file:
        skip = max(1, -(-sum(1 for _ in file) // most))
        file.seek(0)
        for i, line in enumerate(file):
            every = every or json.loads(line)["row"]
            if i % skip == 0:
                lines.append(json.loads(line))
    return every, lines


def _forecasts(axes: Any, folder: Path, title: str) -> None:
    names, values = newest_rows(folder)
    row = values[:, names.index("row")]
    axes.plot(row, values[:, names.index("truth")], color=INK, lw=3, alpha=0.35, label="truth")
    axes.plot(row, values[:, names.index("network")], color=BLUE, lw=1.3, label="forecast")
    if "RLS_on_lags" in names:
        rls = values[:, names.index("RLS_on_lags")]
        axes.plot(row, rls, color=ORANGE, lw=0.9, ls=DASHED, label="RLS on lags")
    axes.set_title(f"{title}: the newest {len(row)} rows" if title else "", loc="left")
    axes.set_xlabel("row")
    axes.margins(x=0.01)
    axes.legend(loc="upper left", ncols=3, frameon=False)
    # Room for the legend above the curves.
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.12 * (high - low))


def _errors(axes: Any, folder: Path) -> None:
    every, lines = read_metrics(folder)
    methods = list(lines[-1]["newest"]["rmse"]) if lines else []
    for method in sorted(methods, key=list(COLOURS).index):
        points = [(m["row"], m["newest"]["rmse"].get(method)) for m in lines]
        points = [(row, error) for row, error in points if error]
        if points:
            row, error = zip(*points)
            wide = 1.8 if method == "network" else 1.1
            marker = "o" if len(points) < 3 else None
            style = DASHED if method == "RLS on lags" else "-"
            axes.plot(row, error, color=COLOURS[method], lw=wide, ls=style, label=method, marker=marker)
    if axes.lines:
        axes.legend(loc="upper right", ncols=4, frameon=False, fontsize=9)
        values = np.concatenate([line.get_ydata() for line in axes.lines])
        low, high = values.min(), values.max()
        if high > 10 * low:
            axes.set_yscale("log")
            axes.set_ylim(low / 1.2, high * (high / low) ** 0.2)  # the legend above the curves
        else:
            axes.set_ylim(0, 1.2 * high)
    axes.set_title(f"running error: root mean square of each {every} rows" if lines else "", loc="left")
    axes.set_xlabel("row")
    axes.margins(x=0.01)
