"""A chunk at once: the same outputs and, leaf by leaf, the same gradient as one step after another."""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import streamgrad as sg
from streamgrad.nn import naive

KEY = jax.random.key(0)
STEPS, IN, OUT = 12, 3, 2
nn = sg.nn
RESETS = np.isin(np.arange(STEPS), [4, 5, 9])
TWO_TRACES = sg.SnAp(1, only=("lambda", "gamma"))


def problem(dtype=float):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(STEPS, IN)), dtype), jnp.asarray(rng.normal(size=(STEPS, OUT)), dtype)


def loss(y, w):
    return jnp.sum(w * jnp.sin(y))


def deep(depth=2, **options):
    return nn.Deep(IN, OUT, width=5, units=4, depth=depth, key=KEY, **options)


KEYS = jax.random.split(jax.random.key(3), STEPS)


def streamed(model, xs, ws, resets=None):
    """The sum of the gradients of every step, driven one step at a time; and all outputs."""
    where = None if resets is None else (jnp.asarray(resets), KEYS)
    _, ys, total = naive.unroll(model, model.init(key=KEY), xs, ws, loss, where)
    return total, ys


def chunked(model, xs, ws, resets=None):
    @eqx.filter_jit
    def run(model):
        def objective(model):
            where = None if resets is None else (jnp.asarray(resets), KEYS)
            _, ys = nn.unroll(model, model.init(key=KEY), xs, where)
            return jax.vmap(loss)(ys, ws).sum(), ys

        return eqx.filter_grad(objective, has_aux=True)(model)

    return run(model)


def assert_alike(model, tolerance=1e-10, resets=None, dtype=float):
    xs, ws = problem(dtype)
    (want, ys), (got, zs) = streamed(model, xs, ws, resets), chunked(model, xs, ws, resets)
    np.testing.assert_allclose(zs, ys, rtol=tolerance, atol=tolerance)
    leaves = zip(jax.tree_util.tree_leaves_with_path(want), jax.tree.leaves(got), strict=True)
    for (path, a), b in leaves:
        assert np.isfinite(a).all()
        size = max(float(jnp.abs(a).max()), 1e-3 if tolerance < 1e-8 else 1.0)
        np.testing.assert_allclose(b, a, rtol=0, atol=tolerance * size, err_msg=jax.tree_util.keystr(path))


in_full = lambda *values: pytest.param(*values, marks=pytest.mark.full)


@pytest.mark.parametrize("depth", [in_full(1), in_full(2), 3, in_full(4)])
def test_a_deep_network(depth):
    model = deep(depth, pooling=depth % 2 == 0, dropout=0.3 if depth > 1 else 0.0)
    assert_alike(model, resets=RESETS if depth > 2 else None)


@pytest.mark.parametrize("depth", [1, in_full(4)])
def test_a_deep_network_in_float32(depth):
    assert_alike(deep(depth, dtype=jnp.float32), 2e-6, dtype=jnp.float32)  # of values of order 1


@pytest.mark.parametrize(
    "cell",
    [
        sg.cells.RTU,
        in_full(sg.cells.GRU),  # every cell's chunk is compared in test_conformance
        in_full(functools.partial(sg.cells.LSTM, wiring=sg.wiring.Columns())),
        functools.partial(sg.cells.GRU, reset_before=True, wiring=sg.wiring.Columns()),
    ],
    ids=["rtu", "gru", "lstm", "reset-before"],
)
def test_any_cell(cell):
    assert_alike(deep(cell=cell), resets=RESETS)


def test_an_algorithm_for_each_block():
    model = deep(4, algorithm=[sg.Frozen(), sg.TBPTT(3), TWO_TRACES, sg.RTRL()])
    assert_alike(model, resets=RESETS)
    gradient, _ = chunked(model, *problem())
    assert not jnp.any(gradient.blocks[0].recurrent.cell.b_re)
    assert_alike(deep(2, algorithm=[sg.Spatial(), sg.TBPTT(1)]))
    with pytest.raises(ValueError, match="2 of them, got 1"):
        deep(2, algorithm=[sg.SnAp(1)])


