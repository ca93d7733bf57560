"""Deferred traces are SnAp-1's own, in other sums: held to traces that are written at every step, and to BPTT."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import streamgrad as sg

KEY = jax.random.key(0)
cells = sg.cells
IN, UNITS, STEPS = 12, 5, 17

CELLS = {
    "LRU": lambda dtype=None: cells.LRU(IN, UNITS, key=KEY, dtype=dtype),
    "RTU": lambda dtype=None: cells.RTU(IN, UNITS, key=KEY, dtype=dtype),
    "MinGRU": lambda dtype=None: cells.MinGRU(IN, UNITS, key=KEY, dtype=dtype),
    "Vanilla": lambda dtype=None: cells.Vanilla(IN, UNITS + 7, key=KEY, dtype=dtype),
    "GRU": lambda dtype=None: cells.GRU(IN, UNITS + 7, key=KEY, dtype=dtype),
    "LSTM-columns": lambda dtype=None: cells.LSTM(IN, UNITS, wiring=sg.wiring.Columns(), key=KEY, dtype=dtype),
    "sparse-h": lambda dtype=None: cells.GRU(IN, 9, wiring=sg.wiring.Sparse(fan_in=3), key=KEY, dtype=dtype),
}


def inputs(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def pair(name, defer=3, **options):
    cell = CELLS[name]()
    return sg.Recurrent(cell, sg.SnAp(1, **options)), sg.Recurrent(cell, sg.SnAp(1, defer=defer, **options))


def whole(layer, carry):
    """J in full: of each entry what a cotangent of ones pulls back."""
    core = layer.cell.core()
    ones = lambda a: jnp.zeros_like(carry.state).at[a].set(1)
    return [layer.algorithm.layout.pullback(core, carry.trace, ones(a)).weights for a in range(core.entries)]


def driven(layer, xs, *, resets=(), rate=0.01):
    """The gradient and J after every step; weights move by the gradient at every step, so that D changes."""
    parameters, static = eqx.partition(layer, eqx.is_inexact_array)

    @jax.jit
    def step(parameters, carry, x):
        def loss(parameters):
            new, y = eqx.combine(parameters, static)(carry, x)
            return jnp.sum(jnp.sin(y)), new

        gradient, new = jax.grad(loss, has_aux=True)(parameters)
        return jax.tree.map(lambda p, g: p - rate * g, parameters, gradient), new, gradient

    carry, found = layer.init(key=KEY), []
    for t, x in enumerate(xs):
        if t in resets:
            carry = layer.init(key=KEY)
        before = parameters
        parameters, carry, gradient = step(parameters, carry, x)
        found.append((gradient.cell, whole(eqx.combine(before, static), carry)))
    return found


def assert_same(a, b, tolerance=1e-12):
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * max(1.0, float(jnp.abs(other).max())))


@pytest.mark.parametrize("name", CELLS)
def test_gradients_and_traces_are_those_of_every_step(name):
    """Weights change between, an episode begins in the middle of a ring, and 3 does not divide 17."""
    plain, deferred = (driven(layer, inputs(STEPS, IN), resets=(7,)) for layer in pair(name))
    assert_same(deferred, plain)


def test_the_comparison_sees_a_piece_that_is_not_decayed(monkeypatch):
    from streamgrad.influence import _deferred

    plain, deferred = pair("LRU")
    monkeypatch.setattr(_deferred, "own_dynamics", lambda core, step: [[jnp.ones(UNITS, complex)]])
    with pytest.raises(AssertionError):
        assert_same(driven(deferred, inputs(STEPS, IN)), driven(plain, inputs(STEPS, IN)))


@pytest.mark.parametrize("defer", [2, 3])
def test_an_lru_gets_the_gradient_of_bptt(defer):
    """Frozen weights; the loss of each step alone, differentiated through all steps before it."""
    xs = inputs(11, IN)
    layer = sg.Recurrent(CELLS["LRU"](), sg.SnAp(1, defer=defer))

    @functools.partial(jax.jit, static_argnums=1)
    def through_time(cell, t):
        def loss(cell):
            state = cell.init_state()
            for x in xs[: t + 1]:
                state = cell(state, x)
            return jnp.sum(jnp.sin(cell.output(state, xs[t])))

        return eqx.filter_grad(loss)(cell)

    for t, (gradient, _) in enumerate(driven(layer, xs, rate=0.0)):
        assert_same(gradient, through_time(layer.cell, t))


def test_named_parameters_alone():
    plain, deferred = (driven(layer, inputs(STEPS, IN), rate=0.0) for layer in pair("LRU", only=("lambda", "b")))
    assert_same(deferred, plain)


def test_float32_rounds_as_traces_of_every_step():
    xs, cell = inputs(200, 64), cells.LRU(64, 16, key=KEY, dtype=jnp.float32, r_min=0.9, r_max=0.999)
    exact = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), cell)

    def last(cell, algorithm):
        layer = sg.Recurrent(cell, algorithm)
        own = xs.astype(cell.nu.dtype)
        carry, _ = jax.lax.scan(lambda c, x: (layer(c, x)[0], None), layer.init(key=KEY), own)
        return carry, whole(layer, carry)[0][-1]

    carry, deferred = last(cell, sg.SnAp(1, defer=16))
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(carry)} == {"complex64", "float32", "int32"}
    _, plain = last(cell, sg.SnAp(1))
    _, truth = last(exact, sg.SnAp(1))
    error = lambda found: float(jnp.abs(found - truth.astype(found.dtype)).max() / jnp.abs(found).max())
    assert error(deferred) <= 1.2 * error(plain) < 1e-3


@pytest.mark.parametrize("name", ["LRU", "RTU"])
def test_streams_that_begin_anew_at_different_steps(name):
    """Their rings are then full at different steps; a fold takes all of them. Mapped twice, as over seeds."""
    plain, deferred = pair(name)
    xs, anew = inputs(STEPS, 2, 3, IN), np.random.default_rng(2).random((STEPS, 2, 3)) < 0.2

    @eqx.filter_jit
    def last(layer):
        one = lambda carry, x: eqx.filter_grad(lambda layer: _loss(layer, carry, x), has_aux=True)(layer)
        fresh = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (2, 3, *leaf.shape)), layer.init(key=KEY))

        def step(carry, now):
            x, anew = now
            choose = lambda new, old: jnp.where(anew.reshape(2, 3, *[1] * (old.ndim - 2)), new, old)
            gradient, carry = jax.vmap(jax.vmap(one))(jax.tree.map(choose, fresh, carry), x)
            return carry, gradient.cell

        return jax.lax.scan(step, fresh, (xs, jnp.asarray(anew)))[1]

    assert_same(last(deferred), last(plain))


def _loss(layer, carry, x):
    carry, y = layer(carry, x)
    return jnp.sum(jnp.sin(y)), carry


# Within a learner.


def model(algorithm, kind="LRU"):
    cell = CELLS[kind]()
    readout = sg.Readout(cell.out_size, 1, key=KEY)
    return sg.nn.Sequential([sg.nn.Normalise(IN), sg.Recurrent(cell, algorithm), readout])


def stream(steps=60, lead=(), rare=0.2):
    xs, ys = inputs(steps, *lead, IN), inputs(steps, *lead, 1, seed=3)
    missing = np.random.default_rng(4).random((steps, *lead)) > rare
    return xs, jnp.where(missing[..., None], jnp.nan, ys), jnp.asarray(np.arange(steps) % 23 == 22)


def learned(algorithm, optimiser=None, lead=(), kind="LRU", **options):
    taught = sg.Learner(model(algorithm, kind), optimiser or optax.adam(1e-2), loss=sg.losses.mse, **options)
    xs, ys, resets = stream(lead=lead)
    resets = resets if not lead else jnp.broadcast_to(resets[:, None], (len(xs), *lead))
    st, out = taught.run(taught.init(key=KEY), xs, ys, resets=resets)
    return taught.model(st), out, st


LEARNERS = [
    dict(),
    dict(optimiser=optax.sgd(0.01)),
    dict(kind="RTU", update_every=5),
    dict(update_every=4, optimiser=optax.sgd(0.01)),
    dict(delay=3),
    dict(streams=3, lead=(3,)),
    dict(update_every=4, chunked=True),
]


@pytest.mark.parametrize("options", LEARNERS, ids=lambda options: "-".join(options) or "adam")
def test_a_learner_learns_the_same(options):
    """Rare targets, episodes, windows, late targets, streams: weights and outputs as without deferral."""
    plain, deferred = (learned(algorithm, **options) for algorithm in (sg.SnAp(1), sg.SnAp(1, defer=3)))
    is_number = lambda tree: jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))
    assert_same(is_number(deferred[0]), is_number(plain[0]), 1e-10)
    assert_same(deferred[1].prediction, plain[1].prediction, 1e-10)
    np.testing.assert_array_equal(deferred[1].learned, plain[1].learned)


def test_a_bad_target_and_a_bad_input_are_skipped_as_without_deferral():
    xs, ys, _ = stream(rare=0.5)
    xs, ys = xs.at[20].set(jnp.inf), ys.at[31].set(1e200)

    def run(algorithm):
        taught = sg.Learner(model(algorithm), optax.sgd(0.1), loss=sg.losses.mse)
        st, out = taught.run(taught.init(key=KEY), xs, ys)
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(eqx.filter(st.arrays, eqx.is_array)))
        return int(st.skipped), int(st.memory.restarts), out

    plain, deferred = run(sg.SnAp(1)), run(sg.SnAp(1, defer=3))
    assert deferred[:2] == plain[:2]
    np.testing.assert_array_equal(deferred[2].learned, plain[2].learned)


def test_a_checkpoint_within_a_ring(tmp_path):
    taught = sg.Learner(model(sg.SnAp(1, defer=3)), optax.adam(1e-2), loss=sg.losses.mse)
    xs, ys, _ = stream()
    at_once, out = taught.run(taught.init(key=KEY), xs, ys)
    st, _ = taught.run(taught.init(key=KEY), xs[:31], ys[:31])
    sg.checkpoint.save(tmp_path / "kept", st, step=31)
    back = sg.checkpoint.load(tmp_path / "kept", like=taught.init(key=KEY, like=(xs[0], ys[0]))).tree
    again, rest = taught.run(back, xs[31:], ys[31:])
    np.testing.assert_array_equal(rest.prediction, out.prediction[31:])
    assert_same(again.arrays, at_once.arrays, 0)


@pytest.mark.full
def test_deep_blocks_learn_the_same():
    def run(algorithm):
        deep = sg.nn.Deep(4, 1, width=IN, units=4, depth=2, algorithm=algorithm, key=KEY)
        taught = sg.Learner(deep, optax.adam(1e-2), loss=sg.losses.mse)
        xs, ys, resets = stream()
        return taught.run(taught.init(key=KEY), xs[:, :4], ys, resets=resets)[1].prediction

    assert_same(run(sg.SnAp(1, defer=3)), run(sg.SnAp(1)), 1e-10)


# What is refused.


def test_what_cannot_be_deferred_is_refused_by_name():
    layer = lambda cell, **options: sg.Recurrent(cell, sg.SnAp(**{"n": 1, "defer": 4} | options))
    small, lru = cells.LRU(15, 4, key=KEY), cells.LRU(16, 4, key=KEY)
    with pytest.raises(ValueError, match="at least 16 inputs, this cell's have 15"):
        layer(small)
    with pytest.raises(ValueError, match="this cell's have none"):
        layer(cells.GRU(16, 16, wiring=sg.wiring.Sparse(fan_in=16), input_wiring=sg.wiring.Sparse(fan_in=16), key=KEY))
    with pytest.raises(TypeError, match="needs n=1"):
        layer(lru, n=2)
    with pytest.raises(TypeError, match="got n=1 and FunctionCore"):
        layer(cells.Chain([lru, lru]))
    with pytest.raises(ValueError, match="leave one of them out"):
        layer(lru, present="full")
    for wrong in (1, 0, True):
        with pytest.raises(ValueError, match="at least 2, or None"):
            layer(lru, defer=wrong)


def test_who_needs_derivatives_at_every_step_is_refused():
    deferred = model(sg.SnAp(1, defer=3))
    with pytest.raises(TypeError, match="derivatives at every step, where SnAp"):
        sg.Learner(deferred, sg.Kalman(), loss=sg.losses.mse)
    with pytest.raises(TypeError, match="leave defer out"):
        sg.td.TDLambda(deferred, optax.sgd(0.1), gamma=0.9)
    with pytest.raises(TypeError, match="PES asks"):
        sg.Learner(deferred, optax.sgd(0.1), loss=sg.losses.mse, update_every=4, estimator=sg.PES(pairs=2))


def test_explain_says_what_it_saves():
    said = str(sg.explain(sg.Recurrent(cells.LRU(64, 64, key=KEY, dtype=jnp.float32), sg.SnAp(1, defer=16))))
    assert "gradient   exact" in said
    assert "a step reads and writes 24.0 KiB of these instead of 64.0 KiB; a gradient, 16 multiply-adds" in said
