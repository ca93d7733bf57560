"""The numbers of a view, computed from rows: what is selected, what belongs together, and mean and spread over
seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .runs import Run
from .schema import Row, Selection, View


@dataclass(frozen=True)
class Spread:
    """Mean, sample standard deviation, least and greatest over the seeds with a finite value. The deviation is over n -
    1 (NaN for one seed); `n` seeds were finite and `lost` were not."""

    mean: float
    sd: float
    low: float
    high: float
    n: int
    lost: int


@dataclass(frozen=True)
class Choice:
    """The selected values for one value of the keys `by`. `edge` names keys whose value is the least or greatest of at
    least three that were tried: a better one may lie beyond."""

    group: tuple
    chosen: tuple
    edge: tuple[str, ...] = ()


def spread(values: Iterable[float]) -> Spread:
    """Mean and spread of a value for each seed, as `Spread` says. NaN throughout where none is finite."""
    values = list(values)
    finite = [value for value in values if math.isfinite(value)]
    n, lost = len(finite), len(values) - len(finite)
    if not n:
        return Spread(math.nan, math.nan, math.nan, math.nan, 0, lost)
    mean = math.fsum(finite) / n
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in finite) / (n - 1)) if n > 1 else math.nan
    return Spread(mean, sd, min(finite), max(finite), n, lost)


def final_values(rows: Iterable[Row], metric: str, keys: Sequence[str]) -> dict[tuple, dict[int, float]]:
    """Final values of a metric by the values of the keys, then by seed; the last step counts.

    Variants that differ in other keys are averaged for each seed; NaN if one of them is not finite.
    """
    last: dict[tuple, Row] = {}
    for row in rows:
        where = (row.key, row.seed)
        if row.final and metric in row.metrics and (where not in last or row.step >= last[where].step):
            last[where] = row
    found: dict[tuple, dict[int, list[float]]] = {}
    for row in last.values():
        found.setdefault(group(row, keys), {}).setdefault(row.seed, []).append(row.metrics[metric])
    return {g: {seed: sum(v) / len(v) for seed, v in seeds.items()} for g, seeds in found.items()}


def choose(rows: Iterable[Row], select: Selection, better: str | None) -> list[Choice]:
    """What `Selection` says, in the order of the rows. A candidate with a seed that is not finite loses to any
    without; of equals, the first wins."""
    rows = [row for row in rows if row.split == select.split]
    values = final_values(rows, select.metric, (*select.by, *select.over))
    sign = -1.0 if better == "higher" else 1.0
    best: dict[tuple, tuple] = {}
    for key, seeds in values.items():
        found = spread(seeds.values())
        by, over = key[: len(select.by)], key[len(select.by) :]
        rank = (found.lost, sign * found.mean if found.n else math.inf)
        if by not in best or rank < best[by][0]:
            best[by] = (rank, over)
    tried = {by: [key[len(by) :] for key in values if key[: len(by)] == by] for by in best}
    return [Choice(by, over, _edges(select.over, over, tried[by])) for by, (_, over) in best.items()]


def rows_of(run: Run, view: View) -> list[Row]:
    """The rows that a view shows: those of its split that have a metric of it, and are selected."""
    shown = [row for row in run.rows if row.split == view.split]
    shown = [row for row in shown if any(name in row.metrics for name in view.metrics)]
    if view.selected and run.select is not None:
        select = run.select
        chosen = {c.group: c.chosen for c in choose(run.rows, select, run.metrics[select.metric].better)}
        shown = [row for row in shown if chosen.get(group(row, select.by)) == group(row, select.over)]
    return shown


def all_keys(rows: Sequence[Row], keys: Sequence[str], x: str | None = None) -> tuple[str, ...]:
    """The keys of a view, and those that it leaves out though variants differ in them alone: a mean over variants
    would pass for a mean over seeds."""
    found = list(keys)
    for name in dict.fromkeys(name for row in rows for name in row.variant):
        if name not in found and name != x:
            seen: dict[tuple, Any] = {}
            for row in rows:
                where = group(row, (*found, x) if x else found)
                if seen.setdefault(where, row.variant.get(name)) != row.variant.get(name):
                    found.append(name)
                    break
    return tuple(found)


def in_order(groups: Iterable[tuple]) -> list[tuple]:
    """Groups sorted by one key after the other: numbers ascending, anything else in the order of appearance."""
    groups = list(groups)
    ranks = []
    for values in zip(*groups):
        plain = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values if v is not None)
        first = list(dict.fromkeys(v for v in values if v is not None))
        ranks.append({v: i for i, v in enumerate([*(sorted(first) if plain else first), None])})
    return sorted(groups, key=lambda g: [rank[v] for rank, v in zip(ranks, g)])


def group(row: Row, keys: Sequence[str]) -> tuple:
    """The values of these keys in a row's variant; None for one that it does not have."""
    return tuple(row.variant.get(key) for key in keys)


def text(value: Any) -> str:
    """A value of a variant, as it is shown."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def name(keys: Sequence[str], values: Sequence[Any]) -> str:
    """A group in words: "online, depth 4"; "all" without keys. Text speaks for itself, numbers follow their key."""
    words = [text(v) if isinstance(v, str) else f"{k} {text(v)}" for k, v in zip(keys, values) if v is not None]
    return ", ".join(words) or "all"


def choices(run: Run) -> str:
    """A sentence on the selection; empty without a selection or rows."""
    select = run.select
    found = choose(run.rows, select, run.metrics[select.metric].better) if select else []
    if not found or select is None:
        return ""
    alike: dict[str, list[str]] = {}
    for choice in found:
        marks = [f"{text(v)}{'*' if k in choice.edge else ''}" for k, v in zip(select.over, choice.chosen)]
        chosen = ", ".join(f"{k} {mark}" for k, mark in zip(select.over, marks))
        alike.setdefault(chosen, []).append(name(select.by, choice.group))
    parts = [f"{chosen} ({'; '.join(groups) if len(alike) > 1 else 'all'})" for chosen, groups in alike.items()]
    metric = run.metrics[select.metric]
    how = "highest" if metric.better == "higher" else "lowest"
    sentence = f"Chosen by the {how} mean final {metric.label} on split {select.split}: {'; '.join(parts)}."
    return sentence + (" * at the edge of what was tried." if any(choice.edge for choice in found) else "")


def _edges(keys: Sequence[str], chosen: tuple, tried: Sequence[tuple]) -> tuple[str, ...]:
    found = []
    for i, key in enumerate(keys):
        values = {values[i] for values in tried}
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        if numbers and len(values) > 2 and chosen[i] in (min(values), max(values)):
            found.append(key)
    return tuple(found)
