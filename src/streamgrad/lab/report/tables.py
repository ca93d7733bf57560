"""Tables of final values: mean ± standard deviation over seeds, as data and Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from .runs import Run
from .schema import Metric, View
from .values import Spread, all_keys, final_values, group, in_order, rows_of, spread, text


@dataclass(frozen=True)
class Cell:
    """What one variant reached in one metric, and how it is written. `best`: no other cell of the column is better."""

    spread: Spread
    text: str
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A table of results: variant keys, metrics, lines with a cell per metric, and floors. Floors are lines of a name
    and a text per metric; the numbers of seeds are the least and the most."""

    keys: tuple[str, ...]
    metrics: tuple[str, ...]
    lines: tuple[tuple[tuple[str, ...], tuple[Cell, ...]], ...]
    floors: tuple[tuple[str, tuple[str, ...]], ...]
    seeds: tuple[int, int]


def make_table(run: Run, view: View) -> Table | None:
    """The table of a view: a line for each value of its keys, among those rows of its split that are final.

    In bold is the best mean of each column, by the metric's `better`, where all seeds are finite. Variants that
    differ in a key that the view leaves out get lines of their own. None if there is no row to show.
    """
    rows = [row for row in rows_of(run, view) if row.final]
    if not rows:
        return None
    keys = all_keys(rows, view.keys)
    metrics = [run.metrics[name] for name in view.metrics]
    groups = in_order(dict.fromkeys(group(row, keys) for row in rows))
    columns = []
    for metric in metrics:
        values = final_values(rows, metric.name, keys)
        columns.append([spread(values.get(g, {}).values()) for g in groups])
    counts = [s.n + s.lost for column in columns for s in column if s.n + s.lost]
    seeds = (min(counts), max(counts))
    decimals = [_decimals(metric, column) for metric, column in zip(metrics, columns)]
    cells = []
    for metric, column, digits in zip(metrics, columns, decimals):
        best = _best(metric, column)
        cells.append([Cell(s, _cell(metric, s, digits, seeds[1]), not s.lost and s.mean == best) for s in column])
    floors: dict[str, list[str]] = {}
    for i, (metric, digits) in enumerate(zip(metrics, decimals)):
        for floor, value in (metric.floors or {}).items():
            floors.setdefault(floor, [""] * len(metrics))[i] = _number(value * scale(metric), digits)
    return Table(
        keys=keys or ("",),
        metrics=tuple(label(metric) for metric in metrics),
        lines=tuple((tuple(map(text, g)) or ("all",), tuple(line)) for g, line in zip(groups, zip(*cells))),
        floors=tuple((name, tuple(texts)) for name, texts in floors.items()),
        seeds=seeds,
    )


def to_markdown(table: Table) -> str:
    """The table in Markdown; what has a meaning in Markdown is escaped."""
    lines = [
        [*map(plain, (*table.keys, *table.metrics))],
        ["---"] * len(table.keys) + ["---:"] * len(table.metrics),
    ]
    for names, cells in table.lines:
        lines.append([*map(plain, names), *(f"**{plain(c.text)}**" if c.best else plain(c.text) for c in cells)])
    for name, texts in table.floors:
        lines.append([plain(name), *[""] * (len(table.keys) - 1), *map(plain, texts)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(value: str) -> str:
    """Text that Markdown, and a terminal, take as it is: on one line, with special characters escaped."""
    value = "".join(c if c.isprintable() else " " for c in value)
    value = re.sub(r"([\\`*<>|\[\]])", r"\\\1", value)
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", value)


def label(metric: Metric) -> str:
    """The metric's label, with its unit if it is shown in percent."""
    return f"{metric.label} (%)" if metric.percent else metric.label


def scale(metric: Metric) -> float:
    """What values are multiplied with to be shown."""
    return 100.0 if metric.percent else 1.0


def _best(metric: Metric, column: Sequence[Spread]) -> float | None:
    means = [s.mean for s in column if s.n and not s.lost]
    if metric.better is None or len(column) < 2 or not means:
        return None
    return max(means) if metric.better == "higher" else min(means)


def _decimals(metric: Metric, column: Sequence[Spread]) -> int:
    """Two digits of the usual standard deviation; without any, four of the largest mean."""
    means = [abs(s.mean) for s in column if abs(s.mean) > 0]
    rounding = 1e-5 * max(means, default=0.0)
    sds = [s.sd for s in column if s.sd > rounding]
    if not sds and not means:
        return 3
    size, digits = (median(sds), 2) if sds else (max(means), 4)
    most = 2 if metric.percent else 5
    return min(max(digits - 1 - math.floor(math.log10(size * scale(metric))), 0), most)


def _number(value: float, decimals: int) -> str:
    if not math.isfinite(value):
        return "–"
    size = abs(value)
    exponent = size >= 1e6 or 0 < size < 0.5 * 10.0**-decimals
    return f"{value:.1e}" if exponent else f"{value:.{decimals}f}"


def _cell(metric: Metric, s: Spread, decimals: int, usual: int) -> str:
    if not s.n:
        return f"not finite ({s.lost} seeds)" if s.lost else "–"
    times = scale(metric)
    written = _number(s.mean * times, decimals)
    if math.isfinite(s.sd):
        exponent = "e" in written
        written += f" ± {_number(s.sd * times, decimals) if exponent else format(s.sd * times, f'.{decimals}f')}"
    if s.lost:
        return f"{written} ({s.n} of {s.n + s.lost} finite)"
    return written if s.n == usual else f"{written} (n = {s.n})"


def seeds_text(seeds: tuple[int, int]) -> str:
    """ "3 seeds", "1 seed" or "2 to 3 seeds"."""
    low, high = seeds
    return f"{high} seed{'s' if high > 1 else ''}" if low == high else f"{low} to {high} seeds"
