"""The look at a gradient by one of its rows finds what a look at all of it finds."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import streamgrad as sg
from streamgrad.optimisers._masks import told_by_row
from streamgrad.train._soundness import BETWEEN_LOOKS

KEY = jax.random.key(0)
STEPS = 70  # more than a stretch between two looks at all
WILD = [np.nan, np.inf, -np.inf, 1e10, -1e15, 1e20, -1e30, 3e38]


def layers(cell, algorithm, **options):
    return [
        sg.Recurrent(cell(24, 40, key=KEY, dtype=jnp.float32, **options), algorithm),
        sg.Readout(40, 1, key=KEY, dtype=jnp.float32),
    ]


MODELS = {
    "GRU": lambda: layers(sg.cells.GRU, sg.SnAp(1)),
    "LSTM": lambda: layers(sg.cells.LSTM, sg.SnAp(1)),
    "RNN": lambda: layers(lambda *a, **o: sg.cells.Vanilla(150, 40, **o), sg.SnAp(1)),
    "linear": lambda: layers(lambda *a, **o: sg.cells.LinearRNN(150, 40, **o), sg.SnAp(1)),
    "columns": lambda: layers(lambda *a, **o: sg.cells.LSTM(40, 40, wiring=sg.wiring.Columns(), **o), sg.RTRL()),
    "sparse": lambda: layers(lambda *a, **o: sg.cells.GRU(40, 40, wiring=sg.wiring.Sparse(36), **o), sg.SnAp(1)),
    "RFLO": lambda: layers(lambda *a, **o: sg.cells.LeakyRNN(150, 40, **o), sg.RFLO()),
    "two layers": lambda: [
        sg.Recurrent(sg.cells.GRU(24, 40, key=KEY, dtype=jnp.float32), sg.SnAp(1)),
        *layers(lambda *a, **o: sg.cells.GRU(40, 40, **o), sg.SnAp(1)),
    ],
    "normalised": lambda: [sg.nn.Normalise(24), *layers(sg.cells.GRU, sg.SnAp(1))],
    "a hole between": lambda: [
        sg.Recurrent(sg.cells.GRU(24, 40, key=KEY, dtype=jnp.float32), sg.SnAp(1)),
        Plain(lambda x: x.at[3].divide(jnp.where(jnp.abs(x[0]) > 0.05, 1.0, 0.0))),
        *layers(lambda *a, **o: sg.cells.GRU(40, 40, **o), sg.SnAp(1)),
    ],
    "a steep readout": lambda: [
        (model := layers(sg.cells.GRU, sg.SnAp(1)))[0],
        Plain(jnp.cbrt),
        model[1],
    ],
}


class Plain(eqx.Module):
    """A function of what the layer below says."""

    function: object = eqx.field(static=True)

    def init(self, *, key):
        return ()

    def __call__(self, carry, x):
        return carry, self.function(x)


def learners(model, optimiser, **options):
    """By rows, and whole."""
    rows, whole = (sg.Learner(model, optimiser, loss=sg.losses.mse, **options) for _ in range(2))
    assert rows.program.told_by_row is not None
    whole.program.told_by_row = None
    return rows, whole


def wild_stream(inputs: int, seed: int):
    rng = np.random.default_rng(seed)
    xs, ys = rng.normal(size=(STEPS, inputs)).astype(np.float32), rng.normal(size=(STEPS, 1)).astype(np.float32)
    xs[0] = 0
    for _ in range(3):
        xs[rng.integers(STEPS), rng.integers(inputs)] = rng.choice(WILD)
    ys[rng.integers(STEPS), 0] = rng.choice(WILD)
    return xs, ys, rng.random(STEPS) < 0.03


QUICK = ("GRU", "columns", "a hole between", "a steep readout")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.full) for n in MODELS])
def test_a_row_tells_what_all_rows_tell(name):
    model = sg.nn.Sequential(MODELS[name]())
    rows, whole = learners(model, optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1e-2)))
    size = next(layer for layer in model.layers if isinstance(layer, sg.Recurrent)).cell.in_size
    skipped = 0
    for seed in range(8):
        xs, ys, resets = wild_stream(size, seed)
        (a, out), (b, other) = (each.run(each.init(key=KEY), xs, ys, resets=resets) for each in (rows, whole))
        np.testing.assert_array_equal(out.learned, other.learned)
        assert a.skipped == b.skipped
        for mine, theirs in zip(jax.tree.leaves(a.memory.model), jax.tree.leaves(b.memory.model), strict=True):
            assert np.isfinite(mine).all()
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
        skipped += a.skipped
    assert skipped > 2  # the streams were wild


def test_streams_and_windows_are_looked_at_by_rows_too():
    model = sg.nn.Sequential(MODELS["GRU"]())
    for options in ({"streams": 3}, {"update_every": 4}, {"delay": 2}):
        rows, whole = learners(model, optax.adam(1e-2), **options)
        xs, ys, _ = wild_stream(24, 1)
        if "streams" in options:
            xs, ys = (np.stack([a, a[::-1], np.roll(a, 9)], axis=1) for a in (xs, ys))
        (a, out), (b, other) = (each.run(each.init(key=KEY), xs, ys) for each in (rows, whole))
        np.testing.assert_array_equal(out.learned, other.learned)
        assert a.skipped == b.skipped > 0
        for mine, theirs in zip(jax.tree.leaves(a.memory.model), jax.tree.leaves(b.memory.model), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def test_a_trace_that_grows_without_end_is_noticed_in_time():
    model = sg.nn.Sequential(MODELS["RNN"]())
    learner = sg.Learner(model, optax.sgd(0.0), loss=sg.losses.mse)
    st = learner.init(key=KEY)
    memory = st.memory
    of_x, *others = memory.carry[0].trace
    huge = (jax.tree.map(lambda j: j.at[7:140].set(1.5e19), of_x), *others)  # not in the first row
    carry = (eqx.tree_at(lambda c: c.trace, memory.carry[0], huge), *memory.carry[1:])
    program = learner.program
    memory = memory._replace(carry=carry, steps=jnp.array([1, 0], jnp.uint32))
    step = jax.jit(program.step)
    kept = eqx.tree_at(lambda c: c.trace, memory.carry[0], huge)
    seen = 0
    for _ in range(BETWEEN_LOOKS):
        memory, _ = step(memory, jnp.zeros(150, jnp.float32), jnp.full(1, 1e3, jnp.float32), None)
        if int(memory.skipped):
            break
        memory = memory._replace(carry=(kept, *memory.carry[1:]))
        seen += 1
    assert int(memory.skipped) == 1 and seen == BETWEEN_LOOKS - 1
    assert bool(memory.broken)


def test_only_large_weights_are_told_by_a_row_where_all_that_their_layer_sees_is_looked_at():
    marked = lambda *parts: sum(jax.tree.leaves(told_by_row(sg.nn.Sequential(parts)) or False))
    gru, readout = layers(sg.cells.GRU, sg.SnAp(1))
    second = sg.Recurrent(sg.cells.GRU(40, 40, key=KEY, dtype=jnp.float32), sg.SnAp(1))
    assert marked(gru, readout) == 1  # weight_h alone has 4,096 entries
    assert marked(gru, second) == 3
    assert marked(Plain(jnp.exp), gru) == 0 and marked(gru, Plain(jnp.exp), second) == 1
    assert marked(Plain(jnp.exp), sg.nn.Normalise(24), gru) == 1
    assert marked(Plain(jnp.exp), sg.nn.Normalise(24, clip=1e12), gru) == 0
    assert marked(*layers(sg.cells.GRU, sg.SnAp(1, present="full"))) == 0
    assert marked(*layers(sg.cells.GRU, sg.SnAp(1, only=("weight_x",)))) == 0
    assert marked(sg.Recurrent(sg.cells.LRU(64, 64, key=KEY), sg.SnAp(1))) == 0
    assert marked(sg.Recurrent(sg.cells.GRU(8, 8, key=KEY), sg.SnAp(1))) == 0
    assert told_by_row(Tied(gru, readout)) is None  # its weights are read elsewhere, too
    assert told_by_row(eqx.nn.Shared((gru, second), lambda m: m[1].cell.weight_h, lambda m: m[0].cell.weight_h)) is None


class Tied(eqx.Module):
    layer: sg.Recurrent
    readout: sg.Readout

    def init(self, *, key):
        return self.layer.init(key=key)

    def __call__(self, carry, x):
        carry, h = self.layer(carry, x)
        return carry, self.readout(h) * jnp.sqrt((self.layer.cell.weight_x**2).sum(0)).mean()


def test_a_drive_that_overflows_is_no_fault_where_the_unit_saturates():
    model = sg.nn.Sequential(MODELS["GRU"]())
    xs, ys = np.zeros((20, 24), np.float32), np.ones((20, 1), np.float32)
    xs[5, :20] = -3.4e38  # what rasters call no data
    for learner in learners(model, optax.sgd(1e-2)):
        assert learner.run(learner.init(key=KEY), xs, ys)[0].skipped == 0


def test_a_zero_gradient_by_the_form_of_the_program_still_stays_under_decay():
    gru, readout = layers(sg.cells.GRU, sg.SnAp(1))
    model = sg.nn.Sequential([gru, Plain(lambda h: 0.0 * h), readout])
    learner = sg.Learner(model, optax.adamw(0.1, weight_decay=1.0), loss=sg.losses.mse)
    xs, ys, _ = wild_stream(24, 0)
    st, _ = learner.run(learner.init(key=KEY), np.nan_to_num(np.clip(xs, -3, 3)), np.ones_like(ys))
    np.testing.assert_array_equal(learner.model(st).layers[0].cell.weight_h, gru.cell.weight_h)


def test_an_optimiser_may_say_its_state_in_another_shape():
    odd = optax.GradientTransformation(
        lambda p: jnp.zeros((1, 3)), lambda updates, state, params=None: (updates, state[0])
    )
    learner = sg.Learner(sg.nn.Sequential(MODELS["GRU"]()), optax.chain(odd, optax.sgd(1e-2)), loss=sg.losses.mse)
    _, out = learner.step(learner.init(key=KEY), np.ones(24, np.float32), np.ones(1, np.float32))
    assert out.learned


def test_an_optimiser_with_arrays_rests_where_there_is_no_target():
    model = sg.nn.Sequential(MODELS["GRU"]())
    learner = sg.Learner(model, optax.adam(1e-2), loss=sg.losses.mse)
    xs, ys, _ = wild_stream(24, 0)
    xs = np.nan_to_num(np.clip(xs, -3, 3))
    st, _ = learner.run(learner.init(key=KEY), xs, np.ones_like(ys))
    before = jax.tree.map(np.array, (st.memory.model, st.memory.optimiser))
    st, out = learner.run(st, xs, np.full_like(ys, np.nan))
    assert not out.learned.any()
    for old, new in zip(*map(jax.tree.leaves, (before, (st.memory.model, st.memory.optimiser))), strict=True):
        np.testing.assert_array_equal(old, new)
