"""The Kalman filter whose inverse covariance is a diagonal and a part of low rank (LO-FI)."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kalman_reference import PLAIN, dense, flat, gru, lofi, measured, naive, stream, trained, weights

import streamgrad as sg
from streamgrad.train._kalman import Kalman
from streamgrad.train._low_rank import LowRank, kept


@pytest.mark.parametrize("r", [1, 3])
@pytest.mark.parametrize("rank", [1, 4])
def test_is_its_dense_definition(rank, r):
    """With clip, bound, adaptive noise, missing rows; steps without any row change nothing, to the bit."""
    p, steps = 10, 50
    numbers: dict[str, Any] = {"clip": 1.5, "cap": 1.2, "noise_decay": 0.9}
    start, theta, run = stream(Kalman(rank, prior=0.7, forgetting=0.98, **numbers), p, r)
    hs, ys, given = measured(2, steps, r, p)
    hs[:, :, 0] = 0  # nothing is learned of it: its variance grows as far as it may
    given[7] = False
    ys[given & (np.arange(steps)[:, None] == 20)] += 100  # one outlier, clipped
    (state, theta), (states, thetas) = run(start, theta, hs, ys, given)
    want, P, noise = lofi(hs, ys, given, 0.7, 0.98, 1.0, rank, clip=1.5, cap=1.2, decay=0.9)
    np.testing.assert_allclose(flat(theta), want, rtol=0, atol=1e-10)
    np.testing.assert_allclose(dense(state), P, rtol=0, atol=1e-10)
    np.testing.assert_allclose(state.noise, noise, rtol=0, atol=1e-10)
    np.testing.assert_allclose(P[0, 0], 1.2 * 0.7, rtol=1e-12)
    for leaf in jax.tree.leaves((states, thetas)):
        np.testing.assert_array_equal(leaf[7], leaf[6])


@pytest.mark.parametrize("rank", [10, 25])
def test_full_rank_is_the_full_filter(rank):
    """Over a long stream with clip and bound, and with more directions than there are parameters."""
    p, r, steps = 10, 3, 300
    numbers: dict[str, Any] = {"clip": 1.5, "cap": 1.2, "noise_decay": 0.9}
    low, theta, run = stream(Kalman(rank, prior=0.7, forgetting=0.98, **numbers), p, r)
    full, other, run_full = stream(Kalman(prior=0.7, forgetting=0.98, **numbers), p, r)
    hs, ys, given = measured(2, steps, r, p)
    hs[:, :, 0] = 0
    (low, theta), _ = run(low, theta, hs, ys, given)
    (full, other), _ = run_full(full, other, hs, ys, given)
    assert low.covariance.factor.shape == (p, p)
    np.testing.assert_allclose(flat(theta), flat(other), rtol=0, atol=1e-9)
    np.testing.assert_allclose(dense(low), dense(full), rtol=0, atol=1e-9)
    np.testing.assert_allclose(low.noise, full.noise, rtol=0, atol=1e-9)


def test_keeps_all_where_the_rows_span_few_directions():
    """Two directions of measurement: rank 2 is exact, rank 1 keeps each parameter's own information."""
    p, steps = 10, 40
    rng = np.random.default_rng(0)
    hs = rng.normal(size=(steps, 1, 2)) @ rng.normal(size=(2, p))
    ys, given = rng.normal(size=(steps, 1)), np.ones((steps, 1), bool)
    want, P, _ = naive(hs, ys, given, 0.7, 1.0, 1.0, [range(p)])
    for rank, exact in ((2, True), (1, False)):
        state, theta, run = stream(Kalman(rank, prior=0.7, forgetting=1.0, **PLAIN), p, 1)
        (state, theta), _ = run(state, theta, hs, ys, given)
        inverse = np.linalg.inv(dense(state))
        np.testing.assert_allclose(np.diag(inverse), np.diag(np.linalg.inv(P)), rtol=1e-9)
        assert np.allclose(dense(state), P, rtol=0, atol=1e-9) == exact
        assert np.allclose(flat(theta), want, rtol=0, atol=1e-9) == exact


@pytest.mark.parametrize("m", [1, 4])
def test_an_exponential_family_is_the_natural_gradient(m):
    """A Fisher matrix (of softmax a singular one), at full rank against the information form."""
    p, lam, prior = 9, 0.98, 0.5
    filter_ = Kalman(p, prior=prior, forgetting=lam, cap=float("inf"), clip=float("inf"))
    theta = weights(p)
    state = filter_.init(theta, theta, outputs=m)
    rows = lambda h: type(theta)(h[:, :4].reshape(m, 2, 2), h[:, 4:])
    step = jax.jit(lambda s, w, h, e, f: filter_(s, w, rows(h), e, jnp.ones(m, bool), fisher=f))
    rng = np.random.default_rng(0)
    information, vector = np.eye(p) / prior, np.zeros(p)
    for _ in range(30):
        h, q = rng.normal(size=(m, p)), rng.dirichlet(np.ones(max(m, 2)))
        F = np.diag(q) - np.outer(q, q) if m > 1 else np.diag(q[:1])
        error = rng.normal(size=m)
        state, theta = step(state, theta, jnp.asarray(h), jnp.asarray(error), jnp.asarray(F))
        seen = information + h.T @ F @ h
        vector, information = vector + np.linalg.solve(seen, h.T @ error), lam * seen
    np.testing.assert_allclose(flat(theta), vector, rtol=0, atol=1e-9)
    np.testing.assert_allclose(dense(state), np.linalg.inv(information), rtol=0, atol=1e-9)


