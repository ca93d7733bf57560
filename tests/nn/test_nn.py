"""Building blocks and readouts, against NumPy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import streamgrad as sg

KEY = jax.random.key(0)
nn = sg.nn


def drive(layer, xs):
    """All outputs of a stateful layer, one step at a time."""
    carry, ys = layer.init(key=KEY), []
    step = eqx.filter_jit(lambda carry, x: layer(carry, x))
    for x in jnp.asarray(xs):
        carry, y = step(carry, x)
        ys.append(y)
    return carry, np.stack(ys)


# Normalise.


def test_normalise_is_the_running_mean_and_variance():
    xs = np.random.default_rng(0).normal(3, 5, size=(50, 2))
    moments, ys = drive(nn.Normalise(2), xs)
    np.testing.assert_allclose(moments.mean, xs.mean(0), rtol=1e-3)
    np.testing.assert_allclose(moments.variance, xs.var(0), rtol=1e-3)
    for t in (5, 49):  # causal: of the values up to and including this one
        past = xs[: t + 1]
        np.testing.assert_allclose(ys[t], (xs[t] - past.mean(0)) / past.std(0), rtol=1e-2)


def test_normalise_forgets_at_its_decay():
    decay, xs = 0.9, np.random.default_rng(0).normal(size=(60, 1))
    moments, _ = drive(nn.Normalise(1, decay=decay), xs)
    mean = variance = 0.0
    for t, x in enumerate(xs[:, 0], start=1):
        b = min(decay, 1 - 1 / t)
        old, mean = mean, b * mean + (1 - b) * x
        variance = b * variance + (1 - b) * (x - old) * (x - mean)
    np.testing.assert_allclose([moments.mean[0], moments.variance[0]], [mean, variance], rtol=1e-10)


def test_normalise_leaves_out_what_is_not_finite():
    xs = np.array([[1.0, 2.0], [np.nan, 4.0], [3.0, np.inf], [2.0, 6.0]])
    moments, ys = drive(nn.Normalise(2), xs)
    assert moments.count.tolist() == [3, 3]
    np.testing.assert_allclose(moments.mean, [2, 4], rtol=1e-4)
    assert ys[1, 0] == 0 and ys[2, 1] == 0 and np.isfinite(ys).all()


def test_normalise_of_a_constant_is_zero_and_outliers_are_clipped():
    _, ys = drive(nn.Normalise(1, clip=3.0), np.array([[7.0]] * 20 + [[1e9]]))
    np.testing.assert_array_equal(ys[:20], 0)
    assert ys[20, 0] == 3


def test_normalise_gives_no_gradient_through_its_statistics():
    layer = nn.Normalise(1)
    carry, _ = drive(layer, np.arange(5.0)[:, None])
    slope = jax.grad(lambda x: layer(carry, x)[1].sum())(jnp.array([2.0]))
    moments, _ = layer(carry, jnp.array([2.0]))
    np.testing.assert_allclose(slope, moments.variance**-0.5)


# Lags, Parallel, Sequential.


def test_lags_are_the_last_inputs_newest_first():
    xs = np.arange(8.0).reshape(4, 2)
    _, ys = drive(nn.Lags(2, 3), xs)
    np.testing.assert_array_equal(ys[0], [0, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(ys[3], [6, 7, 4, 5, 2, 3])


def test_lags_give_a_gradient_to_the_newest_input_alone():
    layer = nn.Lags(1, 3)
    carry, _ = drive(layer, np.ones((3, 1)))
    slope = jax.jacobian(lambda x: layer(carry, x)[1])(jnp.ones(1))
    np.testing.assert_array_equal(slope[:, 0], [1, 0, 0])


def test_sequential_and_parallel_are_their_layers():
    cell = sg.cells.GRU(2, 3, key=KEY)
    layer, lags, double = sg.Recurrent(cell, sg.SnAp(n=1)), nn.Lags(2, 2), lambda x: 2 * x
    xs = np.random.default_rng(0).normal(size=(4, 2))
    _, alone = drive(layer, xs)
    _, lagged = drive(lags, xs)
    _, side = drive(nn.Parallel([layer, double, lags]), xs)
    np.testing.assert_allclose(side, np.concatenate([alone, 2 * xs, lagged], axis=1))
    _, below = drive(nn.Sequential([double, layer, jnp.tanh]), xs)
    np.testing.assert_allclose(below, np.tanh(drive(layer, 2 * xs)[1]))
    carry = nn.Sequential([double, layer]).init(key=KEY)
    assert carry[0] == () and jax.tree.structure(carry[1]) == jax.tree.structure(layer.init(key=KEY))


def test_layers_of_a_model_get_keys_of_their_own():
    class Keyed(eqx.Module):
        def init(self, *, key):
            return jax.random.key_data(key)

        def __call__(self, carry, x):
            return carry, x

    carries = nn.Parallel([Keyed(), Keyed()]).init(key=KEY)
    assert not np.array_equal(*carries)


# Readout.


def readout(feedback):
    return sg.Readout(4, 2, key=KEY, feedback=feedback)


@pytest.mark.parametrize("feedback", ["symmetric", "random", "adaptive"])
def test_a_readout_is_linear_with_the_ordinary_gradient(feedback):
    layer, h, delta = readout(feedback), jnp.arange(4.0), jnp.array([1.0, -2.0])
    np.testing.assert_allclose(layer(h), layer.weight @ h + layer.bias)
    by_layer, down = jax.grad(lambda layer, h: layer(h) @ delta, argnums=(0, 1))(layer, h)
    np.testing.assert_allclose(by_layer.weight, np.outer(delta, h))
    np.testing.assert_allclose(by_layer.bias, delta)
    way_down = layer.weight.T if feedback == "symmetric" else layer.feedback_weight
    np.testing.assert_allclose(down, way_down @ delta)
    if feedback == "random":
        assert not by_layer.feedback_weight.any()
    if feedback == "adaptive":
        np.testing.assert_allclose(by_layer.feedback_weight, np.outer(delta, h).T)


def test_adaptive_feedback_approaches_the_weights():
    """Under decay both forget their starts and keep the same updates."""
    layer, rng = readout("adaptive"), np.random.default_rng(0)
    gap = lambda layer: np.abs(layer.weight.T - layer.feedback_weight).max()
    start = gap(layer)
    for h, delta in zip(rng.normal(size=(50, 4)), rng.normal(size=(50, 2)), strict=True):
        gradient = jax.grad(lambda layer, h=h, delta=delta: layer(jnp.asarray(h)) @ delta)(layer)
        layer = jax.tree.map(lambda w, g: 0.9 * w - 0.1 * g, layer, gradient)
    assert gap(layer) < 0.01 * start


def test_a_readout_says_what_it_expects():
    with pytest.raises(ValueError, match=r"shape \(4,\), got \(3,\)"):
        readout("symmetric")(jnp.ones(3))


# Recursive least squares.


@eqx.filter_jit
def fit_all(layer, features, targets):
    arrays, static = eqx.partition(layer, eqx.is_array)

    def body(arrays, now):
        layer = eqx.combine(arrays, static)
        carry, y = layer(layer.init(key=KEY), now[0])
        return eqx.filter(layer.fit(carry, now[1]), eqx.is_array), y

    arrays, ys = jax.lax.scan(body, arrays, (features, targets))
    return eqx.combine(arrays, static), ys


def weighted(features, targets, forgetting, ridge):
    """The minimiser of Σ λ^(n-t) |y_t - Wᵀφ_t|² + ridge λ^n |W|², by np.linalg.lstsq."""
    n, p = features.shape[0], features.shape[1] + 1
    phi = np.concatenate([features, np.ones((n, 1))], axis=1)
    scale = np.sqrt(forgetting ** np.arange(n - 1, -1, -1))[:, None]
    rows = np.concatenate([scale * phi, np.sqrt(ridge * forgetting**n) * np.eye(p)])
    return np.linalg.lstsq(rows, np.concatenate([scale * targets, np.zeros((p, targets.shape[1]))]), rcond=None)[0]


@pytest.mark.parametrize(("forgetting", "ridge"), [(1.0, 1.0), (0.97, 0.1), (0.9, 0.01)])
def test_rls_is_weighted_least_squares(forgetting, ridge):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(80, 3))
    targets = features @ rng.normal(size=(3, 2)) + 0.5 + 0.1 * rng.normal(size=(80, 2))
    layer = sg.RLS(3, 2, forgetting=forgetting, ridge=ridge)
    for n in (5, 80):
        fitted, ys = fit_all(layer, jnp.asarray(features[:n]), jnp.asarray(targets[:n]))
        np.testing.assert_allclose(fitted.weight, weighted(features[:n], targets[:n], forgetting, ridge), rtol=1e-8)
    # A prediction is made before its target is seen.
    before = weighted(features[:79], targets[:79], forgetting, ridge)
    np.testing.assert_allclose(ys[79], np.append(features[79], 1) @ before, rtol=1e-8)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rls_stays_finite_without_excitation(dtype):
    """10^5 steps of one and the same input: forgetting must not wind the covariance up."""
    layer = sg.RLS(3, 1, forgetting=0.99, dtype=dtype)
    constant = jnp.ones((100_000, 3), dtype), jnp.ones((100_000, 1), dtype)
    fitted, ys = fit_all(layer, *constant)
    assert np.isfinite(fitted.weight).all() and np.isfinite(fitted.root).all()
    assert np.linalg.norm(fitted.root) <= np.linalg.norm(layer.root) * 1.001
    np.testing.assert_allclose(ys[-1], 1, rtol=1e-4)
    # It can still learn.
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.normal(size=(2000, 3)), dtype)
    again, _ = fit_all(fitted, features, features[:, :1] - 2 * features[:, 1:2])
    np.testing.assert_allclose(again.weight[:, 0], [1, -2, 0, 0], atol=1e-2)


def test_rls_leaves_out_missing_targets():
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(40, 2)), rng.normal(size=(40, 1))
    gaps = targets.copy()
    gaps[5:9] = np.nan
    layer = sg.RLS(2, 1, forgetting=1.0)
    fitted, _ = fit_all(layer, jnp.asarray(features), jnp.asarray(gaps))
    there = ~np.isnan(gaps[:, 0])
    np.testing.assert_allclose(fitted.weight, weighted(features[there], targets[there], 1.0, 1.0), rtol=1e-8)


def test_rls_fits_each_output_from_the_targets_that_it_has():
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(40, 2)), rng.normal(size=(40, 2))
    gaps = targets.copy()
    gaps[5:9, 1] = np.nan
    fitted, _ = fit_all(sg.RLS(2, 2, forgetting=1.0), jnp.asarray(features), jnp.asarray(gaps))
    np.testing.assert_allclose(fitted.weight[:, 0], weighted(features, targets, 1.0, 1.0)[:, 0], rtol=1e-8)
    assert np.isfinite(fitted.weight).all() and np.any(fitted.weight[:, 1])


def test_rls_learns_within_a_learner_while_the_layer_below_follows_its_gradient():
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(60, 2))
    targets = 2 * xs[:, :1] - xs[:, 1:]
    layer = sg.Recurrent(sg.cells.MinGRU(2, 3, key=KEY), sg.SnAp(n=1))
    model = nn.Sequential([nn.Parallel([layer, lambda x: x]), sg.RLS(5, 1, forgetting=1.0)])
    learner = sg.Learner(model, optax.sgd(1e-2), loss=sg.losses.mse)
    st, out = learner.run(learner.init(key=KEY), xs, targets)
    assert out.loss[-10:].max() < 1e-2 * out.loss[:10].max()
    after = learner.model(st).layers[0].layers[0].cell
    assert not np.array_equal(after.weight_x, layer.cell.weight_x)
    # The optimiser keeps no moments of what fits itself, and does not touch it.
    frozen = sg.Learner(model, optax.sgd(0.0), loss=sg.losses.mse)
    st, out = frozen.run(frozen.init(key=KEY), xs, targets)
    features = drive(model.layers[0], xs)[1]
    np.testing.assert_allclose(frozen.model(st).layers[1].weight, weighted(features, targets, 1.0, 1.0), rtol=1e-6)
