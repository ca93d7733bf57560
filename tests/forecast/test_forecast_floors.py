"""The floors of the default forecaster, against plain definitions."""

from __future__ import annotations

import numpy as np
import pytest

from streamgrad.forecast import floors as floors


def _series(n=400, seed=0):
    rng = np.random.default_rng(seed)
    y = 20 + np.sin(np.arange(n) / 4) + 0.1 * rng.standard_normal(n)
    y[rng.random(n) < 0.03] = np.nan
    return y


def test_simple_floors():
    y = np.array([np.nan, 3.0, 5.0, np.nan, 4.0, 8.0])
    np.testing.assert_array_equal(floors.last_value(y, 2), [np.nan, 3, 5, 5, 4, 8])
    np.testing.assert_allclose(floors.running_mean(y, 2), [np.nan, 3, 4, 4, 4, 5])
    # At row t for row t + 1, two rows earlier: row t - 1.
    np.testing.assert_array_equal(floors.seasonal(y, 1, 2), [np.nan, 3, 3, 5, 5, 4])
    np.testing.assert_array_equal(floors.seasonal(y, 2, 2), floors.last_value(y, 2))


def test_least_squares_is_weighted_ridge_regression():
    rng = np.random.default_rng(1)
    n, h, prior = 200, 3, 1e3
    x = rng.standard_normal((n, 4))
    u = np.concatenate([np.full(h, np.nan), x[:-h] @ [1.0, -2, 0.5, 0]]) + rng.standard_normal(n)
    u[50:60] = np.nan
    said = floors.least_squares(x, u, h, prior=prior, fair=False)
    for t in (20, 55, 150, n - 1):
        known = [s for s in range(h, t + 1) if np.isfinite(u[s])]
        weights = 0.999 ** (len(known) - 1 - np.arange(len(known)))
        a, b = x[[s - h for s in known]], u[known]
        # The prior is forgotten like a row before the first.
        left = (a * weights[:, None]).T @ a + np.eye(4) / prior * 0.999 ** len(known)
        w = np.linalg.solve(left, (a * weights[:, None]).T @ b)
        np.testing.assert_allclose(said[t], x[t] @ w, rtol=1e-5)


def test_the_past_reference_stays_what_it_was():
    """Numbers of the command line's floor at version 0.1, by its own code."""
    said = floors.rls_of_0_1(_series(), 3, 8)
    np.testing.assert_allclose(
        said[[30, 200, 399]], [20.84165058796648, 20.21396140136654, 19.89339455243596], rtol=1e-9
    )


@pytest.mark.cross
@pytest.mark.parametrize("name", floors.floors((24,)))
@pytest.mark.parametrize("horizon", [1, 5])
def test_no_floor_sees_the_future(name, horizon):
    method, *rest = floors.floors((24,))[name]
    y, at = _series(), 250
    later = y.copy()
    later[at:] = 1e5
    before, after = (method(series, horizon, *rest) for series in (y, later))
    np.testing.assert_array_equal(after[:at], before[:at])
    assert np.isfinite(before[10:]).all() and len(before) == len(y)


def test_a_fair_start_survives_wild_rows_and_a_stuck_sensor():
    y = np.concatenate([[-9999.0] * 3, _series(600), [20.0] * 2000, _series(600, seed=2)])
    said = floors.rls(y, 2, 8)
    error = np.abs(said[:-2] - y[2:])
    assert np.nanmedian(error[250:600]) < 0.3 and np.nanmax(error[-500:]) < 2 and error[700:2500].max() < 5e-3