def test_layers_beside_each_other_and_with_statistics():
    cell = functools.partial(sg.cells.LRU, IN, 4)
    side = nn.Parallel([sg.Recurrent(cell(key=KEY), sg.SnAp(1)), nn.Lags(IN, 2), lambda x: x])
    model = nn.Sequential([nn.Normalise(IN), side, sg.Readout(4 * IN, OUT, key=KEY)])
    assert_alike(model, 1e-9, resets=RESETS)


def test_bptt_is_backprop_through_every_layer():
    """Against plain autodiff of a scan of steps, which is right for BPTT alone."""
    model, (xs, ws) = deep(3, algorithm=sg.BPTT(), dropout=0.2), problem()

    @eqx.filter_jit
    @eqx.filter_grad
    def plain(model):
        body = lambda carry, now: (lambda new: (new[0], loss(new[1], now[1])))(model(carry, now[0]))
        return jax.lax.scan(body, model.init(key=KEY), (xs, ws))[1].sum()

    for want, got in zip(jax.tree.leaves(plain(model)), jax.tree.leaves(chunked(model, xs, ws)[0]), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


def test_only_the_last_recurrent_layer_and_what_lies_above_are_exact():
    xs, ws = problem()
    (online, _), (exact, _) = (chunked(deep(2, algorithm=a), xs, ws) for a in (sg.SnAp(1), sg.BPTT()))
    same = lambda a, b: all(np.allclose(x, y, rtol=1e-9) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))
    assert same(online.blocks[1].recurrent, exact.blocks[1].recurrent)
    assert same(online.blocks[1].gated, exact.blocks[1].gated) and same(online.decoder, exact.decoder)
    for part in (online.encoder, exact.encoder), (online.blocks[1].norm, exact.blocks[1].norm):
        assert not same(*part)
    assert not same(online.blocks[0].recurrent, exact.blocks[0].recurrent)
    explained = sg.explain(deep(2), xs[0])
    assert [layer.gradient for layer in explained.layers] == ["biased", "exact"]
    assert explained.others["decoder.weight"] == () and explained.others["encoder.weight"]


def test_a_batch_is_the_sum_of_its_sequences():
    model = deep(2, pooling=True)
    xs = jnp.asarray(np.random.default_rng(1).normal(size=(3, STEPS, IN)))
    ws = problem()[1]

    @eqx.filter_jit
    @eqx.filter_grad
    def batched(model):
        one = lambda x: nn.unroll(model, model.init(key=KEY), x)[1]
        return jax.vmap(lambda ys: jax.vmap(loss)(ys, ws).sum())(jax.vmap(one)(xs)).sum()

    apart = [jax.tree.leaves(chunked(model, x, ws)[0]) for x in xs]
    for got, *each in zip(jax.tree.leaves(batched(model)), *apart, strict=True):
        np.testing.assert_allclose(got, sum(each), rtol=1e-9, atol=1e-12)


def test_credit_starts_anew_with_each_chunk_and_the_state_goes_on():
    model, (xs, _) = deep(2), problem()
    carry, first = nn.unroll(model, model.init(key=KEY), xs[:5])
    _, second = nn.unroll(model, carry, xs[5:])
    whole = nn.unroll(model, model.init(key=KEY), xs)[1]
    np.testing.assert_allclose(jnp.concatenate([first, second]), whole, rtol=1e-12)
    traces = [leaf for block in carry[1:3] for leaf in jax.tree.leaves(block[1].trace)]
    assert traces and not any(map(jnp.any, traces))


def test_dropout_keeps_one_mask_for_a_sequence():
    layer, xs = nn.Dropout(400, 0.25), jnp.ones((STEPS, 400))
    carry = layer.init(key=KEY)
    assert set(np.unique(carry)) == {0, 1 / 0.75} and 0.15 < np.mean(carry == 0) < 0.35
    _, ys = nn.unroll(layer, carry, xs)
    np.testing.assert_array_equal(ys, np.stack([carry] * STEPS))
    carry, ys = nn.unroll(layer, carry, xs, (jnp.asarray(RESETS), KEYS))
    kept = [np.array_equal(a, b) for a, b in itertools.pairwise(ys)]
    assert kept == [not reset for reset in RESETS[1:]]
    np.testing.assert_array_equal(ys[-1], carry)
    served = sg.inference(nn.Sequential([layer]))
    np.testing.assert_array_equal(served((carry,), xs[0])[1], xs[0])
    for rate in (-0.1, 1.0):
        with pytest.raises(ValueError, match=r"\[0, 1\)"):
            nn.Dropout(3, rate)


