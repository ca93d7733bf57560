"""What the files of a run folder may hold: metrics, views, the selection, rows; checked as they are read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SCHEMA = 1  # of run.json
KINDS = {"table": "rows", "curves": "by", "against": "by"}  # views, and what holds their keys
OWN = ("variant", "seed", "step", "split", "final")  # of a row; any other number is a metric


@dataclass(frozen=True)
class Metric:
    """A measured quantity. `better` is "lower", "higher" or None; `floors` are values to beat, by name.
    With `percent`, it is a share from 0 to 1 that is shown in percent."""

    name: str
    label: str
    better: str | None = None
    floors: Mapping[str, float] | None = None
    percent: bool = False


@dataclass(frozen=True)
class View:
    """A view of results: a table, curves over steps, or final values against a variant key. A table shows `metrics` of
    the final rows, a line for each value of `keys`; curves count steps in `x`, one for each value of `keys`; final
    values stand against the variant key `x`. `selected`: see `Selection`."""

    kind: str
    title: str
    split: str
    metrics: tuple[str, ...]
    keys: tuple[str, ...]
    x: str = "step"
    log: bool = False
    note: str = ""
    selected: bool = False


@dataclass(frozen=True)
class Selection:
    """A selection of variants: for each value of `by`, the values of `over` with the best final metric. The best is by
    the final mean of `metric` on `split`; views with `selected` show only the chosen ones."""

    by: tuple[str, ...]
    over: tuple[str, ...]
    metric: str
    split: str


@dataclass(frozen=True)
class Row:
    """Metrics of one variant with one seed, after so many steps; NaN stands for what was not finite."""

    variant: Mapping[str, Any]
    seed: int
    step: int
    split: str
    metrics: Mapping[str, float]
    final: bool

    @property
    def key(self) -> tuple:
        """The variant, as something that can be a key."""
        return tuple(sorted(self.variant.items(), key=lambda item: item[0]))


def get(data: Any, name: str, kind: Any, *default: Any) -> Any:
    """A field of an object; a default, if one is given, stands in for a field that is null or missing.

    Raises `ValueError` when the field is missing or is not of this kind, with what came and what was expected.
    """
    words = {str: "text", dict: "an object", list: "a list", int: "a whole number", bool: "true or false"}
    if not isinstance(data, dict):
        raise ValueError(f"{_short(data)} stands where an object with {name!r} was expected")
    value = data.get(name)
    if value is None and default:
        return default[0]
    if name not in data:
        raise ValueError(f"it has no {name!r}, {words[kind]}")
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{name!r} is {_short(value)}, expected {words[kind]}")
    return value


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else f"{text[:57]}..."


def _texts(data: Any, name: str) -> tuple[str, ...]:
    values = get(data, name, list)
    if not all(isinstance(value, str) for value in values):
        raise ValueError(f"{name!r} is {_short(values)}, expected a list of text")
    return tuple(values)


def _number(name: str, value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name!r} is {_short(value)}, expected a number or null")
    return float(value) if math.isfinite(value) else math.nan


def read_metric(name: str, data: Any) -> Metric:
    """A metric from its entry in run.json. Raises `ValueError` as `get` does."""
    better = get(data, "better", str, None)
    if better not in (None, "lower", "higher"):
        raise ValueError(f"'better' of the metric {name!r} is {better!r}, expected 'lower' or 'higher'")
    floors = {label: _number(label, value) for label, value in get(data, "floors", dict, {}).items()}
    percent = get(data, "percent", bool, False)
    return Metric(name, get(data, "label", str, name), better, floors, percent)


def _known(name: str, metrics: Mapping[str, Metric], where: str) -> str:
    if name not in metrics:
        raise ValueError(f"{where} asks for the metric {name!r}, and 'metrics' has {', '.join(metrics) or 'none'}")
    return name


def read_selection(data: Any, metrics: Mapping[str, Metric]) -> Selection | None:
    """The selection, or None when there is none. Raises `ValueError` as `get` does, and for an unknown metric."""
    if data is None:
        return None
    name = _known(get(data, "metric", str), metrics, "'select'")
    if metrics[name].better is None:
        raise ValueError(f"'select' goes by the metric {name!r}, which has no 'better'")
    return Selection(_texts(data, "by"), _texts(data, "over"), name, get(data, "split", str))


def read_view(number: int, data: Any, metrics: Mapping[str, Metric], select: Selection | None) -> View:
    """The view with this number. Raises `ValueError` as `get` does, and for what is not in the run."""
    kind = get(data, "view", str)
    if kind not in KINDS:
        raise ValueError(f"view {number} is a {kind!r}, expected one of {', '.join(KINDS)}")
    names = _texts(data, "metrics") if kind == "table" else (get(data, "metric", str),)
    selected = get(data, "selected", bool, False)
    if selected and select is None:
        raise ValueError(f"view {number} shows what was selected, and there is no 'select'")
    return View(
        kind=kind,
        title=get(data, "title", str),
        split=get(data, "split", str),
        metrics=tuple(_known(name, metrics, f"view {number}") for name in names),
        keys=_texts(data, KINDS[kind]),
        x=get(data, "x", str) if kind == "against" else get(data, "x", str, "step"),
        log=get(data, "log", bool, False),
        note=get(data, "note", str, ""),
        selected=selected,
    )


def read_row(data: Any, metrics: Mapping[str, Metric]) -> Row:
    """A row of results.jsonl. Raises `ValueError` as `get` does, and where a metric is not a number or null."""
    variant = get(data, "variant", dict)
    for name, value in variant.items():
        if isinstance(value, dict | list):
            raise ValueError(
                f"{name!r} of the variant is {_short(value)}, expected text, a number, true, false or null"
            )
    is_metric = lambda k, v: k not in OWN and (k in metrics or v is None or type(v) in (int, float))
    return Row(
        variant=variant,
        seed=get(data, "seed", int),
        step=get(data, "step", int),
        split=get(data, "split", str),
        metrics={name: _number(name, value) for name, value in data.items() if is_metric(name, value)},
        final=get(data, "final", bool, False),
    )
