"""One forecast from several: against NumPy, with experts that go bad, are exact, constant, late or not there."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamgrad.train._mixing import CLIP, EPSILON, Mixing, Stacking, Weighting

STEPS, EXPERTS = 1500, 4


@functools.cache
def stream(horizon=1.0, dtype=float):
    """A compiled mixing over a stream: forecasts of rows, weights, states."""
    mixing = Mixing(horizon=horizon)

    @jax.jit
    def run(forecasts, targets):
        def step(state, now):
            experts, target = now
            made = mixing.forecast(state, experts)
            weights = mixing.weights(state, experts)
            return mixing.update(state, made, target), (made.forecast, made.both, weights, state.experts)

        return jax.lax.scan(step, mixing.init(EXPERTS, dtype), (forecasts, targets))

    return run


def rows(seed=0, noise=(0.3, 0.5, 0.8, 1.2)):
    rng = np.random.default_rng(seed)
    y = np.cumsum(rng.normal(size=STEPS))
    return y[:, None] + rng.normal(size=(STEPS, EXPERTS)) * np.array(noise), y


def naive(forecasts, targets, eta=10.0, rho=0.01, h=1.0):
    """The rules in NumPy, one row after another, with a dense filter for the regression."""
    k = forecasts.shape[1]
    m, both, beta, P, R = np.full(k, np.inf), np.full(2, np.inf), np.zeros(k), 0.01 * np.eye(k), 1.0
    v = last = np.nan
    made = []

    def weights(m, there):
        if not np.isfinite(m).all():
            return there / max(there.sum(), 1)
        base = m[there].min() if there.any() else 0
        w = np.where(there, np.exp(-eta / np.sqrt(h) * (m - base) / (m.min() + EPSILON * np.nan_to_num(v) + 1e-154)), 0)
        return w / max(w.sum(), 2e-308)

    def learned(m, losses):
        there = np.isfinite(losses)
        if not there.any():
            return m
        begun = np.isfinite(m).all()
        clip = CLIP * (m.min() if begun else losses[there].min()) + EPSILON * np.nan_to_num(v)
        clip = clip if clip > 0 else losses[there].max()
        losses = np.where(there, np.minimum(losses, clip), clip)
        return (1 - rho) * m + rho * losses if begun else losses

    def parts(f, there, mean):
        unit = np.sqrt(np.nan_to_num(v) * h) + 1e-154
        return unit, np.where(there, np.clip((f - mean) / unit, -10, 10), 0)

    for f, y in zip(forecasts, targets, strict=True):
        there = np.isfinite(f)
        w = weights(m, there)
        a = w[there] @ f[there] if there.any() else np.nan
        mean = f[there].mean() if there.any() else np.nan
        unit, d = parts(f, there, mean)
        pair = np.array([a, mean + unit * beta @ d])
        ok = np.isfinite(pair)
        made.append(weights(both, ok)[ok] @ pair[ok] if ok.any() else np.nan)
        if np.isfinite(y):
            change = (y - last) ** 2
            if np.isfinite(change):
                v = change if not v > 0 else (1 - rho) * v + rho * min(change, CLIP * v)
            last = y
        m, both = learned(m, (y - f) ** 2), learned(both, (y - pair) ** 2)
        unit, d = parts(f, there, mean)
        error = (y - mean) / unit - beta @ d
        if np.isfinite(error) and v > 0:
            S = R * np.sqrt(h) + d @ P @ d
            beta = beta + P @ d / S * np.clip(error, -3 * np.sqrt(S), 3 * np.sqrt(S))
            P = P - np.outer(P @ d, P @ d) / S
            c = np.sqrt(np.minimum(1 / 0.9998, 0.3 / np.diag(P)))
            P = c[:, None] * P * c
            R = max(0.99 * R + 0.01 * min(error**2, 9 * R + 1e-3), 1e-3)
    return np.array(made), m, beta


@pytest.mark.parametrize("horizon", [1.0, 24.0])
def test_numpys_numbers(horizon):
    """With a late expert, one that is not there at times, missing targets and an outlier."""
    forecasts, y = rows()
    rng = np.random.default_rng(1)
    forecasts[:200, 1] = np.nan
    forecasts[rng.random(STEPS) < 0.2, 2] = np.inf
    forecasts[400] = np.nan
    y[rng.random(STEPS) < 0.1] = np.nan
    forecasts[700, 0] = 1e9
    state, (made, *_) = stream(horizon)(forecasts, y)
    want, m, beta = naive(forecasts, y, h=horizon)
    np.testing.assert_allclose(made, want, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(state.experts, m, rtol=1e-10)
    np.testing.assert_allclose(state.stacking.coefficients, beta, rtol=0, atol=1e-10)
    assert np.isnan(made[400]) and np.isfinite(np.delete(made, 400)).all()


def error(made, y, rows=slice(200, None)):
    return np.sqrt(np.mean((np.asarray(made) - y)[rows] ** 2))


def test_better_than_the_best_expert():
    """Independent errors: the regression finds the weights of least variance, as far as its prior lets it."""
    forecasts, y = rows()
    made = stream()(forecasts, y)[1][0]
    assert error(made, y) < 0.98 * error(forecasts[:, 0], y)


def test_follows_a_change_of_the_best():
    forecasts, y = rows()
    half = STEPS // 2
    forecasts[half:, 0] += 5 * np.random.default_rng(2).normal(size=STEPS - half)
    _, (made, _, weights, _) = stream()(forecasts, y)
    assert weights[half - 1, 0] > 0.9
    late = np.flatnonzero(np.asarray(weights[half:, 0]) < 0.5)[0]
    assert late < 40
    assert error(made, y, slice(half + 100, None)) < 1.1 * error(forecasts[:, 1], y, slice(half + 100, None))


@pytest.mark.parametrize("case", ["exact", "constant", "missing", "late", "all alike", "still"])
@pytest.mark.parametrize("dtype", [np.float32, float])
def test_stays_finite_and_good(case, dtype):
    forecasts, y = rows()
    if case == "exact":
        forecasts[:, 3] = y
    if case == "constant":
        forecasts[:, 0] = 7
    if case == "missing":
        forecasts[:, 0] = np.nan
    if case == "late":
        forecasts[: STEPS // 2, 0] = np.nan
    if case == "all alike":
        forecasts[:] = forecasts[:, :1]
    if case == "still":  # a stuck sensor, which all experts but one know
        y[:], forecasts[:] = 3, 3
        forecasts[:, 2] = 4
    state, (made, _, weights, _) = stream(1.0, dtype)(forecasts.astype(dtype), y.astype(dtype))
    for leaf in jax.tree.leaves((state.experts, state.stacking, state.both, made)):
        assert np.isfinite(leaf).all()
    np.testing.assert_allclose(np.asarray(weights, float).sum(1), 1, rtol=0, atol=1e-5)
    best = min(error(f, y) for f in forecasts.T if np.isfinite(f).all())
    assert error(made, y) <= 1.02 * best + 1e-2
    if case == "exact":
        assert error(made, y) < 1e-3
    if case == "missing":
        assert (np.asarray(weights[:, 0]) == 0).all()
    if case == "late":
        assert weights[-1, 0] > 0.8


def test_one_outlier_costs_no_row():
    """One bad forecast of the best expert, and one bad target: weights are nearly as before."""
    forecasts, y = rows()
    clean = stream()(forecasts, y)[1][2]
    once = forecasts.copy()
    once[900, 0] += 1e6
    after = stream()(once, y)[1][2]
    assert np.abs(after[901:] - clean[901:]).max() < 0.25 and after[901, 0] > 0.5
    outlier = y.copy()
    outlier[900] += 1e6
    after = stream()(forecasts, outlier)[1][2]
    assert np.abs(after[902:] - clean[902:]).max() < 0.1


def test_mapped_over_targets():
    forecasts, y = rows()
    both = jax.vmap(stream())(np.stack([forecasts, 2 * forecasts[:, ::-1]]), np.stack([y, 2 * y]))
    one = stream()(forecasts, y)
    np.testing.assert_allclose(both[1][0][0], one[1][0], rtol=0, atol=1e-9)


def test_equal_until_all_have_a_loss():
    rule = Weighting()
    there, v = jnp.array([True, True, False]), jnp.zeros(())
    np.testing.assert_allclose(rule.weights(rule.init(3), there, v), [0.5, 0.5, 0])
    np.testing.assert_allclose(rule.weights(rule.init(3), ~(there | True), v), 0)
    stacking = Stacking()
    assert np.isnan(stacking.forecast(stacking.init(2), jnp.full(2, jnp.nan), v))
