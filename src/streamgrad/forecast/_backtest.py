"""Several settings of a forecaster, each in one pass over the same rows."""

from __future__ import annotations

import difflib
import inspect
import itertools
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..data import SourceError
from ._feed import Held, converters, opened
from ._forecaster import Forecaster


def backtest(rows: Any, grid: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Run forecasters of several settings over the same rows, each in one pass, and give their scores, best first.

        sg.forecast.backtest("demand.csv", {"target": "demand", "horizon": [1, 24], "learner": ["mixture", "light"]})

    **Arguments:**

    - `rows`: as `Forecaster.run` takes them; they are held in memory.
    - `grid`: arguments of `Forecaster`, where a list has the values that are tried in turn (a tuple is one value), or
      a list of such mappings.

    Nothing is learned from a row before its forecast was made, so that every score is of forecasts of the future.
    Settings that share a program (all but `horizon`, `path`, learners and numbers of columns) compile once.

    A result has `settings` (what varies), `nrmse`, `nrmse_half` (of the second half), `mae`, `coverage` by level,
    `seconds`, and `beside`: the nRMSE of the second half by method. Of several targets errors are geometric means.
    Results are sorted by `nrmse_half` (`nrmse` where there are few rows).

    Of events, counts and classes `log_loss`, `log_loss_half` and their second measure stand in the stead of errors.

    Raises `ValueError` for settings that cannot be meant, before anything runs.
    """
    every: list[dict[str, Any]] = []
    for one in _grids(grid):
        varied = {name: value if isinstance(value, list) else [value] for name, value in one.items()}
        every += [dict(zip(varied, values)) for values in itertools.product(*varied.values())]
    if not every:
        raise ValueError("backtest: there is no setting to try: give grid={'target': ...} at least.")
    for settings in every:
        _check_names(settings)
    makers = [Forecaster(**settings) for settings in every]  # refuses what cannot be meant
    if len({forecaster.outcome for forecaster in makers}) > 1:
        raise ValueError("backtest: outcomes of several kinds have no score in common; run a backtest for each.")
    score = makers[0].targets[0].headline
    names = {name for settings in every for name in settings}
    same = {n for n in names if all(s.get(n, _NONE) == every[0].get(n, _NONE) for s in every)}
    kept: dict[tuple, Held] = {}
    codes: dict[tuple, np.ndarray] = {}
    found = []
    for settings, forecaster in zip(every, makers, strict=True):
        key = (forecaster.columns.names, forecaster.columns.kinds)
        if key not in kept:
            kept[key] = _held(forecaster, rows if not kept else _again(rows))
            codes[key] = forecaster.columns.classes.state
        forecaster.columns.classes.state = codes[key]
        began = time.perf_counter()
        forecaster.run(kept[key])
        result = _result(forecaster, time.perf_counter() - began)
        found.append({"settings": {n: v for n, v in settings.items() if n not in same or len(every) == 1}, **result})
    return sorted(found, key=lambda r: next((r[k] for k in (f"{score}_half", score) if r[k] == r[k]), math.inf))


_NONE = object()


def _grids(grid: Any) -> list[Mapping[str, Any]]:
    """The mappings of a grid. Raises `ValueError` for what is none."""
    grids = [grid] if isinstance(grid, Mapping) else list(grid) if isinstance(grid, Iterable) else [grid]
    for one in grids:
        if not isinstance(one, Mapping):
            raise ValueError(
                "backtest: grid must be a mapping from arguments of Forecaster to values, as {'target': 'demand', "
                f"'horizon': [1, 24]}}, or a list of such, got {one!r}."
            )
        if empty := [name for name, value in one.items() if isinstance(value, list) and not value]:
            raise ValueError(f"backtest: grid[{empty[0]!r}] is an empty list, so there is nothing to try: give values.")
    return grids


def _check_names(settings: Mapping[str, Any]) -> None:
    """Refuse a setting without a target, and one that no forecaster has."""
    known = [*inspect.signature(Forecaster).parameters]
    if "target" not in settings:
        raise ValueError(f"backtest: a setting has no target, got {dict(settings)!r}: give {{'target': ...}} at least.")
    if unknown := [name for name in settings if name not in known]:
        near = difflib.get_close_matches(str(unknown[0]), known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"backtest: a forecaster has no setting {unknown[0]!r}: {hint}It has {', '.join(known)}.")


def _held(forecaster: Forecaster, rows: Any) -> Held:
    """All rows as columns of numbers."""
    source = opened(forecaster.columns, rows)
    names = [str(name) for name in forecaster.columns.names]
    source.check(names)
    batches = [np.empty((0, len(names))), *source.read(names, convert=converters(forecaster.columns))]
    if sum(map(len, batches)) == 0:
        raise SourceError(f"{source.name} has no rows: there is nothing to try settings on.")
    held = Held(zip(names, np.concatenate(batches).T))
    held.source = source
    return held


def _again(rows: Any) -> Any:
    if iter(rows) is rows if hasattr(rows, "__iter__") else False:
        raise ValueError("backtest: settings with other columns read the rows again, and an iterator can be read once.")
    return rows


def _result(forecaster: Forecaster, seconds: float) -> dict[str, Any]:
    """Scores of one run, over all targets."""
    scores = forecaster.scores()
    each = [scores] if forecaster.alone else scores
    if forecaster.outcome != "number":
        own = {name: each[0][name]["network"] for name in forecaster.targets[0].measures}
        return {**own, "seconds": seconds, "beside": each[0]["log_loss_half"]}
    mean = lambda part: math.exp(float(np.mean(np.log([s[part]["network"] for s in each]))))
    levels = {
        i["level"]: float(np.mean([s["intervals"][k]["coverage"] for s in each]))
        for k, i in enumerate(each[0]["intervals"])
    }
    return {
        "nrmse": mean("nrmse"),
        "nrmse_half": mean("nrmse_half"),
        "mae": mean("mae"),
        "coverage": levels,
        "seconds": seconds,
        "beside": each[0]["nrmse_half"] if forecaster.alone else [s["nrmse_half"] for s in each],
    }
