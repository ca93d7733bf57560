"""The Kalman filter against independent definitions: regression, the textbook's filter, a dense one in NumPy."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kalman_reference import PLAIN, as_rows, dense, flat, gru, measured, naive, online, stream, trained, weights

import streamgrad as sg
from streamgrad.train._elimination import root, whiten
from streamgrad.train._kalman import Kalman


@pytest.mark.parametrize("lam", [1.0, 0.97])
def test_linear_model_is_weighted_ridge_regression(lam):
    p, steps, prior = 9, 60, 0.7
    start, theta, run = stream(Kalman(prior=prior, forgetting=lam, **PLAIN), p, 1)
    hs, ys, _ = measured(0, steps, 1, p)
    (state, theta), _ = run(start, theta, hs, ys, np.ones((steps, 1), bool))
    h, y, weight = hs[:, 0], ys[:, 0], lam ** np.arange(steps - 1, -1, -1)
    information = (h.T * weight) @ h + lam ** (steps - 1) / prior * np.eye(p)  # forgotten after each measurement
    np.testing.assert_allclose(flat(theta), np.linalg.solve(information, (h.T * weight) @ y), rtol=0, atol=1e-10)
    np.testing.assert_allclose(dense(state), np.linalg.inv(information) / lam, rtol=0, atol=1e-10)


def test_rls_is_this_filter():
    """`sg.RLS` forgets before it measures: the same numbers from a prior of 1 / (ridge λ), R = 1 and no clip, while its
    bound does not bind. Each output is a filter of its own, mapped over."""
    lam, ridge, features, outputs, steps = 0.97, 0.8, 5, 2, 60
    layer = sg.RLS(features, outputs, forgetting=lam, ridge=ridge)
    filter_ = Kalman(prior=1 / (ridge * lam), forgetting=lam, **PLAIN)
    w = jnp.zeros(features + 1)
    start = filter_.init(w, w)
    rng = np.random.default_rng(0)
    phis, ys = np.c_[3 * rng.normal(size=(steps, features)), np.ones(steps)], rng.normal(size=(steps, outputs))

    def step(all_, now):
        rls, states, weights = all_
        phi, y = now
        each = lambda state, w, y: filter_(state, w, phi[None], (y - w @ phi)[None], jnp.ones(1, bool))
        return (rls.fit(phi, y), *jax.vmap(each)(states, weights, y)), None

    states, weights = jax.tree.map(lambda leaf: jnp.stack([leaf] * outputs), (start, w))
    (rls, states, weights), _ = jax.jit(lambda *a: jax.lax.scan(step, *a))((layer, states, weights), (phis, ys))
    np.testing.assert_allclose(weights.T, rls.weight, rtol=0, atol=1e-10)
    for covariance, factor in zip(states.covariance[0][:, 0], rls.root, strict=True):
        np.testing.assert_allclose(covariance * lam, factor @ factor.T, rtol=0, atol=1e-10)


def test_constant_system_is_the_textbooks_filter():
    """Predict and correct of a constant state, in Joseph's form, several outputs with noise of their own."""
    p, r, steps = 6, 3, 40
    filter_ = Kalman(prior=0.5, forgetting=1.0, **PLAIN)
    start, theta, run = stream(filter_, p, r)
    variances = np.array([0.2, 1.0, 3.0])
    start = eqx.tree_at(lambda s: s.noise, start, jnp.asarray(variances))
    hs, ys, _ = measured(1, steps, r, p)
    (state, theta), _ = run(start, theta, hs, ys, np.ones((steps, r), bool))
    x, P = np.zeros(p), 0.5 * np.eye(p)
    for H, y in zip(hs, ys, strict=True):
        K = np.linalg.solve(H @ P @ H.T + np.diag(variances), H @ P).T
        left = np.eye(p) - K @ H
        x, P = x + K @ (y - H @ x), left @ P @ left.T + K @ np.diag(variances) @ K.T
    np.testing.assert_allclose(flat(theta), x, rtol=0, atol=1e-10)
    np.testing.assert_allclose(dense(state), P, rtol=0, atol=1e-10)


