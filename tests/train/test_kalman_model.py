"""The Kalman filter of a model: blocks by unit and layer, growth, seeds, resume, memory, refusals."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kalman_reference import as_rows, dense, flat, gru, measured, online, stream, trained, weights

import streamgrad as sg
from streamgrad import checkpoint
from streamgrad.train._kalman import Kalman


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
        # Of another form: what was not known together starts at 0.
        np.testing.assert_array_equal(dense(Kalman().grow(state, trained(small), small)), dense(state))
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
        assert memory is not None
        assert memory.alias_size_in_bytes >= kept
        assert memory.temp_size_in_bytes < kept / 2


def test_refusals():
    theta = weights(8)
    for blocks in ("rows", 0, -1, True):
        with pytest.raises(ValueError, match=f"integer rank >= 1, got {blocks!r}"):
            Kalman(blocks)
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


@pytest.mark.parametrize("blocks", ["full", "unit", "diagonal"])
def test_a_stuck_sensor_in_float32(blocks):
    """Constant rows for long, where plain arithmetic would lose P: it stays symmetric to the bit and positive."""
    p, steps, gap = 24, 12_000, 8_000
    start, theta, run = stream(Kalman(blocks, prior=0.03, forgetting=0.9995, noise_floor=1e-6), p, 1, np.float32)
    rng = np.random.default_rng(0)
    x = np.cumsum(rng.normal(size=steps + p)) * 0.1
    x[2000 : 2000 + gap + p] = x[2000]
    hs = np.lib.stride_tricks.sliding_window_view(x, p)[:steps].astype(np.float32)
    ys = (hs @ rng.normal(size=p) * 0.3 + np.where(np.arange(steps) < 2000, 0.1, 0) * rng.normal(size=steps))[:, None]
    (state, theta), (states, _) = run(start, theta, hs[:, None], ys.astype(np.float32), np.ones((steps, 1), bool))
    assert np.isfinite(flat(theta)).all()
    for every in states.covariance:
        for each in np.asarray(every[::500], float):
            np.testing.assert_array_equal(each, each.transpose(0, 2, 1))
            scale = np.sqrt(np.diagonal(each, axis1=1, axis2=2))
            assert np.linalg.eigvalsh(each / (scale[:, :, None] * scale[:, None, :])).min() > 0
    np.testing.assert_array_less(dense(state).diagonal(), 0.9 * (1 + 1e-5))


def test_learns_to_remember():
    """The bit of four steps ago, by a small GRU under exact RTRL: within 2,000 steps the filter says it."""
    bits = 2.0 * np.random.default_rng(0).integers(2, size=2004) - 1
    model = gru(0, 6, 1)
    xs, ys = np.stack([bits[4:]] * 3, 1), bits[:-4, None]
    state, step = online(Kalman(prior=1.0, forgetting=0.9999), model, 1)

    def body(all_, now):
        state, theta, carry, prediction, _ = step(*all_, *now)
        return (state, theta, carry), now[1] - prediction

    start = state, trained(model), model.init(key=jax.random.key(0))
    error = jax.jit(lambda *a: jax.lax.scan(body, *a))(start, (xs, ys))[1]
    assert np.mean(error[-200:] ** 2) < 0.1 < 0.5 < np.mean(error[:200] ** 2)
