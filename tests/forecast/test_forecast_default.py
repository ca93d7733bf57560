"""The default forecaster: its experts against NumPy, and what no stream may do to it."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from streamgrad.forecast._default import Default
from streamgrad.forecast._encoder import Encoder
from streamgrad.forecast._experts import Expert

H = 2
SMALL = {
    "RLS": Expert(lags=6, far=False),
    "reservoir": Expert("rtu", 3, lags=6),
    "columns": Expert("lstm columns", 2, learns="kalman", lags=6),
    "Adam": Expert("lstm columns", 2, learns="adam", lags=6, far=False, patient=False),
}


def _series(n=700, seed=0):
    """A season of 24 rows, and values missing here and there."""
    rng, t = np.random.default_rng(seed), np.arange(n)
    y = 50 + 3 * np.sin(2 * np.pi * t / 24) + np.sin(2 * np.pi * t / 5) + 0.3 * rng.standard_normal(n)
    y[rng.random(n) < 0.02] = np.nan
    return y


def _forecasts(y, cut=None):
    """Everything that is said of a series, in its unit, and the forecaster."""
    encoder = Encoder(lags=6, horizon=H)
    default = Default(SMALL, encoder)
    out = []
    for at in range(0, len(y), cut or len(y)):
        encoded = encoder(y[at : at + (cut or len(y)), None])
        out.append(encoded.base[:, None] + encoded.scale[:, None] * default(encoded))
    return np.concatenate(out), default


@pytest.fixture(scope="module")
def whole():
    return _forecasts(_series())


def test_every_expert_learns(whole):
    y, (said, default) = _series(), whole
    assert default.names == (*SMALL, "weighted", "stacked", "mixture")
    error = np.sqrt(np.nanmean((said[:-H] - y[H:, None])[400:] ** 2, axis=0))
    last = np.sqrt(np.nanmean((y[H:] - y[:-H])[400:] ** 2))
    assert (error < 0.6 * last).all()  # six lags alone do not reach back a season
    assert (error[[1, 2, -1]] < 0.3 * last).all()
    assert error[-1] < 1.05 * error.min()


def test_an_expert_without_a_net_is_recursive_least_squares(whole):
    y, (said, _) = _series(), whole
    encoder = Encoder(lags=6, horizon=H)
    encoded = encoder(y[:, None])
    x = np.concatenate([encoded.inputs[:, encoder.parts["lags"]], encoded.inputs[:, :1], np.ones((len(y), 1))], axis=1)
    w, p, noise = np.zeros(8), 0.01 * np.eye(8), 1.0
    for t in range(len(y)):
        if t >= H and np.isfinite(encoded.learn[t]):
            then = x[t - H]
            error, gain = encoded.learn[t] - w @ then, p @ then
            spread = noise * H**0.5 + then @ gain
            clipped = np.clip(error, -3 * np.sqrt(spread), 3 * np.sqrt(spread))
            w = w + gain * clipped / spread
            p = p - np.outer(gain, gain) / spread
            c = np.sqrt(np.minimum(1 / 0.9995, 0.3 / np.diag(p)))
            p = p * np.outer(c, c)
            noise = max(0.99 * noise + 0.01 * min(error**2, 9 * noise + 1e-3), 1e-3)
        np.testing.assert_allclose(said[t, 0], encoded.base[t] + encoded.scale[t] * (w @ x[t]), rtol=1e-8)


def test_the_same_bits_in_whatever_portions(whole):
    for cut in (7,):
        np.testing.assert_array_equal(_forecasts(_series(), cut)[0], whole[0])


def test_the_future_changes_nothing_before(whole):
    y = _series()
    y[500:] = 1e7
    np.testing.assert_array_equal(_forecasts(y)[0][:500], whole[0][:500])


@pytest.mark.parametrize("unit", [1e-12, 1e12])
def test_units_change_nothing(unit, whole):
    np.testing.assert_allclose(_forecasts(_series() * unit)[0] / unit, whole[0], rtol=1e-5)


@pytest.mark.parametrize(("at", "many"), [(0, 100), (0, 3), (400, 100)])
def test_wild_rows_are_forgotten(at, many):
    y = _series(1000)
    wild = y.copy()
    wild[at : at + many] = -9999
    error = lambda y: np.abs(_forecasts(y)[0][:-H, -1] - y[H:])
    clean, seen = error(y), error(wild)
    after = slice(at + many + 200, None)
    assert np.nanmean(seen[after]) < 2 * np.nanmean(clean[after])


def test_a_stuck_sensor_breaks_nothing():
    y = np.concatenate([_series(), np.full(1500, 50.0), _series(seed=1)])
    said, default = _forecasts(y)
    assert np.isfinite(said).all()
    assert np.nanmean(np.abs(said[-400:-H, -1] - y[-400 + H :])) < 1
    for known in default.memory.experts:
        assert np.linalg.eigvalsh(np.asarray(known.filter.covariance[0][0])).min() > 0


def test_weights_of_a_period_begin_anew():
    y = _series()
    _, default = _forecasts(y[:150])
    encoder = Encoder(lags=6, horizon=H)
    encoder(y[:150, None])
    encoded = encoder(y[150:151, None])
    assert encoded.anew[0, 0]
    gone = np.zeros(encoder.size, bool)
    gone[encoder.parts["short"]] = True
    before = default.memory.experts[1]
    anew = lambda columns: default._program.anew(jax.tree.map(lambda a: a.copy(), default.memory), columns)
    after = anew(gone).experts[1]
    # Inputs that still wait for their target had the old meaning: they teach nothing of the new one.
    lags = np.zeros(encoder.size, bool)
    lags[encoder.parts["lags"]] = True
    old = np.asarray(default.memory.inputs)
    assert old[:, lags].any()
    np.testing.assert_array_equal(anew(lags).inputs, np.where(lags, 0, old))
    size = len(before.arrays.weight)
    end = size - 1 - 10  # the constant and the long period's columns are the last
    part = slice(end - 9, end)
    rest = np.delete(np.arange(size), np.arange(size)[part])
    assert not np.asarray(after.arrays.weight)[part].any()
    np.testing.assert_array_equal(after.arrays.weight[rest], before.arrays.weight[rest])
    (p,), (old,) = after.filter.covariance[0], before.filter.covariance[0]
    np.testing.assert_array_equal(p[part, part], 0.01 * np.eye(9))
    assert not np.asarray(p)[part][:, rest].any()
    np.testing.assert_array_equal(np.asarray(p)[np.ix_(rest, rest)], np.asarray(old)[np.ix_(rest, rest)])


def test_lags_that_the_encoder_does_not_have_are_refused():
    with pytest.raises(ValueError, match="7 lags, and the encoder has 6"):
        Default({"RLS": Expert(lags=7)}, Encoder(lags=6))