@pytest.mark.parametrize("blocks", ["full", "layer", "unit", "diagonal"])
@pytest.mark.parametrize("r", [1, 3])
def test_forms_are_their_dense_definition(blocks, r):
    """With clip, bound, adaptive noise, missing rows; steps without any row change nothing, to the bit."""
    p, steps = 10, 50
    numbers: dict[str, Any] = {"clip": 1.5, "cap": 1.2, "noise_decay": 0.9}
    start, theta, run = stream(Kalman(blocks, prior=0.7, forgetting=0.98, **numbers), p, r)
    hs, ys, given = measured(2, steps, r, p)
    hs[:, :, 0] = 0  # nothing is learned of it: its variance grows as far as it may
    given[7] = False
    ys[given & (np.arange(steps)[:, None] == 20)] += 100  # one outlier, clipped
    (state, theta), (states, thetas) = run(start, theta, hs, ys, given)
    members = {
        "full": [range(p)],
        "layer": [range(4), range(4, p)],
        "unit": [range(2), range(2, 4), range(4, p)],
        "diagonal": [[i] for i in range(p)],
    }[blocks]
    want, P, noise = naive(hs, ys, given, 0.7, 0.98, 1.0, members, clip=1.5, cap=1.2, decay=0.9)
    np.testing.assert_allclose(flat(theta), want, rtol=0, atol=1e-10)
    np.testing.assert_allclose(dense(state), P, rtol=0, atol=1e-10)
    np.testing.assert_allclose(state.noise, noise, rtol=0, atol=1e-10)
    np.testing.assert_allclose(P[0, 0], 1.2 * 0.7, rtol=1e-12)
    for leaf in jax.tree.leaves((states, thetas)):
        np.testing.assert_array_equal(leaf[7], leaf[6])


def test_missing_rows_are_dropped_rows():
    """A row that is not given, or not finite, is as if it were not there; what stands in it does not matter."""
    p, r, steps = 8, 3, 12
    filter_ = Kalman(prior=0.7, forgetting=0.98)
    start, theta, run = stream(filter_, p, r)
    hs, ys, given = measured(3, steps, r, p)
    one = run(start, theta, hs, ys, given)[0]
    junk, bad = np.where(given, ys, 1e6), np.where(given, ys, np.nan)
    rows = np.where(given[..., None], hs, np.inf)
    everything = np.ones_like(given)
    for other in (
        run(start, theta, hs, junk, given),
        run(start, theta, hs, bad, everything),
        run(start, theta, rows, ys, everything),
    ):
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other[0]), strict=True):
            np.testing.assert_array_equal(a, b)
    want, P, _ = naive(hs, ys, given, 0.7, 0.98, 1.0, [range(p)], clip=3.0, cap=30.0, decay=0.99)
    np.testing.assert_allclose(flat(one[1]), want, rtol=0, atol=1e-10)
    np.testing.assert_allclose(dense(one[0]), P, rtol=0, atol=1e-10)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200, -1e308])
def test_without_a_finite_row_nothing_changes(value):
    p = 8
    start, theta, run = stream(Kalman(prior=0.7, forgetting=0.98), p, 3)
    hs, ys, _ = measured(3, 12, 3, p)
    hs[4:] = value
    (_, _), (states, thetas) = run(start, theta, hs, ys, np.ones((12, 3), bool))
    for leaf in jax.tree.leaves((states, thetas)):
        assert np.isfinite(leaf).all()
        np.testing.assert_array_equal(leaf[-1], leaf[3])


def test_rows_together_are_rows_one_after_another():
    """R is diagonal: a joint step is, without clip and forgetting, r steps of one row."""
    p, r, steps = 8, 3, 12
    start, theta, run = stream(Kalman(prior=0.7, forgetting=1.0, **PLAIN), p, r)
    hs, ys, given = measured(4, steps, r, p)
    (together, one), _ = run(start, theta, hs, ys, given)
    alone = np.zeros((steps * r, r), bool)
    alone[np.arange(steps * r), np.tile(np.arange(r), steps)] = given.ravel()
    repeat = lambda a: np.repeat(a, r, 0)
    (apart, two), _ = run(start, theta, repeat(hs), repeat(ys), alone)
    np.testing.assert_allclose(flat(one), flat(two), rtol=0, atol=1e-10)
    np.testing.assert_allclose(dense(together), dense(apart), rtol=0, atol=1e-10)