def test_the_running_mean_is_one_with_a_straight_through_gradient():
    xs = problem()[0]
    layer = nn.RunningMean(IN)
    _, ys = nn.unroll(layer, layer.init(key=KEY), xs)
    np.testing.assert_allclose(ys, np.cumsum(xs, 0) / np.arange(1.0, STEPS + 1)[:, None], rtol=1e-9)
    gradient = jax.grad(lambda xs: nn.unroll(layer, layer.init(key=KEY), xs)[1][-1].sum())(xs)
    np.testing.assert_array_equal(gradient, np.eye(STEPS)[-1][:, None] * np.ones(IN))


def test_an_lru_trace_of_lambda_and_gamma_is_two_numbers_a_unit():
    layer = sg.Recurrent(sg.cells.LRU(IN, 4, key=KEY), TWO_TRACES)
    assert sum(leaf.size for leaf in jax.tree.leaves(layer.init(key=KEY).trace)) == 8
    assert layer.algorithm.traits(layer.cell.core()).bias == "biased"


def test_what_cannot_run_as_a_chunk_says_so():
    xs, _ = problem()
    wiring = sg.wiring.Sparse(fan_in=1)
    model = nn.Sequential([sg.Recurrent(sg.cells.GRU(IN, 7, wiring=wiring, key=KEY), sg.SnAp(2))])
    with pytest.raises(TypeError, match=r"SnAp\(n=2\) on this cell has no chunked gradient"):
        nn.unroll(model, model.init(key=KEY), xs)
    with pytest.raises(TypeError, match="no chunked gradient"):
        nn.check_unroll(model)

    class Own(eqx.Module):
        layer: sg.Recurrent

        def init(self, *, key):
            return self.layer.init(key=key)

        def __call__(self, carry, x):
            return self.layer(carry, x)

    own = Own(sg.Recurrent(sg.cells.LRU(IN, 2, key=KEY), sg.SnAp(1)))
    with pytest.raises(TypeError, match="Own holds recurrent layers"):
        nn.unroll(own, own.init(key=KEY), xs)
    with pytest.raises(ValueError, match=r"shape \(time, 3\)"):
        own.layer.unroll(own.init(key=KEY), xs[0])
    for resets in (jnp.asarray(RESETS), (jnp.asarray(RESETS), KEY)):
        with pytest.raises(ValueError, match="a flag and a key for every step"):
            nn.unroll(own.layer, own.init(key=KEY), xs, resets)
    with pytest.raises(ValueError, match="resets of 12 steps"):
        nn.unroll(own.layer, own.init(key=KEY), xs, (jnp.asarray(RESETS[1:]), KEYS[1:]))
    with pytest.raises(ValueError, match="adds its layer's output"):
        nn.Residual(sg.Readout(IN, OUT, key=KEY))((), xs[0])


def test_only_refuses_what_it_cannot_mean():
    lru, gru = sg.cells.LRU(IN, 4, key=KEY), sg.cells.GRU(IN, 4, key=KEY)
    with pytest.raises(ValueError, match="no 'theta'; its recurrence has lambda, gamma, b"):
        sg.Recurrent(lru, sg.SnAp(1, only=("theta",)))
    with pytest.raises(TypeError, match="needs n=1"):
        sg.Recurrent(gru, sg.SnAp(2, only=("bias",)))
    with pytest.raises(ValueError, match="tuple of names"):
        sg.SnAp(1, only=())


# The optimiser's two groups.


