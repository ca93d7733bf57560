"""Paths of several channels under the leak-free protocol of DSOF: a sample is learned from when all of it has come."""

from __future__ import annotations

import csv
import dataclasses
import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...data import open_source
from . import _paths
from ._experiment import Experiment, Recorder, Row, Trial
from ._settings import at_least, some

MONTH = 30 * 24
#: Ends of the train part, of the validation part and of the test part: rows, or shares of the file.
ETT = (4 * MONTH, 5 * MONTH, 20 * MONTH)
OTHERS = (0.2, 0.25, 1.0)
SETS: dict[str, tuple[str, tuple]] = {
    "etth1": ("etth1.csv", ETT),
    "etth2": ("etth2.csv", ETT),
    "exchange": ("exchange_rate.csv", OTHERS),
    "ettm1": ("ettm1.csv", OTHERS),
    "weather": ("weather.csv", OTHERS),
    "seattle-weather": ("", OTHERS),  # bundled
}
#: What draws weights stands last, so that each seed is run once.
METHODS = (
    "last value",
    "RLS on 96 changes",
    "own past",
    "all channels",
    "slow",
    "reservoir",
    "mixture",
    "trusted mixture",
)
DRAWN = ("reservoir", "mixture", "trusted mixture")
#: What the mixture mixes.
MIXED = ("last value", "own past", "all channels", "slow", "reservoir")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Paths under the leak-free protocol."""

    sets: tuple[str, ...] = ("etth2", "exchange")
    """etth1, etth2, exchange, ettm1, weather: files of the folder; seattle-weather is bundled."""
    folder: str = "data"
    """Folder with etth1.csv, etth2.csv, exchange_rate.csv, ettm1.csv, weather.csv: those that are wanted."""
    horizons: tuple[int, ...] = (1, 24, 48)
    """Steps of a path; the error is the mean over all of them."""
    scored: Literal["test", "validation"] = "test"
    """The part that is scored. Settings are chosen on validation parts, and on etth1."""
    seeds: int = 2
    """Repetitions of what draws weights."""

    def __post_init__(self):
        some(self, "sets", "horizons")
        at_least(1, self, "horizons", "seeds")
        for name in self.sets:
            if name not in SETS:
                raise ValueError(f"no set {name!r}: there are {', '.join(SETS)}.")
        if self.scored not in ("test", "validation"):
            raise ValueError(f"scored is test or validation, got {self.scored!r}.")


@dataclasses.dataclass(frozen=True, eq=False)
class Protocol:
    """A data set, standardised by its train part; scored rows begin at row `begin`."""

    values: _paths.Series
    begin: int

    def error(self, said: _paths.Paths) -> float:
        """The mean square error over all steps and channels of the paths that lie in the scored part as a whole."""
        steps = said.shape[2]
        origins = slice(self.begin - 1, len(self.values) - steps)
        return float(np.mean((said - _paths.following(self.values, steps))[origins] ** 2))


def protocol(raw: np.ndarray, ends: tuple, scored: str) -> Protocol:
    """The protocol on the rows of a set. `ends`: of its parts, in rows or as shares."""
    n = len(raw)
    # Validation and test are counted from the end, as DSOF does: a share is cut down to whole rows.
    shares = int(ends[0] * n), n - int((1 - ends[1]) * n), n
    train, validation, test = shares if ends[-1] == 1.0 else (min(end, n) for end in ends)
    begin, end = (validation, test) if scored == "test" else (train, validation)
    if not 1 < train < validation < test:
        raise ValueError(f"a set of {n} rows has no parts that end at {ends}.")
    deviation = raw[:train].std(axis=0)
    values = (raw - raw[:train].mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
    return Protocol(values[:end], begin)


def read(name: str, folder: str) -> np.ndarray:
    """All columns of a set but the date. Raises `ValueError` where the file is not."""
    file = SETS[name][0]
    if not file:
        columns = ("precipitation", "temp_max", "temp_min", "wind")
        return np.concatenate(list(open_source(name).read(columns)))
    path = Path(folder) / file
    if not path.is_file():
        raise ValueError(f"set {name!r} is the file {file}, which the folder {folder!r} has not: give --folder.")
    with open(path, encoding="utf-8", newline="") as lines:
        head, *rows = csv.reader(lines)
    first = 1 if head[0].lower() == "date" else 0
    return np.array([[float(text) for text in row[first:]] for row in rows])


@functools.lru_cache(maxsize=2)
def _protocol(name: str, folder: str, scored: str) -> Protocol:
    return protocol(read(name, folder), SETS[name][1], scored)


@functools.lru_cache(maxsize=1)
def _fixed(name: str, folder: str, scored: str, steps: int) -> tuple[_paths.Inputs, dict[str, _paths.Paths], float]:
    """What is seen, and what is said by all that draws nothing, of one set; and the seconds that it took."""
    values = _protocol(name, folder, scored).values
    began = time.perf_counter()
    seen = _paths.Inputs(values, steps)
    return seen, _paths.experts(values, steps, seen), time.perf_counter() - began


@functools.lru_cache(maxsize=2)
def _said(name: str, folder: str, scored: str, steps: int, seed: int) -> tuple[dict[str, _paths.Paths], float]:
    """Everything that is said of one set, and the seconds that it took, compiling included."""
    seen, said, seconds = _fixed(name, folder, scored, steps)
    began = time.perf_counter()
    said = said | {"reservoir": _paths.reservoir(seen, seed)}
    said["mixture"] = _paths.mixed({name: said[name] for name in MIXED}, seen.values)
    said["trusted mixture"] = _paths.trusted(said["mixture"], seen.values)
    return said, seconds + time.perf_counter() - began


def run(settings: Settings, name: str, steps: int, method: str, recorder: Recorder) -> None:
    """One trial: one method on one set; all of them are made together."""
    rules = _protocol(name, settings.folder, settings.scored)
    n = len(rules.values)
    for seed in range(settings.seeds if method in DRAWN else 1):
        said, seconds = _said(name, settings.folder, settings.scored, steps, seed)
        error, last = rules.error(said[method]), rules.error(said["last value"])
        timed = {"micros": seconds / n * 1e6} if method == METHODS[-1] else {}
        recorder.write(seed, n, "end", final=True, mse=error, over=error / last, **timed)


def _trials(settings: Settings, rows: list[Row]) -> Iterator[Trial]:
    for name in settings.sets:
        for steps in settings.horizons:
            for method in METHODS:
                variant = {"set": name, "steps": steps, "method": method}
                yield Trial(variant, functools.partial(run, settings, name, steps, method))


def _views(settings: Settings) -> list[dict[str, Any]]:
    table = {"view": "table", "title": "Error over all steps and channels", "rows": ["set", "steps", "method"]}
    return [{**table, "metrics": ["mse", "over"], "split": "end"}]


EXPERIMENT = Experiment(
    name="online-forecast",
    title="Paths of several channels, learned without a leak",
    about="The protocol of DSOF (Lau et al., ICLR 2025): channels standardised by the train part, every row of the "
    "test part a path of all steps ahead, the error over all steps and channels, and a sample learned from when its "
    "whole path has come. Beside repeating the last value stand least squares on each channel's own 96 changes, and a "
    "mixture for each channel and step of filters whose steps share a covariance, followed as far as it has deserved. "
    "Settings were chosen on validation parts and on etth1 (--scored validation, --sets etth1).",
    duration="15 minutes",
    config=Settings(),
    quick=Settings(sets=("seattle-weather",), horizons=(1, 3), seeds=1),
    trials=_trials,
    metrics={
        "mse": {"label": "mean square error", "better": "lower", "floors": {}},
        "over": {"label": "over the last value's", "better": "lower", "floors": {}},
        "micros": {"label": "µs a row by the clock, all experts and channels", "better": "lower", "floors": {}},
    },
    views=_views,
)
