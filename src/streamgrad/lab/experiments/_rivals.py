"""What one would take instead: boosted trees of scikit-learn, river's forests and regressions, deep-river's networks.

Each is a function of a whole series, a horizon h and the series' seasons: the forecast that it makes at row t, for row
t + h. A pair of inputs and target is learned when the target has come, h rows later. A forecast that is not finite
counts as the last value. What needs a package that is not installed is left out: `missing` says so in a sentence.
"""

# river and deep-river are optional, and not in the environment that is checked.
# pyright: reportMissingImports=false

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ...forecast import Encoder, floors as _floors

EVERY, NEWEST = 1000, 8000  # rows from one fit of trees to the next, and rows that it sees
FIRST = (250, 500)  # fits before these
WINDOW = 16  # changes that a network of deep-river sees in turn


@runtime_checkable
class Online(Protocol):
    """A model of river."""

    def learn_one(self, x: dict, y: float) -> None: ...

    def predict_one(self, x: dict) -> float: ...


def encoded(y: np.ndarray, horizon: int, lags: int) -> tuple[Any, np.ndarray]:
    """A series as least squares on lags sees it: the newest changes in units of their size, and the level."""
    encoder = Encoder(lags=lags, horizon=horizon)
    rows = encoder(y[:, None])
    return rows, np.concatenate([rows.inputs[:, encoder.parts["lags"]], rows.inputs[:, :1]], axis=1)


def trees(y: np.ndarray, horizon: int, lags: int, *, relative: bool = False, **settings) -> np.ndarray:
    """Boosted trees, fitted anew at 250, 500 and every 1,000 rows on the newest 8,000; at first the last value.

    `relative`: past values are told by their distance from the newest one, instead of by changes; `settings`: of
    scikit-learn's HistGradientBoostingRegressor."""
    from sklearn.ensemble import HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits

    rows, inputs = encoded(y, horizon, lags)
    if relative:
        inputs = np.concatenate([np.cumsum(inputs[:, :-1], axis=1), inputs[:, -1:]], axis=1)
    n, said = len(y), np.zeros(len(y))
    fits = [row for row in (*FIRST, *range(EVERY, n, EVERY)) if row < n]
    for begin, end in zip(fits, [*fits[1:], n], strict=True):
        came = np.arange(max(begin + 1 - NEWEST, horizon), begin + 1)  # targets, up to the row's own
        came = came[np.isfinite(rows.learn[came])]
        if len(came) > 1:
            fitted = HistGradientBoostingRegressor(random_state=0, **settings)
            with threadpool_limits(1):  # threads wait for each other where other jobs run
                fitted.fit(inputs[came - horizon], rows.learn[came])
                said[begin:end] = fitted.predict(inputs[begin:end])
    return rows.base + rows.scale * said


def online(model: Online, inputs: np.ndarray, learn: np.ndarray, horizon: int) -> np.ndarray:
    """What a model says at each row, having learned from the pairs that are known by then."""
    waiting, said = [dict(enumerate(x)) for x in inputs.tolist()], np.zeros(len(inputs))
    for t, x in enumerate(waiting):
        if t >= horizon and math.isfinite(learn[t]):
            model.learn_one(waiting[t - horizon], float(learn[t]))
        said[t] = model.predict_one(x)
    return said


def kept(said: np.ndarray, y: np.ndarray, horizon: int) -> np.ndarray:
    """Forecasts within the range of what was seen, half of its width added on either side."""
    last = _floors.last_value(y, horizon)
    low, high = np.fmin.accumulate(last), np.fmax.accumulate(last)
    margin = (high - low) / 2
    return np.clip(np.where(np.isfinite(said), said, last), low - margin, high + margin)


def direct(make: Callable[[], Online], y: np.ndarray, horizon: int, lags: int) -> np.ndarray:
    """A model of river on the inputs, the scale and the targets of least squares."""
    rows, inputs = encoded(y, horizon, lags)
    return kept(rows.base + rows.scale * online(make(), inputs, rows.learn, horizon), y, horizon)


