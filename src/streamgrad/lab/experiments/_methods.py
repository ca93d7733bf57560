"""What makes forecasts in `forecast-series`: floors, nets learned in three ways, the default, and rivals."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from ...forecast import EXPERTS, LAGS, Default, Encoder, Expert, floors as _floors
from . import _rivals, _series

SEASONS = "seasonal last value", "longer season"


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
    for name, net, units in (("LSTM columns 8", "lstm columns", 8), ("RTU 16", "rtu", 16))
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
#: Far from all others: not in the picture.
FAR_OFF = "last value", "river, LinearRegression on raw lags"
REPEATS = 3  # of what is timed
#: Beside which the best in hindsight is chosen.
BESIDE = (*FLOORS, *(name for name in NETS if name.endswith("frozen")), "expert: reservoir")


def seconds(name: str, stream: Stream) -> float:
    """Processor time that a method takes by itself for a stream, encoding included: the least of some runs, the first
    of which compiles."""
    taken = []
    for _ in range(REPEATS):
        _forecasts.cache_clear()
        began = time.process_time()
        if name in ALONE or name.startswith("default"):
            _forecasts("without Kalman" if name == "default without Kalman" else name, stream, 0)
        else:
            METHODS[name](stream, 1)
        taken.append(time.process_time() - began)
    return min(taken)
