"""What one would take instead of the default forecaster: nothing is learned before it has come."""

from __future__ import annotations

import dataclasses
import importlib.util

import numpy as np
import pytest

from streamgrad.lab.experiments import _rivals, _series, forecast_series

HERE = [name for name, rival in _rivals.RIVALS.items() if not rival.missing() and not name.startswith("deep")]


def seasonal_walk(n, seed=0):
    rng = np.random.default_rng(seed)
    return 50 + np.cumsum(rng.normal(size=n)) + 8 * np.sin(np.arange(n) * 2 * np.pi / 24)


@pytest.mark.parametrize("name", [name for name in HERE if name != "trees-100"])
def test_no_rival_sees_what_comes(name, horizon=3):
    y = seasonal_walk(270)
    other = np.concatenate([y[:251], 1e3 * seasonal_walk(19, 1)])  # trees are fitted at row 250
    forecast = _rivals.RIVALS[name].forecast
    with np.errstate(over="ignore", invalid="ignore"):
        said, again = forecast(y, horizon, (24,)), forecast(other, horizon, (24,))
    np.testing.assert_array_equal(said[:251], again[:251])
    assert np.isfinite(said).all() and not np.array_equal(said[251:], again[251:])


@pytest.mark.parametrize("horizon", [1, 4])
def test_trees_learn_the_pairs_that_have_come(horizon, monkeypatch):
    pytest.importorskip("sklearn")
    from sklearn import ensemble

    fits = []

    class Spy:
        def __init__(self, **settings):
            pass

        def fit(self, inputs, targets):
            fits.append((inputs, targets))

        def predict(self, inputs):
            return np.zeros(len(inputs))

    monkeypatch.setattr(ensemble, "HistGradientBoostingRegressor", Spy)
    monkeypatch.setattr(_rivals, "NEWEST", 600)
    y = seasonal_walk(1100)
    said = _rivals.trees(y, horizon, 8)
    rows, inputs = _rivals.encoded(y, horizon, 8)
    np.testing.assert_array_equal(said, rows.base)  # trees that say 0 say the last value
    assert len(fits) == 3
    for at, (seen, targets) in zip((250, 500, 1000), fits, strict=True):
        came = [t for t in range(horizon, at + 1) if t > at - 600 and np.isfinite(rows.learn[t])]
        np.testing.assert_array_equal(targets, rows.learn[came])
        np.testing.assert_array_equal(seen, inputs[[t - horizon for t in came]])


class Wild:
    """Says what is not finite, or out of all bounds."""

    def __init__(self, say):
        self.say, self.pairs = say, []

    def learn_one(self, x, y):
        self.pairs.append((x[0], y))

    def predict_one(self, x):
        return self.say


def test_an_online_rival_learns_h_rows_later_and_is_kept_within_bounds():
    y = np.array([1.0, 2.0, np.nan, 4.0, 8.0])
    model = Wild(np.inf)
    said = _rivals.raw(lambda: model, y, 2, 1)
    assert model.pairs == [(2.0, 4.0), (2.0, 8.0)]  # the value last seen, and what came two rows later
    np.testing.assert_array_equal(said, [1, 2, 2, 4, 8])
    said = _rivals.raw(lambda: Wild(1e30), y, 2, 1)
    np.testing.assert_array_equal(said, [1, 2.5, 2.5, 5.5, 11.5])


def test_a_rival_whose_package_is_not_there_is_left_out_or_refused(monkeypatch, capsys):
    gone = dataclasses.replace(_rivals.RIVALS["trees-32"], packages={"no_such_package": "no-such-package"})
    monkeypatch.setitem(_rivals.RIVALS, "trees-32", gone)
    settings = forecast_series.Settings(series=("sunspots",), horizons=(1,))
    names = {trial.variant["method"] for trial in forecast_series._trials(settings, [])}
    assert "trees-32" not in names and "RLS-32" in names
    assert "trees-32 is left out" in capsys.readouterr().err
    with pytest.raises(ValueError, match="pip install no-such-package"):
        list(forecast_series._trials(dataclasses.replace(settings, methods=("trees-32",)), []))


def test_the_frontier_counts_pairs(monkeypatch):
    ends = {"RLS-32 of 0.1": (2.0, 4.0), "default": (1.0, 1.0), "last value": (4.0, 1.0)}
    rows = [
        {
            "split": "end",
            "seed": 0,
            "variant": {"part": part, "series": series, "horizon": 1, "method": method},
            "nrmse": whole,
            "late": late + (method == "last value" and part == "held out"),
        }
        for method, (whole, late) in ends.items()
        for part, series in (("chosen on", "bank-calls"), ("held out", "sunspots"))
    ]
    written = []

    class Written:
        progress = save = load = lambda *_: None

        def write(self, seed, step, split, **values):
            written.append(values)

    stream = forecast_series.Stream("sunspots", seasonal_walk(50), 1)
    monkeypatch.setattr(forecast_series, "_stream", lambda *_: stream)
    settings = forecast_series.Settings(series=("sunspots",), horizons=(1,))
    forecast_series.frontier(settings, "last value", rows, Written())
    (found,) = written  # the last value is far off: not in the picture
    assert found["all_whole"] == pytest.approx(2) and found["all_half"] == pytest.approx(np.sqrt(1 / 4 * 2 / 4))
    assert (found["behind_chosen"], found["behind_held"]) == (0, 1) and found["alone"] > 0


@pytest.mark.skipif(importlib.util.find_spec("river") is None, reason="river is not installed")
def test_the_seasons_of_a_series_are_told_to_snarimax():
    y = np.tile(np.arange(24.0), 20)
    said = _rivals.snarimax(y, 3, (24,), p=1, sp=1, rate=0.01)
    assert np.abs(said[300:-3] - y[303:]).mean() < np.abs(y[303:] - y[300:-3]).mean() / 2
    assert _series.periods("taylor")[0] == 48