def raw(make: Callable[[], Online], y: np.ndarray, horizon: int, lags: int) -> np.ndarray:
    """A model of river on the newest values as they come, in their unit."""
    last = _floors.last_value(y, horizon)
    windows = np.lib.stride_tricks.sliding_window_view(np.concatenate([np.full(lags - 1, np.nan), last]), lags)
    return kept(online(make(), np.nan_to_num(windows[:, ::-1], nan=0.0), y, horizon), y, horizon)


def snarimax(y: np.ndarray, horizon: int, periods: Sequence[int], *, p: int, sp: int, rate: float) -> np.ndarray:
    """river's SNARIMAX on differences, with lags of the season where the series has one."""
    from river import linear_model, optim, preprocessing, time_series

    regressor = preprocessing.StandardScaler() | linear_model.LinearRegression(optimizer=optim.SGD(rate))
    season = {"m": periods[0], "sp": sp} if periods else {}
    model = time_series.SNARIMAX(p=p, d=1, q=0, **season, regressor=regressor)
    said = np.full(len(y), np.nan)
    for t, value in enumerate(_floors.last_value(y, horizon).tolist()):
        if math.isfinite(value):
            model.learn_one(value)
            said[t] = model.forecast(horizon)[-1] if len(model.y_hist) == model.y_hist.maxlen else value
    return kept(said, y, horizon)


def forest() -> Online:
    """river's aggregated Mondrian forest."""
    from river import forest

    return forest.AMFRegressor(seed=0)


def bayesian(smoothing: float | None = None) -> Online:
    """river's Bayesian linear regression."""
    from river import linear_model

    return linear_model.BayesianLinearRegression(smoothing=smoothing)


def linear(rate: float) -> Online:
    """river's linear regression by stochastic gradients, on scaled inputs."""
    from river import linear_model, optim, preprocessing

    return preprocessing.StandardScaler() | linear_model.LinearRegression(optimizer=optim.SGD(rate))


def unscaled() -> Online:
    """river's linear regression as it is."""
    from river import linear_model

    return linear_model.LinearRegression()


def gru(rate: float, units: int = 16) -> Online:
    """A GRU over the newest changes under Adam, in deep-river."""
    import torch
    from deep_river.regression import Regressor

    class Net(torch.nn.Module):
        def __init__(self, units: int):
            super().__init__()
            self.gru, self.head = torch.nn.GRU(1, units), torch.nn.Linear(units + 1, 1)

        def forward(self, x):
            _, last = self.gru(x[:, :WINDOW].flip(1).T[:, :, None])
            return self.head(torch.cat([last[0], x[:, WINDOW:]], dim=1))

    torch.manual_seed(0)
    torch.set_num_threads(1)
    return Regressor(Net(units), loss_fn="mse", optimizer_fn="adam", lr=rate, seed=0)


@dataclasses.dataclass(frozen=True)
class Rival:
    """`forecast(series, horizon, seasons)`, and the packages that it needs: names to import, names to install."""

    forecast: Callable[[np.ndarray, int, Sequence[int]], np.ndarray]
    packages: dict[str, str]

    def missing(self) -> str:
        """The missing packages, by their names on PyPI; empty if all are there."""
        return " ".join(there for name, there in self.packages.items() if importlib.util.find_spec(name) is None)


RIVER, DEEP = {"river": "river"}, {"river": "river", "torch": "torch", "deep_river": "deep-river"}


def _direct(make, lags, packages=RIVER):
    return Rival(lambda y, horizon, periods: direct(make, y, horizon, lags), packages)


def _trees(lags):
    return Rival(lambda y, horizon, periods: trees(y, horizon, lags), {"sklearn": "scikit-learn"})


RIVALS: dict[str, Rival] = {
    "trees-32": _trees(32),
    "trees-100": _trees(100),
    "river, AMFRegressor": _direct(forest, 32),
    "river, SNARIMAX": Rival(lambda *series: snarimax(*series, p=6, sp=2, rate=0.001), RIVER),
    "river, BayesianLinearRegression": _direct(bayesian, 32),
    "river, LinearRegression": _direct(functools.partial(linear, 0.001), 32),
    "river, LinearRegression on raw lags": Rival(lambda y, h, periods: raw(unscaled, y, h, 32), RIVER),
    "deep-river, GRU": _direct(functools.partial(gru, 1e-3), WINDOW, DEEP),
}
