"""Two short series, three rows ahead, scored as deep-river's forecasting track scores them."""

# river and deep-river are optional, and not in the environment that is checked.
# pyright: reportMissingImports=false

from __future__ import annotations

import csv
import dataclasses
import functools
import gzip
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...forecast import EXPERTS, LAGS, Default, Encoder, floors as _floors
from . import _paths, _rivals
from ._experiment import Experiment, Recorder, Row, Trial
from ._settings import at_least, some

HORIZON, GRACE = 3, 12
STEPS = HORIZON + 1  # the track compares a forecast of steps 1 to 3 with steps 2 to 4
SETS: dict[str, tuple[str, str, int | None]] = {
    "trump-approval": ("trump_approval.csv.gz", "five_thirty_eight", None),
    "airline-passengers": ("airline-passengers.csv", "passengers", 12),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """deep-river's forecasting track."""

    sets: tuple[str, ...] = tuple(SETS)
    """trump-approval, airline-passengers."""
    methods: tuple[str, ...] = ()
    """Names of methods; none: all."""
    folder: str = ""
    """Folder with trump_approval.csv.gz and airline-passengers.csv; that of the installed river if not given."""
    seeds: int = 2
    """Repetitions of what draws weights."""

    def __post_init__(self):
        some(self, "sets")
        at_least(1, self, "seeds")
        for kind, names, known in (("set", self.sets, SETS), ("method", self.methods, METHODS)):
            for name in names:
                if name not in known:
                    raise ValueError(f"no {kind} {name!r}: there are {', '.join(known)}.")


def read(name: str, folder: str) -> np.ndarray:
    """The target of a set. Raises `ValueError` where the file is not."""
    file, column, _ = SETS[name]
    spec = importlib.util.find_spec("river")
    places = spec.submodule_search_locations if spec else None
    path = Path(folder) / file if folder or not places else Path(places[0]) / "datasets" / file
    if not path.is_file():
        raise ValueError(f"set {name!r} is the file {file} of the package river: pip install river, or give --folder.")
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8", newline="") as lines:
        return np.array([float(row[column]) for row in csv.DictReader(lines)])


#: From a series, its period if it is told, and a seed to forecasts of the rows 1 to 4 after each row.
Method = Callable[[np.ndarray, int | None, int], np.ndarray]


def last_value(y: np.ndarray, period: int | None, seed: int) -> np.ndarray:
    """The last value."""
    return np.repeat(y[:, None], STEPS, axis=1)


def seasonal(y: np.ndarray, period: int | None, seed: int) -> np.ndarray:
    """The value of the last season; the last value where no period is told."""
    if period is None:
        return last_value(y, period, seed)
    return np.stack([_floors.seasonal(y, ahead, period) for ahead in range(1, STEPS + 1)], axis=1)


def snarimax(y: np.ndarray, period: int | None, seed: int) -> np.ndarray:
    """river's SNARIMAX of the track: one lag of the differences, and one of a season of twelve."""
    from river import time_series

    model, said = time_series.SNARIMAX(p=1, d=1, q=0, m=12, sp=1), np.empty((len(y), STEPS))
    for t, value in enumerate(y.tolist()):
        model.learn_one(value)
        said[t] = model.forecast(STEPS)
    return said


@functools.lru_cache(maxsize=4)
def _default(y: tuple[float, ...], period: int | None, seed: int) -> np.ndarray:
    said, values = [], np.array(y)
    for ahead in range(1, STEPS + 1):
        encoder = Encoder(lags=LAGS, horizon=ahead, period=period)
        forecaster = Default(EXPERTS, encoder, seed=seed)
        encoded = encoder(values[:, None])
        said.append(encoded.base + encoded.scale * forecaster(encoded)[:, -1])
    return np.stack(said, axis=1)


def default(y: np.ndarray, period: int | None, seed: int) -> np.ndarray:
    """The default forecaster, one for each step."""
    return _default(tuple(y.tolist()), period, seed)


def trusted(y: np.ndarray, period: int | None, seed: int) -> np.ndarray:
    """The default forecaster, followed as far as it has deserved."""
    return _paths.trusted(default(y, period, seed)[:, None], y[:, None])[:, 0]


METHODS: dict[str, Method] = {
    "last value": last_value,
    "seasonal last value": seasonal,
    "river, SNARIMAX": snarimax,
    "default": default,
    "default, as far as trusted": trusted,
}
DRAWN = ("default", "default, as far as trusted")


def errors(y: np.ndarray, said: np.ndarray) -> dict[str, float]:
    """Mean absolute errors from row 12 on, over three steps.

    - `track`: river's way: a forecast of steps 1 to 3 made at row t - 1, beside the values of rows t + 1 to t + 3,
      which are steps 2 to 4 of it;
    - `meant`: the forecasts of those steps, made at the same row;
    - `after`: the forecast of steps 1 to 3 made at row t, beside the same values."""
    truth = np.lib.stride_tricks.sliding_window_view(y[1:], HORIZON)[GRACE:]  # of rows t = 12, 13, ...
    before, at = said[GRACE - 1 :][: len(truth)], said[GRACE:][: len(truth)]
    mean = lambda forecasts: float(np.mean(np.abs(forecasts - truth)))
    return {"track": mean(before[:, :HORIZON]), "meant": mean(before[:, 1:]), "after": mean(at[:, :HORIZON])}


def run(settings: Settings, name: str, method: str, recorder: Recorder) -> None:
    """One trial: one method on one set."""
    y = read(name, settings.folder)
    for seed in range(settings.seeds if method in DRAWN else 1):
        said = METHODS[method](y, SETS[name][2], seed)
        recorder.write(seed, len(y), "end", final=True, **errors(y, said))


def _trials(settings: Settings, rows: list[Row]) -> Iterator[Trial]:
    missing = _rivals.RIVALS["river, SNARIMAX"].missing()
    if missing and "river, SNARIMAX" in settings.methods:
        raise ValueError(f"river, SNARIMAX needs a package that is not installed: pip install {missing}")
    if missing and not settings.methods:
        print(f"river, SNARIMAX is left out: pip install {missing} brings it", file=sys.stderr)
    for name in settings.sets:
        for method in settings.methods or METHODS:
            if not (missing and method == "river, SNARIMAX"):
                yield Trial({"set": name, "method": method}, functools.partial(run, settings, name, method))


def _views(settings: Settings) -> list[dict[str, Any]]:
    table = {"view": "table", "title": "Mean absolute error", "rows": ["set", "method"], "split": "end"}
    return [{**table, "metrics": ["track", "meant", "after"]}]


def _lower(label: str) -> dict[str, Any]:
    return {"label": label, "better": "lower", "floors": {}}


EXPERIMENT = Experiment(
    name="deep-river-track",
    title="deep-river's forecasting track",
    about="Trump's approval (daily, 1,001 rows) and airline passengers (monthly, 144 rows), three rows ahead, from "
    "row 12 on. river's evaluation asks for a forecast before a row is learned, and compares its steps 1 to 3 with "
    "values that are 2 to 4 rows ahead: that is the track's error. Beside it stand the error of forecasts of those "
    "very steps, and that of a forecast made once the row is learned. The files lie in the package river.",
    duration="5 minutes",
    config=Settings(),
    quick=Settings(methods=("last value", "seasonal last value"), seeds=1),
    trials=_trials,
    metrics={
        "track": _lower("as the track scores"),
        "meant": _lower("by the steps that it scores"),
        "after": _lower("once the row is learned"),
    },
    views=_views,
)