def test_recurrent_parameters_learn_at_half_rate_without_decay():
    model = deep(2)
    inside = sg.optimisers.recurrent_parameters(model)
    cell = inside.blocks[0].recurrent.cell
    assert cell.nu and cell.theta and cell.gamma_log and cell.b_re and cell.b_im
    assert not (cell.c_re or cell.c_im or cell.d or inside.encoder.weight or inside.blocks[1].gated.gate.weight)
    parameters = eqx.filter(model, eqx.is_inexact_array)
    zero = jax.tree.map(jnp.zeros_like, parameters)
    ones = jax.tree.map(jnp.ones_like, parameters)
    updates = lambda optimiser, gradient: optimiser.update(gradient, optimiser.init(parameters), parameters)[0]
    with jax.numpy_dtype_promotion("standard"):
        decay = updates(sg.optimisers.adamw(1e-2, weight_decay=0.1)(model), zero)
        step = updates(sg.optimisers.adamw(1e-2, weight_decay=0.0)(model), ones)
    np.testing.assert_allclose(decay.encoder.weight, -1e-3 * model.encoder.weight)
    assert not jnp.any(decay.blocks[0].recurrent.cell.b_re)
    np.testing.assert_allclose(step.encoder.weight, -1e-2, rtol=1e-6)
    np.testing.assert_allclose(step.blocks[0].recurrent.cell.nu, -5e-3, rtol=1e-6)


def test_the_rate_warms_up_and_falls_as_a_cosine():
    model = deep(1)
    parameters = eqx.filter(model, eqx.is_inexact_array)
    optimiser = sg.optimisers.adamw(1.0, updates=10, warmup=2, weight_decay=0.0)(model)
    state, sizes = optimiser.init(parameters), []
    for _ in range(10):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimiser.update(jax.tree.map(jnp.ones_like, parameters), state, parameters)
        sizes.append(-float(updates.decoder.bias[0]))
    cosine = optax.cosine_decay_schedule(1.0, 8)
    np.testing.assert_allclose(sizes, [0, 0.5, *(cosine(t) for t in range(8))], atol=1e-6)
    with pytest.raises(ValueError, match="warmup"):
        sg.optimisers.adamw(1.0, updates=5, warmup=5)(model)


# The learner, streaming and in chunks.


@pytest.mark.parametrize("streams", [2])
def test_a_learner_learns_the_same_in_chunks(streams):
    """Windows that begin with a reset: traces then hold nothing of what was before."""
    window, rng = 6, np.random.default_rng(2)
    lead = () if streams is None else (streams,)
    xs, ys = rng.normal(size=(24, *lead, IN)), rng.normal(size=(24, *lead, OUT))
    ys[3] = np.nan
    resets = np.broadcast_to((np.arange(24) % window == 0).reshape(-1, *[1] * len(lead)), (24, *lead)).copy()
    resets[[8, 15]] = True  # and within a window
    weights = []
    for chunked in (False, True):
        learner = sg.Learner(
            deep(1, pooling=True, dropout=0.3),
            optax.sgd(0.1),
            loss=sg.losses.mse,
            update_every=window,
            chunked=chunked,
            streams=streams,
        )
        st, out = learner.run(learner.init(key=KEY), xs, ys, resets=resets)
        assert st.skipped == 0 and np.isfinite(out.prediction).all()
        weights.append((out.prediction, eqx.filter(learner.model(st), eqx.is_inexact_array)))
    for a, b in zip(*map(jax.tree.leaves, weights), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-8, atol=1e-10)


def test_a_chunked_learner_keeps_no_traces_and_refuses_single_steps():
    learner = sg.Learner(deep(2), optax.sgd(0.1), loss=sg.losses.mse, update_every=4, chunked=True)
    carries = learner.init(key=KEY).memory.carry
    assert all(block[1].trace == () for block in carries[1:3])
    with pytest.raises(ValueError, match="update_every=window"):
        sg.Learner(deep(2), optax.sgd(0.1), loss=sg.losses.mse, chunked=True)
    sparse = functools.partial(sg.cells.GRU, wiring=sg.wiring.Sparse(fan_in=1))
    with pytest.raises(TypeError, match="no chunked gradient"):
        sg.Learner(
            deep(1, cell=sparse, algorithm=sg.SnAp(2)),
            optax.sgd(0.1),
            loss=sg.losses.mse,
            update_every=4,
            chunked=True,
        )


def test_explain_tells_the_price_of_both():
    text = str(sg.explain(deep(1), jnp.zeros(IN)))
    assert "chunked, a step" in text and "as streamed" in text
