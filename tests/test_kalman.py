"""The Kalman filter against independent definitions: regression, the textbook's filter, a dense one in NumPy."""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import streamgrad as sg
from streamgrad import checkpoint
from streamgrad.train._filter import root, whiten
from streamgrad.train._kalman import Kalman

PLAIN = {"clip": math.inf, "cap": math.inf, "noise_decay": 1.0}  # no clip, no bound, R stays as it is


def trained(model):
    return eqx.filter(model, eqx.is_inexact_array)


def flat(tree):
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)])


def dense(state):
    """P in the order of the leaves, with its zeros."""
    form = state.blocks
    full = np.zeros((form.parameters, form.parameters))
    for members, each in zip(form.classes, state.covariance, strict=True):
        for own, block in zip(members, np.asarray(each), strict=True):
            full[np.ix_(own, own)] = block
    return full


class Weights(eqx.Module):
    """Two leaves that a linear measurement may have anywhere."""

    a: jax.Array
    b: jax.Array


def weights(p, dtype=float):
    return Weights(jnp.zeros((2, p // 4), dtype), jnp.zeros(p - 2 * (p // 4), dtype))


def as_rows(h):
    """H (rows, p) as a pytree like `weights`."""
    r, p = h.shape
    cut = 2 * (p // 4)
    return Weights(jnp.asarray(h[:, :cut]).reshape(r, 2, p // 4), jnp.asarray(h[:, cut:]))


@functools.cache
def stream(filter_, p, outputs, dtype=float):
    """A compiled filter over a stream of linear measurements (h, y, given): states after each step."""

    @jax.jit
    def run(state, theta, hs, ys, given):
        def step(both, now):
            state, theta = both
            h, y, there = now
            error = y - h @ jnp.concatenate([theta.a.ravel(), theta.b])
            both = filter_(state, theta, as_rows(h), error, there)
            return both, both

        return jax.lax.scan(step, (state, theta), (hs, ys, given))

    theta = weights(p, dtype)
    return filter_.init(theta, theta, outputs=outputs), theta, run


def measured(seed, steps, r, p, noise=0.3):
    rng = np.random.default_rng(seed)
    hs = rng.normal(size=(steps, r, p))
    return hs, hs @ rng.normal(size=p) + noise * rng.normal(size=(steps, r)), rng.random((steps, r)) < 0.6


def naive(hs, ys, given, prior, lam, r, members, *, clip=math.inf, cap=math.inf, decay=1.0, floor=1e-3):
    """The filter in NumPy: one dense P whose cross terms between blocks are dropped after each step."""
    p = hs.shape[2]
    mask = np.zeros((p, p), bool)
    for own in members:
        mask[np.ix_(own, own)] = True
    P, theta, noise, top = np.diag(prior * np.ones(p)), np.zeros(p), np.full(ys.shape[1], float(r)), cap * prior
    for h, y, there in zip(hs, ys, given, strict=True):
        if there.any():
            H, e, R = h[there], (y - h @ theta)[there], np.diag(noise[there])
            S = R + H @ P @ H.T
            K = P @ H.T @ np.linalg.inv(S)
            limit = clip * np.sqrt(np.diag(S))
            theta = theta + K @ np.clip(e, -limit, limit)
            P = (P - K @ S @ K.T) * mask
            c = np.sqrt(np.minimum(1 / lam, top / np.diag(P)))
            P = c[:, None] * P * c
            small = np.minimum(e**2, clip**2 * noise[there] + floor)
            noise[there] = np.maximum(decay * noise[there] + (1 - decay) * small, floor)
    return theta, P, noise


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
    numbers = {"clip": 1.5, "cap": 1.2, "noise_decay": 0.9}
    start, theta, run = stream(Kalman(blocks, prior=0.7, forgetting=0.98, **numbers), p, r)
    hs, ys, given = measured(2, steps, r, p)
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


def gru(key, cell_units=5, outputs=2):
    k1, k2 = jax.random.split(jax.random.key(key))
    cell = sg.cells.GRU(3, cell_units, key=k1)
    return sg.nn.Sequential([sg.Recurrent(cell, sg.RTRL()), sg.Readout(cell_units, outputs, key=k2)])


def online(filter_, model, outputs):
    """A step of model and filter on one stream: predict, then learn."""
    static = eqx.filter(model, eqx.is_inexact_array, inverse=True)

    def step(state, theta, carry, x, y):
        def predicted(theta):
            carried, y = eqx.combine(theta, static)(carry, x)
            return y, carried

        prediction, pull, carry = jax.vjp(predicted, theta, has_aux=True)
        rows = filter_.sensitivity(pull, prediction)
        error = y - prediction
        given = jnp.isfinite(error)
        return *filter_(state, theta, rows, jnp.where(given, error, 0), given), carry, prediction, rows

    return filter_.init(trained(model), model, outputs=outputs), jax.jit(step)


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
    unit = jax.tree.map(lambda leaf, u: np.broadcast_to(u, leaf.shape), theta.layers[0].cell, cell.enters())
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
    numbers = {"prior": 0.5, "forgetting": 0.98}
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


def test_seeds_are_a_loop():
    """Models drawn by key and rates, mapped over: the same numbers as one after another."""
    keys, priors = jnp.arange(3), jnp.array([0.01, 0.1, 1.0])
    rng = np.random.default_rng(0)
    xs, ys = jnp.asarray(rng.normal(size=(6, 3))), jnp.asarray(rng.normal(size=(6, 2)))

    def learned(seed, prior):
        model = gru(seed, 3)
        filter_ = Kalman("unit", prior=prior, noise=prior)
        state, step = online(filter_, model, 2)

        def body(all_, now):
            state, theta, carry, prediction, _ = step(*all_, *now)
            return (state, theta, carry), prediction

        start = state, trained(model), model.init(key=jax.random.key(0))
        (state, theta, _), predictions = jax.lax.scan(body, start, (xs, ys))
        return state.covariance, state.noise, jax.tree.leaves(theta), predictions

    together = jax.jit(jax.vmap(learned))(keys, priors)
    one = jax.jit(learned)
    for k in range(3):
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(one(keys[k], priors[k])), strict=True):
            np.testing.assert_allclose(a[k], b, rtol=0, atol=1e-12)


def test_equal_filters_are_one_program():
    def tree(model):
        return jax.tree.map(lambda leaf: 0.5, trained(model))

    assert Kalman("unit", prior=tree) == Kalman("unit", prior=tree)
    assert hash(Kalman()) == hash(Kalman("full", clip=3))
    assert Kalman() != Kalman("unit") and Kalman() != Kalman(noise=0.5)
    theta, compiled = weights(8), []

    @jax.jit
    def step(filter_, state, theta, h, error):
        compiled.append(0)
        return filter_(state, theta, as_rows(h), error, jnp.ones(1, bool))

    for filter_ in (Kalman(prior=tree), Kalman(prior=tree), Kalman(prior=tree, noise=0.5, clip=1.0)):
        step(filter_, filter_.init(theta, theta), theta, jnp.ones((1, 8)), jnp.ones(1))
    assert len(compiled) == 1


def test_resumes_to_the_bit(tmp_path):
    p, r, steps = 8, 3, 12
    start, theta, run = stream(Kalman(prior=0.7, forgetting=0.98), p, r)
    hs, ys, given = measured(3, steps, r, p)
    whole = run(start, theta, hs, ys, given)[0]
    half = run(start, theta, *(np.concatenate([a[:6], a[:6]]) for a in (hs, ys)), given & (np.arange(12) < 6)[:, None])[
        0
    ]
    checkpoint.save(tmp_path, half, step=6)
    loaded = checkpoint.load(tmp_path, half).tree
    rest = [np.concatenate([a[6:], a[6:]]) for a in (hs, ys, given)]
    rest[2][6:] = False
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(run(*loaded, *rest)[0]), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("blocks", ["full", "layer", "unit", "diagonal"])
def test_blocks_of_a_model(blocks):
    """An LSTM of 3 columns with an LRU, a plain layer and a readout: which parameters belong together."""
    keys = jax.random.split(jax.random.key(0), 4)
    model = sg.nn.Sequential(
        [
            sg.Recurrent(sg.cells.LSTM(2, 3, wiring=sg.wiring.Columns(), key=keys[0]), sg.SnAp(1)),
            sg.Recurrent(sg.cells.LRU(3, 4, key=keys[1]), sg.SnAp(1)),
            eqx.nn.LayerNorm(3),
            sg.Readout(3, 2, key=keys[3]),
        ]
    )
    theta, filter_ = trained(model), Kalman(blocks)
    state = filter_.init(theta, model, outputs=2)
    p = state.blocks.parameters
    sizes = sorted(members.shape[1] for members in state.blocks.classes for _ in members)
    parts = {
        "full": [p],
        "layer": sorted([3 * 16, 4 * 9 + 3 * 4 * 2 + 3, 6, 8]),
        "unit": sorted([16] * 3 + [9] * 4 + [3] * (4 + 4 + 1) + [3, 3] + [4, 4]),
        "diagonal": [1] * p,
    }
    assert sizes == parts[blocks]
    allocated = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert filter_.bytes(theta, model, outputs=2) == allocated
    assert sum(c.nbytes for c in state.covariance) == 8 * sum(size * size for size in sizes)
    # Packed and unpacked, every parameter is in its place.
    rows = jax.tree.map(lambda leaf: leaf[None], theta)
    packed = state.blocks.pack(rows, jnp.float64)[0]
    for moved, leaf in zip(jax.tree.leaves(state.blocks.added(theta, packed)), jax.tree.leaves(theta), strict=True):
        np.testing.assert_array_equal(moved, 2 * leaf)
    inside = flat(
        jax.tree.map(lambda leaf, r: jnp.full(leaf.shape, r), theta, sg.optimisers.recurrent_parameters(model))
    )
    np.testing.assert_array_equal(np.diag(dense(state)), np.where(inside, 0.1, 0.03))
    np.testing.assert_array_equal(state.cap[state.blocks.place], np.where(inside, 0.1, 0.03) * 30)


def test_grows_by_path():
    """Parameters that were there keep their covariances, wherever they are packed now; new ones get the prior."""
    small, large = gru(0, 3, 2), gru(1, 3, 2)
    wide = eqx.nn.Linear(3, 2, key=jax.random.key(0))
    small = sg.nn.Sequential([*small.layers[:1], sg.Readout(3, 2, key=jax.random.key(2))])
    large = sg.nn.Sequential([*small.layers[:1], sg.Readout(5, 2, key=jax.random.key(2)), wide])
    for blocks in ("full", "unit"):
        filter_ = Kalman(blocks)
        state = filter_.init(trained(small), small, outputs=2)
        rng = np.random.default_rng(0)
        covariance = tuple(jnp.asarray(rng.normal(size=c.shape)) for c in state.covariance)
        state = eqx.tree_at(lambda s: (s.covariance, s.noise), state, (covariance, jnp.array([0.2, 0.7])))
        grown = filter_.grow(state, trained(large), large)
        fresh = filter_.init(trained(large), large, outputs=2)
        names = lambda model: [
            (jax.tree_util.keystr(path), *index)
            for path, leaf in jax.tree_util.tree_leaves_with_path(trained(model))
            for index in np.ndindex(leaf.shape)
        ]
        old, new = names(small), names(large)
        want, place = dense(fresh), [new.index(name) for name in old]
        want[np.ix_(place, place)] = dense(state)
        np.testing.assert_array_equal(dense(grown), want)
        np.testing.assert_array_equal(grown.noise, [0.2, 0.7])
        np.testing.assert_array_equal(grown.cap, fresh.cap)
        with pytest.raises(ValueError, match="grow"):
            state.blocks.check(trained(large))
        same = filter_.grow(state, trained(small), small)
        for a, b in zip(jax.tree.leaves(same), jax.tree.leaves(state), strict=True):
            np.testing.assert_array_equal(a, b)


def test_nothing_is_copied():
    """The state is donated, and temporaries are a few vectors: no copy of P, one row or several."""
    p = 200
    filter_, theta = Kalman(), weights(p, jnp.float32)
    state = filter_.init(theta, theta, outputs=3)
    for form, r in ((filter_, 3), (Kalman("layer"), 12)):
        state = form.init(theta, theta, outputs=3)
        kept = sum(c.nbytes for c in state.covariance)
        step = jax.jit(form, donate_argnums=(0, 1))
        shaped = (as_rows(np.ones((r, p), np.float32)), jnp.ones(r, jnp.float32), jnp.ones(r, bool))
        compiled = step.lower(state, theta, *shaped).compile()
        memory = compiled.memory_analysis()
        assert memory.alias_size_in_bytes >= kept
        assert memory.temp_size_in_bytes < kept / 2


def test_refusals():
    theta = weights(8)
    with pytest.raises(ValueError, match="low rank"):
        Kalman(4)
    with pytest.raises(ValueError, match="'rows'"):
        Kalman("rows")
    for name, value in {
        "prior": -1,
        "forgetting": 0,
        "noise": 0,
        "noise_decay": 1.1,
        "noise_floor": 0,
        "cap": 0,
    }.items():
        with pytest.raises(ValueError, match=name):
            Kalman(**{name: value})
    with pytest.raises(ValueError, match="noise must be a number"):
        Kalman(noise=lambda model: model)
    with pytest.raises(ValueError, match="nothing is trained"):
        Kalman().init((), ())
    with pytest.raises(ValueError, match=r"prior\(model\).*\.b"):
        Kalman(prior=lambda model: {"a": 1.0}).init(theta, theta)
    filter_ = Kalman()
    with pytest.raises(ValueError, match="2 rows of sensitivities"):
        filter_(filter_.init(theta, theta), theta, as_rows(np.ones((2, 8))), jnp.ones(3), jnp.ones(3, bool))
    with pytest.raises(TypeError, match="complex"):
        filter_.init(weights(8, complex), weights(8, complex))


@pytest.mark.parametrize("algorithm", [sg.DNI(), sg.KeRNL()])
def test_leaves_of_algorithms_are_refused(algorithm):
    model = sg.Recurrent(sg.cells.Vanilla(2, 3, key=jax.random.key(0)), algorithm)
    with pytest.raises(TypeError, match=type(algorithm).__name__):
        Kalman().init(trained(model), model)
