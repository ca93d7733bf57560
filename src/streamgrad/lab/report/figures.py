"""Figures of a run: a metric over the steps, and its final values against a key of the variant."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass

from .plot import Line, Panel, draw
from .runs import Run
from .schema import Row, View
from .tables import label, scale
from .values import Spread, all_keys, final_values, group, in_order, name, rows_of, spread

PANELS = 9  # at most, in a figure


@dataclass(frozen=True)
class Picture:
    """A PNG with its caption, its description in words, and the numbers of its seeds."""

    png: bytes
    caption: str
    words: str
    seeds: tuple[int, int]

    @property
    def base64(self) -> str:
        """The PNG as text, for an address of data."""
        return base64.b64encode(self.png).decode()


def curves(run: Run, view: View) -> Picture | None:
    """A metric over the steps: a line of the mean over seeds, and a band from the least to the greatest of them.

    A line for each value of the view's keys, and a panel for each value of other keys in which variants differ. A
    line has a gap where a seed is not finite. None if there is no row.
    """
    metric = run.metrics[view.metrics[0]]
    rows = rows_of(run, view)
    keys = all_keys(rows, view.keys)
    found: dict[tuple, dict[int, dict[int, float]]] = {}
    for row in rows:
        found.setdefault(group(row, keys), {}).setdefault(row.step, {})[row.seed] = row.metrics[metric.name]
    lines = {}
    for g in in_order(found):
        steps = sorted(found[g])
        lines[g] = tuple(steps), tuple(spread(found[g][step].values()) for step in steps)
    return _picture(run, view, keys, lines) if lines else None


def against(run: Run, view: View) -> Picture | None:
    """Final values of a metric against the variant key `view.x`: mean over seeds, and from least to greatest. If `x`
    is another metric, there is a point for each value of the keys, at its mean.

    Lines and panels as in `curves`. Variants without the key `x` are left out, and named in the caption. None if
    there is no row.
    """
    x = view.x
    rows = [row for row in rows_of(run, view) if row.final]
    if x in run.metrics:
        return _points(run, view, rows)
    shown = [row for row in rows if row.variant.get(x) is not None]
    keys = all_keys(shown, view.keys, x)
    values = final_values(shown, view.metrics[0], (*keys, x))
    found: dict[tuple, list[tuple]] = {}
    for g in in_order(values):
        found.setdefault(g[:-1], []).append(g)
    lines = {}
    for g, places in found.items():
        lines[g] = tuple(place[-1] for place in places), tuple(spread(values[place].values()) for place in places)
    without = dict.fromkeys(name(keys, group(row, keys)) for row in rows if row.variant.get(x) is None)
    note = f" Not shown, as they have no {x}: {'; '.join(without)}." if without else ""
    return _picture(run, view, keys, lines, note) if lines else None


def _points(run: Run, view: View, rows: list[Row]) -> Picture | None:
    keys = all_keys(rows, view.keys)
    places, values = (final_values(rows, metric, keys) for metric in (view.x, view.metrics[0]))
    lines = {}
    for g in in_order(values):
        at, value = spread(places.get(g, {}).values()), spread(values[g].values())
        if at.n and value.n:
            lines[g] = (at.mean,), (value,)
    return _picture(run, view, keys, lines) if lines else None


def _picture(run: Run, view: View, keys: tuple[str, ...], lines: Mapping[tuple, tuple], note: str = "") -> Picture:
    """Draw lines, given by group as x and spreads. Each value of the keys that the view leaves out gets a panel, if
    they are not too many. Lines of the same name have the same style in all figures of the run."""
    metric, own = run.metrics[view.metrics[0]], len(view.keys)
    others = dict.fromkeys(g[own:] for g in lines)
    if not own or len(others) > PANELS:
        own, others = len(keys), {(): None}
    styles = in_order(dict.fromkeys(group(row, keys[:own]) for row in run.rows))
    panels = []
    for other in in_order(others):
        found = [
            Line(name(keys[:own], g[:own]), x, spreads, styles.index(g[:own]))
            for g, (x, spreads) in lines.items()
            if g[own:] == other
        ]
        panels.append(Panel(name(keys[own:], other) if other else "", tuple(found)))
    x_label = label(run.metrics[view.x]) if view.x in run.metrics else view.x
    png, notes = draw(metric, panels, x_label, log=view.log, steps=view.kind == "curves")
    counts = [s.n + s.lost for _, spreads in lines.values() for s in spreads]
    seeds = (min(counts), max(counts))
    named = any(isinstance(v, str | bool) for x, _ in lines.values() for v in x)
    mark, where, end = ("bars", "From the least to the greatest", _range) if named else ("bands", "At the right", _last)
    if view.x in run.metrics:
        where, end = "Value at place", lambda x, line, factor: f"{_last(x, line, factor)} at {x[-1]:.4g}"
    means = f"Means over seeds; {mark} from the least to the greatest of them." if seeds[1] > 1 else "One seed."
    ends = [f"{name(keys, g)} {end(x, line, scale(metric))}" for g, (x, line) in lines.items() if line[-1].n]
    words = f"{label(metric)} by {x_label}. {where}: {'; '.join(ends)}."
    return Picture(png, " ".join([means, *notes]) + note, words, seeds)


def _last(x: tuple, line: tuple[Spread, ...], factor: float) -> str:
    return f"{line[-1].mean * factor:.4g}"


def _range(x: tuple, line: tuple[Spread, ...], factor: float) -> str:
    """The least and the greatest mean, and whose they are."""
    found = sorted((s.mean * factor, str(value)) for value, s in zip(x, line, strict=True) if s.n)
    return " to ".join(f"{mean:.4g} ({value})" for mean, value in (found[0], found[-1]))
