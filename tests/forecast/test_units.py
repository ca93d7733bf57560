"""A forecaster does not mind the unit of a series, nor where its zero lies, nor wild rows: in single precision, as
`streamgrad learn` runs."""

from __future__ import annotations

import copy
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamgrad.forecast._experts import Expert
from streamgrad.forecast._target import Target

H, PERIOD = 3, 24
EXPERTS = {"RLS": Expert(lags=6), "columns": Expert("lstm columns", 2, learns="kalman", lags=6)}
BESIDE = {"RLS on lags": Expert(lags=6, far=False, forgetting=0.999)}
RNG = np.random.default_rng(0)


def _series(n: int) -> np.ndarray:
    """A daily cycle, noise and a slow walk, and a feature."""
    t = np.arange(n)
    target = 100 + 3 * np.sin(t / PERIOD * 2 * np.pi) + 0.5 * RNG.standard_normal(n)
    target += 0.1 * RNG.standard_normal(n).cumsum()
    return np.stack([target, np.cos(t / PERIOD * 2 * np.pi) + 0.1 * RNG.standard_normal(n)], axis=1)


ROWS = _series(1200)
Forecasts = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def forecasts() -> Callable[[np.ndarray], Forecasts]:
    """What each method said of each row, and the ends of an interval: one compiled program for all series."""
    with jax.enable_x64(False):
        target = Target(2, EXPERTS, BESIDE, horizon=H, period=PERIOD, levels=(0.8,), seed=0)
    kept = lambda tree: jax.tree.map(
        lambda leaf: jnp.copy(leaf) if isinstance(leaf, jax.Array) else copy.copy(leaf), tree
    )
    start = kept(target.state)

    def run(rows: np.ndarray) -> Forecasts:
        target.state = kept(start)
        said = []
        for at in range(0, len(rows), 200):
            with jax.enable_x64(False):
                said.append(target(rows[at : at + 200]))
        due, ends = (np.concatenate([getattr(each, name) for each in said]) for name in ("due", "due_ends"))
        return dict(zip((*target.methods, "lower", "upper"), (*due.T, *ends[:, 0].T), strict=True))

    return run


@pytest.fixture(scope="module")
def plain(forecasts) -> Forecasts:
    return forecasts(ROWS)


@pytest.mark.parametrize(
    "unit", [1e-12, *(pytest.param(u, marks=pytest.mark.full) for u in (1e-5, 0.3, 1e3, 1e6)), 1e12]
)
def test_forecasts_scale_with_the_unit(forecasts, plain, unit):
    for units in ([unit, 1.0], [1.0, unit], [unit, 1 / unit]):
        scaled = forecasts(ROWS * units)
        for method, values in plain.items():
            np.testing.assert_allclose(scaled[method] / units[0], values, rtol=1e-5, err_msg=method)


def test_forecasts_shift_with_the_zero(forecasts):
    whole = np.round(10 * ROWS)  # whole numbers: a billion more is exact
    for shift in ([1e9, 0.0], [-1e9, 1e9]):
        for method, values in forecasts(whole + shift).items():
            np.testing.assert_allclose(values - shift[0], forecasts(whole)[method], atol=1e-6, err_msg=method)


def _nrmse(values: np.ndarray) -> float:
    truth = ROWS[:, 0]
    half = slice(len(truth) // 2, None)
    return float(np.sqrt(np.mean((values - truth)[half] ** 2)) / truth[half].std())


def test_a_shift_that_rounds_costs_nothing(forecasts, plain):
    shifted = forecasts(ROWS + np.full(2, 1e9))
    for method, values in plain.items():
        assert _nrmse(shifted[method] - 1e9) == pytest.approx(_nrmse(values), rel=0.02), method


WILD = {
    "-9999": lambda n: np.full(n, -9999.0),
    "0": lambda n: np.zeros(n),
    "1e30": lambda n: np.full(n, 1e30),
    "random": lambda n: 1e6 * np.random.default_rng(1).standard_normal(n),
}


@pytest.mark.cross
@pytest.mark.parametrize("wild", WILD)
@pytest.mark.parametrize("count, at", [(1, 0), (3, 0), (100, 0), (1, 600), (3, 600), (100, 600)])
def test_wild_rows_are_soon_forgotten(forecasts, plain, wild, count, at):
    """Within 200 rows the error, over 50 rows, is back within twice that of a run without them; where they came first,
    within twice that of a run which begins after them. (RLS on lags after 100 random rows: 2.1 times.)"""
    rows = ROWS.copy()
    rows[at : at + count, 0] = WILD[wild](count)
    end = at + count
    square = lambda said, method: np.convolve((said[method] - ROWS[:, 0]) ** 2, np.ones(50) / 50, "valid")
    found, beside = (
        forecasts(rows),
        plain if at else forecasts(np.where(np.arange(len(ROWS))[:, None] < end, np.nan, ROWS)),
    )
    for method, times in (("network", 2), ("RLS on lags", 2.1)):
        level = square(beside, method)[-500:].mean() if at else square(beside, method)[end + 200 :].max()
        assert square(found, method)[end + 200 :].max() < times**2 * level, method


@pytest.mark.parametrize("wild", WILD)
def test_a_wild_feature_is_soon_forgotten(forecasts, plain, wild):
    for at in (0, 600):
        rows = ROWS.copy()
        rows[at : at + 3, 1] = WILD[wild](3)
        found = forecasts(rows)
        for method in ("network", "RLS on lags"):
            error = (found[method] - ROWS[:, 0])[at + 203 : at + 403]
            usual = (plain[method] - ROWS[:, 0])[-500:]
            assert np.sqrt(np.mean(error**2)) < 2 * np.sqrt(np.mean(usual**2)), (method, at)
