"""Losses through the filter: exponential families as online natural gradient, Huber's as reweighted least squares."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kalman_reference import PLAIN, flat, gru, online, trained

import streamgrad as sg
from streamgrad.train import family

KEY = jax.random.key(0)
STEPS = 30
softmax = lambda y: np.exp(y - y.max()) / np.exp(y - y.max()).sum()
sigmoid = lambda y: 1 / (1 + np.exp(-y))

# Outputs to the mean of T(y*) and its covariance, from textbooks; how a target is drawn, and its T.
FAMILIES = {
    "cross_entropy": (
        lambda y: (softmax(y), np.diag(softmax(y)) - np.outer(softmax(y), softmax(y))),
        lambda rng, mean: rng.choice(len(mean), p=mean),
        lambda target, m: np.eye(m)[target],
    ),
    "binary_cross_entropy": (
        lambda y: (sigmoid(y), np.diag(sigmoid(y) * (1 - sigmoid(y)))),
        lambda rng, mean: (rng.random(len(mean)) < mean).astype(int),
        lambda target, m: target,
    ),
    "poisson": (
        lambda y: (np.exp(y), np.diag(np.exp(y))),
        lambda rng, mean: rng.poisson(mean),
        lambda target, m: target,
    ),
}


def targets_of(name, m=3):
    rng, (moments, draw, _) = np.random.default_rng(1), FAMILIES[name]
    return np.array([draw(rng, moments(0.7 * rng.normal(size=m))[0]) for _ in range(STEPS)])


@pytest.mark.parametrize(
    ("name", "blocks"),
    [*((name, "full") for name in FAMILIES), pytest.param("cross_entropy", 100, marks=pytest.mark.full)],
)
def test_is_the_online_natural_gradient_of_a_recurrent_net(name, blocks):
    """Ollivier 2018: J ← λ (J + Hᵀ F H), θ ← θ + J⁻¹ Hᵀ (T(y*) - E[T]), over a GRU under RTRL, one step at a time."""
    model, m, lam = gru(0, 3, 3), 3, 0.98
    filter_ = sg.Kalman(blocks, prior=0.1, forgetting=lam, cap=np.inf)
    _, step = online(filter_, model, m)
    rng, (moments, _, statistic) = np.random.default_rng(0), FAMILIES[name]
    xs, targets = rng.normal(size=(STEPS, 3)), targets_of(name)
    learner = sg.Learner(model, filter_, loss=getattr(sg.losses, name))
    st, _ = learner.run(learner.init(key=KEY), xs, targets)
    theta, carry = trained(model), model.init(key=KEY)
    ends = np.cumsum([leaf.size for leaf in jax.tree.leaves(theta)])[:-1]
    vector = flat(theta)
    information = np.eye(len(vector)) / 0.1
    for x, target in zip(xs, targets, strict=True):
        leaves = [jnp.asarray(p).reshape(q.shape) for p, q in zip(np.split(vector, ends), jax.tree.leaves(theta))]
        now = jax.tree.unflatten(jax.tree.structure(theta), leaves)
        *_, carry, y, rows = step(filter_.init(theta, model, outputs=m), now, carry, x, jnp.zeros(m))
        H = np.concatenate([np.asarray(leaf).reshape(m, -1) for leaf in jax.tree.leaves(rows)], 1)
        mean, F = moments(np.asarray(y))
        seen = information + H.T @ F @ H
        vector = vector + np.linalg.solve(seen, H.T @ (statistic(target, m) - mean))
        information = lam * seen
    np.testing.assert_allclose(flat(trained(learner.model(st))), vector, rtol=0, atol=1e-9)
    assert np.abs(vector - flat(theta)).max() > 0.05


@pytest.mark.parametrize("name", FAMILIES)
def test_the_error_is_minus_the_slope_and_fisher_its_curvature(name):
    """T(y*) - E[T] and F are what differentiation makes of the loss (which is linear in T: its Hessian is F)."""
    loss, m = getattr(sg.losses, name), 3
    y, target = 0.5 * jax.random.normal(KEY, (m,)), jnp.asarray(targets_of(name)[0])
    count = 1 if target.ndim == 0 else m  # the losses are means
    found = family(loss)(y, target)
    np.testing.assert_allclose(found.error, -count * jax.grad(loss)(y, target), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.fisher, count * jax.hessian(loss)(y, target), rtol=0, atol=1e-12)
    assert found.given.all() and found.weight is None


def readout(outputs):
    return sg.nn.Sequential([sg.Readout(3, outputs, key=KEY)])


def test_counts_learn_a_rate_from_far_away():
    """Counts of a thousand from a rate of 1: no step overshoots for long, and none overflows."""
    learner = sg.Learner(readout(1), sg.Kalman(prior=1.0), loss=sg.losses.poisson)
    xs, targets = np.ones((60, 3)), np.full((60, 1), 1000.0)
    st, out = learner.run(learner.init(key=KEY), xs, targets)
    np.testing.assert_allclose(out.prediction[-1], np.log(1000), atol=0.1)
    assert st.skipped == 0 and np.abs(np.diff(out.prediction[:, 0])).max() <= 6 + 1e-4
    # A prediction beyond all rates: the loss stays finite, and it comes down.
    far = eqx.tree_at(lambda m: m.layers[0].bias, readout(1), jnp.full(1, 900.0))
    st, out = learner.run(learner.init(key=KEY, model=far), xs, targets)
    assert np.isfinite(np.asarray(out.loss)).all() and st.skipped == 0
    assert (np.diff(out.prediction[:, 0]) < 0).all()


def test_a_missing_count_is_a_missing_row():
    """NaN among numbers, negative among integers: as if that output were not there, and the other one learned alone."""
    xs = np.random.default_rng(0).normal(size=(STEPS, 3))
    counts = targets_of("poisson", 2)
    holed = counts.copy()
    holed[::2, 1] = -1
    as_numbers = np.where(holed < 0, np.nan, holed)
    learner = sg.Learner(readout(2), sg.Kalman(), loss=sg.losses.poisson)
    ends = []
    for targets in (holed, as_numbers):
        st, out = learner.run(learner.init(key=KEY), xs, targets)
        ends.append(flat(trained(learner.model(st))))
        assert out.learned.all()
    np.testing.assert_array_equal(*ends)
    st, out = learner.run(learner.init(key=KEY), xs, np.full((STEPS, 2), -1))
    assert not out.learned.any() and np.isnan(np.asarray(out.loss)).all()
    np.testing.assert_array_equal(flat(trained(learner.model(st))), flat(trained(readout(2))))


def test_streams_of_counts_are_rows_of_one_filter():
    """Two streams of two counts: the Fisher matrix of each stands in its place of the joint one."""
    xs, counts = np.random.default_rng(0).normal(size=(STEPS, 2, 3)), targets_of("poisson", 4).reshape(STEPS, 2, 2)
    learner = sg.Learner(readout(2), sg.Kalman(prior=0.1, forgetting=1.0), loss=sg.losses.poisson, streams=2)
    st, _ = learner.run(learner.init(key=KEY), xs, counts)
    vector = flat(trained(readout(2)))
    information = np.eye(8) / 0.1
    for x, count in zip(xs, counts, strict=True):
        H = np.concatenate([np.c_[np.kron(np.eye(2), each), np.eye(2)] for each in x])
        rate = np.exp(H @ vector)
        information = information + H.T @ (rate[:, None] * H)
        vector = vector + np.linalg.solve(information, H.T @ (count.ravel() - rate))
    np.testing.assert_allclose(flat(trained(learner.model(st))), vector, rtol=0, atol=1e-9)


def test_huber_is_iteratively_reweighted_least_squares():
    """A row of error e has the noise R max(1, |e|); R follows the weighted squares. Beside NumPy, with missing rows."""
    rng = np.random.default_rng(0)
    xs, targets = rng.normal(size=(STEPS, 3)), 2 * rng.standard_t(1.5, size=(STEPS, 2))
    targets[4, 1] = np.nan
    numbers = {"prior": 0.1, "forgetting": 0.98, "clip": 2.0, "cap": 1.1, "noise_decay": 0.9}
    learner = sg.Learner(readout(2), sg.Kalman(**numbers), loss=sg.losses.huber)
    st, _ = learner.run(learner.init(key=KEY), xs, targets)
    theta, P, R = flat(trained(readout(2))), 0.1 * np.eye(8), np.ones(2)
    for x, y in zip(xs, targets, strict=True):
        there = np.isfinite(y)
        H = np.c_[np.kron(np.eye(2), x), np.eye(2)][there]
        e = y[there] - H @ theta
        w = np.where(np.abs(e) > 1, 1 / np.abs(e), 1)
        S = np.diag(R[there] / w) + H @ P @ H.T
        K = P @ H.T @ np.linalg.inv(S)
        limit = 2 * np.sqrt(np.diag(S))
        theta, P = theta + K @ np.clip(e, -limit, limit), P - K @ S @ K.T
        c = np.sqrt(np.minimum(1 / 0.98, 0.11 / np.diag(P)))
        P = c[:, None] * P * c
        R[there] = np.maximum(0.9 * R[there] + 0.1 * np.minimum(w * e**2, 4 * R[there] + 1e-3), 1e-3)
    np.testing.assert_allclose(flat(trained(learner.model(st))), theta, rtol=0, atol=1e-10)
    np.testing.assert_allclose(st.memory.update.kalman.noise, R, rtol=0, atol=1e-10)
    # w is the slope of the loss over the error: the quadratic that touches it.
    errors = jnp.array([-3.0, -0.5, 0.2, 1.0, 7.0])
    found = family(sg.losses.huber)(jnp.zeros(5), errors)
    np.testing.assert_allclose(found.weight * errors, -5 * jax.grad(sg.losses.huber)(jnp.zeros(5), errors), atol=1e-6)


def test_outliers_do_not_carry_huber_away():
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(400, 3))
    clean = xs @ np.array([[0.3, -0.2, 0.1]]).T + 0.05 * rng.normal(size=(400, 1))
    numbers = {"prior": 0.1, "forgetting": 1.0, **PLAIN, "noise": 1.0}

    def learned(loss, targets):
        learner = sg.Learner(readout(1), sg.Kalman(**numbers), loss=loss)
        st, _ = learner.run(learner.init(key=KEY), xs, targets)
        return flat(trained(learner.model(st)))[:3]

    wild = np.where(rng.random((400, 1)) < 0.2, clean + 30 * xs[:, :1], clean)
    truth = np.array([0.3, -0.2, 0.1])
    far = {loss: np.abs(learned(getattr(sg.losses, loss), wild) - truth).max() for loss in ("huber", "mse")}
    assert far["huber"] < 0.1 * far["mse"]


def test_refusals_name_the_losses():
    with pytest.raises(
        TypeError, match=r"mse, .*cross_entropy, .*binary_cross_entropy, .*poisson, sg.losses.huber, got"
    ):
        sg.Learner(readout(1), sg.Kalman(), loss=sg.losses.mae)