def test_blocks_are_full_where_cross_terms_vanish():
    """Each output reads the parameters of one block alone: covariances between them stay 0."""
    p, steps, members = 10, 30, [range(2), range(2, 4), range(4, 10)]
    hs, ys, given = measured(5, steps, 3, p)
    for row, own in enumerate(members):
        hs[:, row, [i for i in range(p) if i not in own]] = 0
    got = []
    for blocks in ("full", "unit"):
        start, theta, run = stream(Kalman(blocks, prior=0.7, forgetting=0.98), p, 3)
        state, theta = run(start, theta, hs, ys, given)[0]
        got.append((flat(theta), dense(state)))
    np.testing.assert_allclose(got[0][0], got[1][0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(got[0][1], got[1][1], rtol=0, atol=1e-12)


def test_streams_share_the_noise_of_an_output():
    """Four streams of two outputs: one joint S, the noise of an output from the mean over its streams."""
    p = 8
    filter_ = Kalman(prior=0.7, forgetting=0.98)
    theta = weights(p)
    state = filter_.init(theta, theta, outputs=2)
    hs, ys, _ = measured(6, 1, 8, p)
    given = np.array([1, 1, 1, 0, 1, 0, 1, 0], bool)
    state, theta = jax.jit(filter_)(state, theta, as_rows(hs[0]), jnp.asarray(ys[0]), jnp.asarray(given))
    want, P, _ = naive(hs, ys, given[None], 0.7, 0.98, 1.0, [range(p)], clip=3.0, cap=30.0, decay=0.99)
    np.testing.assert_allclose(flat(theta), want, rtol=0, atol=1e-10)
    np.testing.assert_allclose(dense(state), P, rtol=0, atol=1e-10)
    square = np.minimum(ys[0] ** 2, 9 + 1e-3)
    np.testing.assert_allclose(
        state.noise, 0.99 + 0.01 * np.array([square[:-1:2].mean(), square[1]]), rtol=0, atol=1e-12
    )


def test_whiten_and_root():
    rng = np.random.default_rng(0)
    a, w = rng.normal(size=(5, 5)), rng.normal(size=(5, 7))
    s = a @ a.T + np.eye(5)
    np.testing.assert_allclose(
        jax.jit(whiten)(s, jnp.asarray(w), jnp.ones(5)), np.linalg.solve(np.linalg.cholesky(s), w), rtol=0, atol=1e-12
    )
    q = np.array([0.5, 0.2, 0.0, 0.3])
    fisher = np.diag(q) - np.outer(q, q)
    b = jax.jit(root)(jnp.asarray(fisher))
    np.testing.assert_allclose(b @ b.T, fisher, rtol=0, atol=1e-15)


@pytest.mark.parametrize("blocks", ["full", "unit"])
def test_recurrent_network_is_a_dense_filter(blocks):
    """One step at a time against NumPy's filter, over a GRU's sensitivities from J = I + D J."""
    model = gru(0)
    lam = {True: 0.99, False: 0.97}
    tree = lambda pair: lambda model: jax.tree.map(pair.get, sg.optimisers.recurrent_parameters(model))
    filter_ = Kalman(blocks, prior=tree({True: 0.1, False: 0.03}), forgetting=tree(lam), cap=1.5, clip=1.0)
    state, step = online(filter_, model, 2)
    theta, carry = trained(model), model.init(key=jax.random.key(1))
    cell, static = model.layers[0].cell, eqx.filter(model.layers[0].cell, eqx.is_inexact_array, inverse=True)

    @jax.jit
    def jacobians(theta, s, x):
        f = lambda theta, s: eqx.combine(theta.layers[0].cell, static)(s, x)
        by_cell, by_state = jax.jacobian(f, (0, 1))(theta, s)
        new = f(theta, s)
        y = lambda theta, s: theta.layers[1].weight @ cell.output(s, x) + theta.layers[1].bias
        return by_cell, by_state, new, y(theta, new), jax.jacobian(y, (0, 1))(theta, new)

    inside = flat(
        jax.tree.map(lambda leaf, r: jnp.full(leaf.shape, r), theta, sg.optimisers.recurrent_parameters(model))
    )
    prior, forget = np.where(inside, 0.1, 0.03), np.where(inside, 0.99, 0.97)
    p = len(inside)
    unit = jax.tree.map(lambda leaf, u: np.broadcast_to(u, leaf.shape), theta.layers[0].cell, cell.parameter_unit())
    label = np.concatenate([flat(unit), 100 + np.repeat([0, 1], 5), [100, 101]])
    mask = np.ones((p, p), bool) if blocks == "full" else label[:, None] == label
    vector, P, R = flat(theta), np.diag(prior), np.ones(2)
    s = carry[0].state
    J = np.zeros((s.size, p))
    rows_of = lambda tree, n: np.concatenate([np.asarray(leaf).reshape(n, -1) for leaf in jax.tree.leaves(tree)], 1)
    rng = np.random.default_rng(0)
    for t in range(12):
        x, target = jnp.asarray(rng.normal(size=3)), rng.normal(size=2)
        if t % 4 == 3:
            target[t % 2] = np.nan
        now = jax.tree.unflatten(
            jax.tree.structure(theta),
            [
                jnp.asarray(part.reshape(leaf.shape))
                for part, leaf in zip(
                    np.split(vector, np.cumsum([x.size for x in jax.tree.leaves(theta)])[:-1]),
                    jax.tree.leaves(theta),
                    strict=True,
                )
            ],
        )
        by_cell, D, s, y, (direct, through) = jacobians(now, s, x)
        J = rows_of(by_cell, s.size) + np.asarray(D).reshape(s.size, s.size) @ J
        H = rows_of(direct, 2) + np.asarray(through).reshape(2, -1) @ J
        state, theta, carry, prediction, _ = step(state, theta, carry, x, jnp.asarray(target))
        np.testing.assert_allclose(prediction, y, rtol=0, atol=1e-10)
        there = np.isfinite(target)
        e, H = (target - np.asarray(y))[there], H[there]
        S = np.diag(R[there]) + H @ P @ H.T
        K = P @ H.T @ np.linalg.inv(S)
        limit = np.sqrt(np.diag(S))
        vector = vector + K @ np.clip(e, -limit, limit)
        P = (P - K @ S @ K.T) * mask
        c = np.sqrt(np.minimum(1 / forget, 1.5 * prior / np.diag(P)))
        P = c[:, None] * P * c
        R[there] = np.maximum(0.99 * R[there] + 0.01 * np.minimum(e**2, R[there] + 1e-3), 1e-3)
        np.testing.assert_allclose(flat(theta), vector, rtol=0, atol=1e-10)
        np.testing.assert_allclose(dense(state), P, rtol=0, atol=1e-10)
    assert abs(vector - flat(trained(model))).max() > 1e-2


def fisher_stream(filter_, p, m):
    @jax.jit
    def step(state, theta, h, error, fisher, given):
        return filter_(state, theta, as_rows(h), error, given, fisher=fisher)

    theta = weights(p)
    return filter_.init(theta, theta, outputs=m), theta, step


@pytest.mark.parametrize("m", [1, 4])
def test_exponential_family_is_the_online_natural_gradient(m):
    """Ollivier 2018: with J_t = λ (J_{t-1} + Hᵀ F H) the filter is θ ← θ + J⁻¹ Hᵀ (T(y) - E[T]), on a logistic (m = 1)
    and a softmax readout, whose Fisher matrix is singular."""
    p, lam, prior = 9, 0.98, 0.5
    state, theta, step = fisher_stream(Kalman(prior=prior, forgetting=lam, cap=math.inf), p, m)
    rng = np.random.default_rng(0)
    information, vector, truth = np.eye(p) / prior, np.zeros(p), rng.normal(size=p)
    for t in range(60):
        h = rng.normal(size=(m, p))
        if m == 1:
            q = 1 / (1 + np.exp(-h @ vector))
            error, F = (rng.random(1) < 1 / (1 + np.exp(-h @ truth))) - q, np.diag(q * (1 - q))
        else:
            q, true = (np.exp(h @ v) / np.exp(h @ v).sum() for v in (vector, truth))
            error, F = np.eye(m)[rng.choice(m, p=true)] - q, np.diag(q) - np.outer(q, q)
        fisher = jnp.asarray(F if t % 2 else F[None])
        state, theta = step(state, theta, jnp.asarray(h), jnp.asarray(error), fisher, jnp.ones(m, bool))
        seen = information + h.T @ F @ h
        vector, information = vector + np.linalg.solve(seen, h.T @ error), lam * seen
        np.testing.assert_allclose(flat(theta), vector, rtol=0, atol=1e-10)
    np.testing.assert_allclose(dense(state), np.linalg.inv(information), rtol=0, atol=1e-10)


def test_gaussian_family_is_the_plain_filter():
    """F = 1/R, error (y - ŷ)/R."""
    p, m = 9, 4
    numbers: dict[str, Any] = {"prior": 0.5, "forgetting": 0.98}
    state, theta, step = fisher_stream(Kalman(**numbers, cap=math.inf), p, m)
    start, other, run = stream(Kalman(**numbers, **PLAIN), p, m)
    hs, ys, given = measured(7, 20, m, p)
    variance = np.array([0.5, 1.0, 2.0, 4.0])
    start = eqx.tree_at(lambda s: s.noise, start, jnp.asarray(variance))
    (want, other), _ = run(start, other, hs, ys, given)
    for h, y, there in zip(hs, ys, given, strict=True):
        error = (y - h @ flat(theta)) / variance
        args = jnp.asarray(h), jnp.asarray(error), jnp.diag(1 / jnp.asarray(variance)), jnp.asarray(there)
        state, theta = step(state, theta, *args)
    np.testing.assert_allclose(flat(theta), flat(other), rtol=0, atol=1e-10)
    np.testing.assert_allclose(dense(state), dense(want), rtol=0, atol=1e-10)
