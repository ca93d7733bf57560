"""A missing entry is no part of the model: beside the same step with that entry left out."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import streamgrad as sg

KEY = jax.random.key(0)
IN, HIDDEN, OUT = 2, 3, 4
losses = sg.losses


class Net(eqx.Module):
    """Two linear layers without a recurrence: cheap to compile; `logits`: so many numbers for each output."""

    low: jax.Array
    high: jax.Array
    bias: jax.Array

    def __init__(self, logits=()):
        a, b, c = jax.random.split(KEY, 3)
        self.low = jax.random.normal(a, (HIDDEN, IN))
        self.high = jax.random.normal(b, (OUT, *logits, HIDDEN))
        self.bias = jax.random.normal(c, (OUT, *logits))

    def init(self, *, key):
        return ()

    def __call__(self, carry, x):
        return carry, self.high @ (self.low @ x) + self.bias


WEIGHTS = np.array([1.0, 2.0, 0.5, 3.0])
FLOATS = np.array([0.3, 1.7, -0.4, 0.8])
BITS = np.array([1, 0, 1, 1])
CLASSES = np.array([2, 0, 1, 2])


def pinball(prediction, target):
    error = target - prediction
    return jnp.maximum(0.9 * error, -0.1 * error)


def cross_entropies(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


# name: loss, target, whether it is of classes
LOSSES = {
    "mse": (losses.mse, FLOATS),
    "mae": (losses.mae, FLOATS),
    "huber": (losses.huber, FLOATS),
    "binary_cross_entropy": (losses.binary_cross_entropy, BITS.astype(float)),
    "counts": (losses.poisson, BITS.astype(float)),
    "counts, integers": (losses.poisson, BITS),
    "binary_cross_entropy, integers": (losses.binary_cross_entropy, BITS),
    "cross_entropy": (losses.cross_entropy, CLASSES),
    "declared": (losses.entrywise(pinball), FLOATS),
    "sum": (lambda p, t: jnp.sum((p - t) ** 2), FLOATS),
    "mean": (lambda p, t: jnp.mean(jnp.abs(p - t)), FLOATS),
    "mean of mae": (lambda p, t: 2 * losses.mae(p, t), FLOATS),
    "sum of binary cross-entropies": (
        lambda p, t: jnp.sum(optax.sigmoid_binary_cross_entropy(p, t)),
        BITS.astype(float),
    ),
    "mean of binary cross-entropies": (
        lambda p, t: jnp.mean(optax.sigmoid_binary_cross_entropy(p, t)),
        BITS.astype(float),
    ),
    "mean of cross-entropies": (lambda p, t: jnp.mean(cross_entropies(p, t)), CLASSES),
    "sum of cross-entropies": (lambda p, t: jnp.sum(cross_entropies(p, t)), CLASSES),
    "poisson": (lambda p, t: jnp.sum(jnp.exp(p) - t * p), FLOATS),
}
GAPS = [(1,), (0, 3), (0, 1, 2)]


def without(target, gap):
    """The target with missing entries, in the way of its type."""
    target = target.copy()
    target[list(gap)] = -1 if target.dtype.kind == "i" else np.nan
    return target


@functools.cache
def learner(name, **options):
    loss, target = LOSSES[name]
    model = Net((3,) if target is CLASSES else ())
    return model, sg.Learner(model, optax.sgd(1.0), loss=loss, **options)


def left_out(model, loss, x, target, gap):
    """Value and gradient of the loss of a model that has no such outputs."""
    kept = np.array([i for i in range(OUT) if i not in gap])
    return eqx.filter_value_and_grad(lambda model: loss(model((), x)[1][kept], jnp.asarray(target)[kept]))(model)


@pytest.mark.parametrize("name", LOSSES)
def test_a_missing_entry_is_left_out(name):
    """By value and by gradient: nothing is learned of what was not given, and all of what was."""
    loss, target = LOSSES[name]
    model, taught = learner(name)
    x = jnp.array([0.7, -1.2])
    for gap in GAPS:
        st, out = taught.step(taught.init(key=KEY), x, without(target, gap))
        value, gradient = left_out(model, loss, x, target, gap)
        np.testing.assert_allclose(out.loss, value, rtol=1e-12)
        assert out.learned and st.skipped == 0
        for got, was, slope in zip(*map(jax.tree.leaves, (taught.model(st), model, gradient)), strict=True):
            np.testing.assert_allclose(was - got, slope, rtol=1e-9, atol=1e-14)
        assert not np.any(taught.model(st).bias[np.array(gap)] - model.bias[np.array(gap)])
    st, out = taught.step(taught.init(key=KEY), x, without(target, range(OUT)))
    assert np.isnan(out.loss) and not out.learned and st.skipped == 0
    np.testing.assert_array_equal(taught.model(st).low, model.low)


def test_a_weighted_sum_is_left_out_entry_by_entry():
    """A loss that knows its entries one by one."""
    loss = lambda p, t: jnp.sum(jnp.asarray(WEIGHTS) * (p - t) ** 2)
    model, x, gap = Net(), jnp.array([0.7, -1.2]), (1, 2)
    taught = sg.Learner(model, optax.sgd(1.0), loss=loss)
    st, out = taught.step(taught.init(key=KEY), x, without(FLOATS, gap))
    kept = np.array([0, 3])
    value = lambda model: jnp.sum(WEIGHTS[kept] * (model((), x)[1][kept] - FLOATS[kept]) ** 2)
    np.testing.assert_allclose(out.loss, value(model), rtol=1e-12)
    gradient = eqx.filter_grad(value)(model)
    np.testing.assert_allclose(model.low - taught.model(st).low, gradient.low, rtol=1e-9)


WHOLE = {
    "root": lambda p, t: jnp.sqrt(jnp.mean((p - t) ** 2)),
    "distribution": lambda p, t: optax.softmax_cross_entropy(p, t),
    "cosine": lambda p, t: optax.cosine_distance(p, t),
    "largest": lambda p, t: jnp.max(jnp.abs(p - t)),
    "bounded": lambda p, t: jnp.minimum(jnp.mean((p - t) ** 2), 50.0),
}


@pytest.mark.parametrize("loss", WHOLE.values(), ids=WHOLE)
def test_a_loss_that_cannot_be_taken_apart_learns_from_whole_targets_alone(loss):
    model, x = Net(), jnp.array([0.7, -1.2])
    taught = sg.Learner(model, optax.sgd(1.0), loss=loss)
    st, out = taught.step(taught.init(key=KEY), x, without(FLOATS, (1,)))
    assert np.isnan(out.loss) and not out.learned and st.skipped == 0
    np.testing.assert_array_equal(taught.model(st).low, model.low)
    st, out = taught.step(st, x, FLOATS)
    np.testing.assert_allclose(out.loss, loss(model((), x)[1], jnp.asarray(FLOATS)), rtol=1e-12)
    assert out.learned


NUMBERS = {
    "mse": (losses.mse, {}),
    "mae": (losses.mae, {}),
    "huber": (losses.huber, {}),
    "custom": (lambda p, t: jnp.sum((p - t) ** 2), {}),
    "late": (losses.mse, dict(delay=1)),
    "window": (losses.mse, dict(update_every=2, chunked=True)),
}


@pytest.mark.parametrize(("loss", "options"), NUMBERS.values(), ids=NUMBERS)
def test_negative_integers_are_numbers_to_a_loss_of_numbers(loss, options):
    """Counts, differences: as the same numbers with a point."""
    counts = np.array([[-3, 2, 0, -1], [4, -5, -1, 1], [-2, -2, 3, 0]])
    xs = np.array([[0.7, -1.2], [0.1, 0.4], [-0.5, 1.0]])
    model = sg.nn.Sequential([Layer(), Net()]) if options else Net()
    taught = sg.Learner(model, optax.sgd(0.1), loss=loss, **options)
    st, out = taught.run(taught.init(key=KEY), xs, counts)
    other, want = taught.run(taught.init(key=KEY), xs, counts.astype(float))
    np.testing.assert_array_equal(out.loss, want.loss)
    assert np.isfinite(out.loss[options.get("delay", 0) :]).all() and out.learned[-1] == want.learned[-1]
    np.testing.assert_array_equal(jax.tree.leaves(taught.model(st))[-1], jax.tree.leaves(taught.model(other))[-1])


class Layer(eqx.Module):
    """A layer that passes its input on, with a plain call."""

    def __call__(self, x):
        return x


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64])
def test_labels_of_any_integer_type_come_late(dtype):
    """What an early step has no target for is missing, also where the type has no sign."""
    model, xs = Net((3,)), np.ones((3, IN))
    taught = sg.Learner(model, optax.sgd(0.1), loss=losses.cross_entropy, delay=2)
    _, out = taught.run(taught.init(key=KEY), xs, np.stack([CLASSES] * 3).astype(dtype))
    np.testing.assert_array_equal(out.learned, [False, False, True])
    want = losses.cross_entropy(model((), jnp.ones(IN))[1], jnp.asarray(CLASSES))
    np.testing.assert_allclose(out.loss[2], want)


def test_one_stream_without_a_target_leaves_the_others_alone():
    """A loss whose slope is infinite where prediction and target agree."""
    loss = lambda p, t: jnp.sum(jnp.sqrt(jnp.abs(p - t)))
    taught = sg.Learner(Net(), optax.sgd(0.1), loss=loss, streams=2)
    targets = np.stack([FLOATS, np.full(OUT, np.nan)])
    st, out = taught.step(taught.init(key=KEY), np.ones((2, IN)), targets)
    assert out.learned.tolist() == [True, False] and st.skipped == 0


def test_a_layer_that_fits_itself_hears_of_missing_bits():
    """Least squares on bits: -1 is no bit."""
    model = sg.nn.Sequential([sg.RLS(IN, 2, forgetting=1.0)])
    taught = sg.Learner(model, optax.sgd(0.1), loss=losses.binary_cross_entropy)
    rng = np.random.default_rng(0)
    xs, bits = rng.normal(size=(20, IN)), rng.integers(0, 2, (20, 2))
    gaps = np.where(rng.random(bits.shape) < 0.3, -1, bits)
    st, _ = taught.run(taught.init(key=KEY), xs, gaps)
    got = taught.model(st).layers[0].weight
    np.testing.assert_allclose(got, least_squares(xs, np.where(gaps < 0, np.nan, gaps)), rtol=1e-8)


# Recursive least squares.


def least_squares(features, targets, forgetting=1.0, ridge=1.0):
    """For each output the ridge regression on the rows in which it was given; rows age with those alone."""
    phi = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    columns = []
    for y in targets.T:
        there = np.isfinite(y)
        n, a = there.sum(), phi[there]
        weights = forgetting ** np.arange(n - 1, -1, -1)
        gram = (a * weights[:, None]).T @ a + ridge * forgetting**n * np.eye(a.shape[1])
        columns.append(np.linalg.solve(gram, (a * weights[:, None]).T @ y[there]))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("forgetting", [1.0, 0.95])
def test_rls_is_least_squares_on_what_each_output_was_given(forgetting):
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(60, IN))
    targets = xs @ rng.normal(size=(IN, 3)) + 0.1 * rng.normal(size=(60, 3))
    targets[rng.random(targets.shape) < 0.5] = np.nan
    layer = sg.RLS(IN, 3, forgetting=forgetting)
    fit = jax.jit(lambda layer, x, y: layer.fit(layer(jnp.zeros(IN + 1), x)[0], y))
    for x, y in zip(xs, targets, strict=True):
        layer = fit(layer, jnp.asarray(x), jnp.asarray(y))
    np.testing.assert_allclose(layer.weight, least_squares(xs, targets, forgetting), rtol=1e-7)


def test_rls_with_one_covariance_fits_whole_targets():
    rng = np.random.default_rng(0)
    xs, targets = rng.normal(size=(30, IN)), rng.normal(size=(30, 3))
    targets[rng.random(targets.shape) < 0.2] = np.nan
    layer = sg.RLS(IN, 3, forgetting=1.0, shared=True)
    assert layer.root.shape == (IN + 1, IN + 1)
    for x, y in zip(xs, targets, strict=True):
        layer = layer.fit(layer(jnp.zeros(IN + 1), jnp.asarray(x))[0], jnp.asarray(y))
    whole = np.isfinite(targets).all(1)
    np.testing.assert_allclose(layer.weight, least_squares(xs[whole], targets[whole]), rtol=1e-8)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_rls_is_not_poisoned_by_one_feature(bad):
    """Of a caller that does not skip such steps as the learner does."""
    layer = sg.RLS(IN, 2)
    fit = lambda layer, x: layer.fit(layer(jnp.zeros(IN + 1), jnp.asarray(x))[0], jnp.array([x[0], np.nan]))
    layer = fit(fit(layer, [1.0, 2.0]), [bad, 1.0])
    for x in np.random.default_rng(0).normal(size=(30, 2)):
        layer = fit(layer, [*x])
    assert all(np.isfinite(leaf).all() for leaf in (layer.weight, layer.root))
    np.testing.assert_allclose(layer.weight[0, 0], 1, atol=0.1)
    assert not np.any(layer.weight[:, 1])