def test_integrates_out_what_is_forgotten():
    """Parameters that are trained no more leave the covariance of the others as it was."""
    rng = np.random.default_rng(0)
    state = LowRank(jnp.asarray(rng.uniform(0.1, 2, 8)), jnp.asarray(rng.normal(size=(3, 8))))
    matrix = lambda s: np.linalg.inv(np.diag(1 / s.variance) + s.factor.T @ s.factor)
    places = np.array([6, 1, 2])
    np.testing.assert_allclose(matrix(kept(state, places)), matrix(state)[np.ix_(places, places)], rtol=0, atol=1e-12)


def test_grows_by_path():
    """Parameters that were there keep their covariances; new ones get the prior, and none with the others."""
    small, large = gru(0, 3, 2), gru(1, 3, 2)
    large = sg.nn.Sequential([*small.layers[:1], sg.Readout(5, 2, key=jax.random.key(2))])
    filter_ = Kalman(4)
    state = filter_.init(trained(small), small, outputs=2)
    factor = jnp.asarray(np.random.default_rng(0).normal(size=state.covariance.factor.shape))
    state = eqx.tree_at(lambda s: s.covariance.factor, state, factor)
    grown = filter_.grow(state, trained(large), large)
    names = lambda model: [
        (jax.tree_util.keystr(path), *index)
        for path, leaf in jax.tree_util.tree_leaves_with_path(trained(model))
        for index in np.ndindex(leaf.shape)
    ]
    want = dense(filter_.init(trained(large), large, outputs=2))
    place = [names(large).index(name) for name in names(small)]
    want[np.ix_(place, place)] = dense(state)
    np.testing.assert_allclose(dense(grown), want, rtol=0, atol=1e-12)
    same = filter_.grow(state, trained(small), small)
    np.testing.assert_allclose(dense(same), dense(state), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="another form"):
        Kalman().grow(state, trained(small), small)
    assert filter_.bytes(trained(large), large, outputs=2) == sum(leaf.nbytes for leaf in jax.tree.leaves(grown))


def test_a_learner_takes_it_and_a_prior_of_zero_stays():
    """A parameter without variance does not move; a step that is not finite changes nothing."""
    model = gru(0, 3, 2)
    fixed = lambda model: jax.tree.map(
        lambda inside: 0.0 if inside else 0.03, sg.optimisers.recurrent_parameters(model)
    )
    learner = sg.Learner(model, Kalman(3, prior=fixed), loss=sg.losses.mse)
    rng = np.random.default_rng(0)
    xs, ys = rng.normal(size=(40, 3)), rng.normal(size=(40, 2))
    st = learner.init(key=jax.random.key(0), like=(xs[0], ys[0]))
    st, out = learner.run(st, xs, ys)
    after = learner.model(st)
    assert np.isfinite(np.asarray(out.loss)).all()
    np.testing.assert_array_equal(after.layers[0].cell.weight_h, model.layers[0].cell.weight_h)
    assert not np.array_equal(after.layers[1].weight, model.layers[1].weight)
    state = st.memory.update.kalman.covariance
    st, _ = learner.step(st, np.full(3, np.nan), ys[0])
    assert st.skipped == 1
    for a, b in zip(jax.tree.leaves(st.memory.update.kalman.covariance), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_stuck_sensor_in_float32():
    """Constant rows for long: all variances stay positive and within their bound, and the weights finite."""
    p, steps, gap = 24, 12_000, 8_000
    start, theta, run = stream(Kalman(5, prior=0.03, forgetting=0.9995, noise_floor=1e-6), p, 1, np.float32)
    rng = np.random.default_rng(0)
    x = np.cumsum(rng.normal(size=steps + p)) * 0.1
    x[2000 : 2000 + gap + p] = x[2000]
    hs = np.lib.stride_tricks.sliding_window_view(x, p)[:steps].astype(np.float32)
    ys = (hs @ rng.normal(size=p) * 0.3 + np.where(np.arange(steps) < 2000, 0.1, 0) * rng.normal(size=steps))[:, None]
    (state, theta), (states, _) = run(start, theta, hs[:, None], ys.astype(np.float32), np.ones((steps, 1), bool))
    assert np.isfinite(flat(theta)).all() and np.isfinite(np.asarray(states.covariance.factor)).all()
    assert np.asarray(states.covariance.variance).min() > 0
    np.testing.assert_array_less(dense(state).diagonal(), 0.9 * (1 + 1e-3))
