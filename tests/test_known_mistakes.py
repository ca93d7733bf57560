"""Mistakes seen in code for these methods. For each: the check passes on the library and fails on the mistake.

Influence that grows with time (7) or with the square of the batch (8) is in `test_memory.py`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from oracles import assert_no_silent_parameter, assert_same, named

import streamgrad as sg

KEY = jax.random.key(0)
IN, UNITS, STEPS = 3, 4, 5
cells = sg.cells


def mistaken(said="Not equal to tolerance"):
    return pytest.raises(AssertionError, match=said)


def make(kind=cells.Vanilla, columns=False, **options):
    wiring = sg.wiring.Columns() if columns else sg.wiring.Dense()
    return oracles.randomised(kind(IN, UNITS, wiring=wiring, key=KEY, **options), seed=0)


def exact(cell, problem):
    return named(oracles.bptt(cell, *problem))


def online(cell, algorithm, problem):
    return oracles.online(sg.Recurrent(cell, algorithm), *problem)


def summed(gradient):
    return {name: leaf.sum(0, keepdims=True) for name, leaf in gradient.items()}


def first(gradient):
    return {name: leaf[:1] for name, leaf in gradient.items()}


def test_1_masks_are_structural():
    """A mask from the values of I erases what one-hot inputs left in J."""
    cell = make()
    problem = oracles.problem(cell, STEPS, seed=0, one_hot=True)
    linear = oracles.linearise(cell, *problem)
    mask = oracles.pattern_of_wiring(cell).mask(1)
    want = linear.gradient(oracles.brute_force(linear.immediate, linear.dynamics, mask))
    assert_same(online(cell, sg.SnAp(n=1), problem), want)

    kept, steps = np.zeros_like(linear.immediate[0]), []
    for i, d in zip(linear.immediate, linear.dynamics, strict=True):
        kept = (i != 0) * (i + d @ kept)
        steps.append(kept)
    with mistaken():
        assert_same(linear.gradient(np.stack(steps)), want)


def test_2_an_lstm_takes_its_loss_at_h_alone():
    """The trace of h holds the path through c: a signal at c as well counts it twice, at T = 1 already."""
    cell = make(cells.LSTM)
    problem = oracles.problem(cell, 1, seed=0)
    want = exact(cell, problem)
    for algorithm in (sg.SnAp(n=1), sg.RTRL(), sg.TBPTT(window=1)):
        assert sg.Recurrent(cell, algorithm).algorithm.traits(cell.core()).exact_at_one_step
        assert_same(online(cell, algorithm, problem), want)

    linear = oracles.linearise(cell, *problem)
    c, h = np.asarray(cell(cell.init_state(), problem[0][0]))
    linear.delta = linear.delta.copy()
    linear.delta[0, :UNITS] += linear.delta[0, UNITS:] * h / np.tanh(c) * (1 - np.tanh(c) ** 2)
    twice = linear.gradient(linear.immediate)
    with mistaken():
        assert_same(twice, want)
    factor = np.array([2, 2, 2, 1])[:, None]  # of the gates i, f, g and o
    np.testing.assert_allclose(twice[".weight_x"], factor * want[".weight_x"])


class ForgetsItsBias(sg.SnAp):
    """A parameter that the trace does not know of."""

    def pullback(self, core, residual, cotangent):
        nothing, gradient = super().pullback(core, residual, cotangent)
        return nothing, eqx.tree_at(lambda bank: bank.weights[-1], gradient, replace_fn=jnp.zeros_like)


def test_3_no_parameter_is_left_out_in_silence():
    cell = make(cells.GRU)
    problem = oracles.problem(cell, STEPS, seed=0)
    assert_no_silent_parameter(online(cell, sg.SnAp(n=1), problem))
    with mistaken("get no gradient"):
        assert_no_silent_parameter(online(cell, ForgetsItsBias(n=1), problem))


def test_3_what_stands_around_a_layer_learns_too():
    """Encoder, recurrent layer, readout: one step, every parameter."""
    encoder = eqx.nn.Linear(2, IN, key=KEY)
    readout = sg.Readout(UNITS, 1, key=KEY)
    model = sg.nn.Sequential([encoder, sg.Recurrent(make(cells.GRU), sg.SnAp(n=1)), readout])

    @eqx.filter_jit
    @eqx.filter_grad
    def gradient(model, carry):
        return model(carry, jnp.ones(2))[1].sum()

    carry = model.init(key=KEY)
    carry = jax.tree.map(lambda leaf: leaf + 0.1, carry)  # at zero, recurrent weights have no effect
    assert_no_silent_parameter(named(gradient(model, carry)))


@jax.custom_jvp
def sigmoid(v):
    return jax.nn.sigmoid(v)


@sigmoid.defjvp
def _(primals, tangents):
    """The mistake: the slope taken at σ(v) instead of at v."""
    value = jax.nn.sigmoid(primals[0])
    again = jax.nn.sigmoid(value)
    return value, again * (1 - again) * tangents[0]


def _gru(state, drives):
    (h,), (z, r, a, c) = state, drives
    z, r = sigmoid(z), sigmoid(r)
    return ((1 - z) * h + z * jnp.tanh(a + r * c),)


class WrongSlope(cells.GRU):
    unit = property(lambda self: _gru)


def unconnected(kind):
    cell = make(kind)
    return eqx.tree_at(lambda cell: cell.weight_h, cell, jnp.zeros_like(cell.weight_h))


def test_4_gru_snap_1_is_exact_with_zero_recurrent_weights():
    cell = unconnected(cells.GRU)
    problem = oracles.problem(cell, STEPS, seed=0)
    want = exact(cell, problem)
    assert_same(online(cell, sg.SnAp(n=1), problem), want)

    with mistaken():  # σ'
        assert_same(online(unconnected(WrongSlope), sg.SnAp(n=1), problem), want)

    linear = oracles.linearise(cell, *problem)
    i, d = linear.immediate, linear.dynamics
    with mistaken():  # the diagonal of the wrong matrix
        assert_same(linear.gradient(oracles.brute_force(i, np.roll(d, 1, axis=(1, 2)))), want)

    influence = oracles.brute_force(i, d)
    total = lambda delta: summed(linear.named(np.einsum("tr,trp->tp", delta, influence)))
    assert_same(total(linear.delta), summed(want))
    adjoint = linear.delta.copy()
    for t in range(STEPS - 2, -1, -1):
        adjoint[t] += adjoint[t + 1] @ d[t + 1]
    with mistaken():  # the adjoint of all later losses, times a trace of all earlier steps
        assert_same(total(adjoint), summed(want))


def test_5_snap_1_of_a_diagonal_rnn_is_exact():
    """The trace of input weights takes x_t, not x_{t-1}."""
    cell = make(columns=True)
    problem = oracles.problem(cell, STEPS, seed=0)
    want = exact(cell, problem)
    assert_same(online(cell, sg.SnAp(n=1), problem), want)

    linear = oracles.linearise(cell, *problem)
    slope = linear.immediate[:, :, -UNITS:]  # of the bias: φ'
    late = np.concatenate([np.zeros((1, IN)), problem[0][:-1]])
    shifted = linear.immediate.copy()
    shifted[:, :, : IN * UNITS] = np.einsum("tru,tk->trku", slope, late).reshape(STEPS, UNITS, -1)
    with mistaken():
        assert_same(linear.gradient(oracles.brute_force(shifted, linear.dynamics)), want)


def two_columns():
    return make(cells.GRU, columns=True), oracles.randomised(cells.GRU(UNITS, 2, key=KEY), seed=1)


def at_t(columns, state, x):
    """The second stage reads what the first one has just computed."""
    lower = columns[0](state[0], x)
    return lower, columns[1](state[1], columns[0].output(lower, x))


def at_t_minus_1(columns, state, x):
    """The second stage reads what the first one held."""
    lower = columns[0](state[0], x)
    return lower, columns[1](state[1], columns[0].output(state[0], x))


def mixed(columns, state, x):
    """The mistake: values from t - 1, derivatives as though from t."""
    value, derivative = at_t_minus_1(columns, state, x), at_t(columns, state, x)
    return jax.tree.map(lambda v, d: d + jax.lax.stop_gradient(v - d), value, derivative)


def test_6_stages_are_differentiated_as_they_are_computed():
    columns = two_columns()
    start = tuple(cell.init_state() for cell in columns)
    build = lambda step: cells.Function(step, columns, start, in_size=IN, pattern="dense")
    problem = oracles.problem(build(at_t), STEPS, seed=0)
    chain = cells.Chain(columns)
    for step in (at_t, at_t_minus_1):
        assert_same(online(build(step), sg.RTRL(), problem), exact(build(step), problem))
    np.testing.assert_allclose(chain(start, problem[0][0])[1], at_t(columns, start, problem[0][0])[1])
    with mistaken():
        assert_same(online(build(mixed), sg.RTRL(), problem), exact(build(at_t_minus_1), problem))


class Drawn(sg.Frozen):
    """An algorithm that draws a direction at the start of every sequence, as UORO and its like do."""

    def init(self, core, state, *, key):
        return jax.random.normal(key, (4,))

    def advance(self, core, trace, state, x, context):
        return core(state, x), trace, ()


class FixedKey(Drawn):
    def init(self, core, state, *, key):
        return super().init(core, state, key=jax.random.key(0))


def assert_draws_differ(algorithm):
    """Between streams, and between the sequences of one stream."""
    model = sg.Recurrent(make(), algorithm)
    learner = sg.Learner(model, optax.sgd(0.1), loss=sg.losses.mse, streams=2)
    st = learner.init(key=KEY)
    draws = [*np.asarray(st.memory.carry.trace)]
    x, target = np.ones((2, IN)), np.ones((2, UNITS))
    for reset in (False, True, True):
        st, _ = learner.step(st, x, target, reset=np.full(2, reset))
        if reset:
            draws += [*np.asarray(st.memory.carry.trace)]
    assert len({draw.tobytes() for draw in draws}) == 6, "the same numbers were drawn twice"


def test_9_streams_and_sequences_draw_numbers_of_their_own():
    assert_draws_differ(Drawn())
    with mistaken("drawn twice"):
        assert_draws_differ(FixedKey())


HORIZON = 3


def forecaster(**options):
    layer = sg.Recurrent(cells.GRU(1, UNITS, key=KEY), sg.SnAp(n=1))
    model = sg.nn.Sequential([layer, sg.Readout(UNITS, 1, key=KEY)])
    return sg.Learner(model, optax.sgd(0.5), loss=sg.losses.mse, **options)


def late(series):
    """Forecasts of series[t + 3] at t: the target that comes at t is series[t], of the input 3 steps ago."""
    learner = forecaster(delay=HORIZON)
    _, out = learner.run(learner.init(key=KEY), series, series)
    return out.prediction


def early(series):
    """The mistake: at t, after its forecast, the learner is shown series[t + 3]."""
    learner = forecaster()
    _, out = learner.run(learner.init(key=KEY), series[:-HORIZON], series[HORIZON:])
    return out.prediction


def assert_causal(protocol):
    """A forecast made at t does not depend on the series after t."""
    series = np.sin(np.arange(16.0))[:, None]
    other = series.copy()
    other[9:] += 1
    np.testing.assert_array_equal(protocol(series)[:9], protocol(other)[:9])


def test_10_a_forecaster_does_not_see_the_future():
    assert_causal(late)
    with mistaken("Arrays are not equal"):
        assert_causal(early)


def test_11_an_algorithm_is_driven_one_step_at_a_time():
    """Reverse mode through the whole sequence calls one-step truncation exact; the driver does not."""
    cell = make()
    problem = oracles.problem(cell, STEPS, seed=0)
    truncated = sg.Recurrent(cell, sg.BPTT())
    assert_same(oracles.bptt_window(truncated, *problem), summed(exact(cell, problem)))
    with mistaken():
        assert_same(oracles.online(truncated, *problem), exact(cell, problem))


def assert_survives_a_missing_label(learn):
    xs, targets = np.ones((6, 1)), np.ones((6, 1))
    targets[2] = np.nan
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(learn(xs, targets))), "poisoned"


def with_the_learner(xs, targets):
    learner = forecaster()
    st, _ = learner.run(learner.init(key=KEY), xs, targets)
    return eqx.filter(learner.model(st), eqx.is_inexact_array)


def with_a_bare_loop(xs, targets):
    model = sg.Readout(1, 1, key=KEY)
    for x, target in zip(jnp.asarray(xs), jnp.asarray(targets), strict=True):
        gradient = jax.grad(lambda model, x=x, target=target: sg.losses.mse(model(x), target))(model)
        model = jax.tree.map(lambda w, g: w - 0.1 * g, model, gradient)
    return model


def test_12_one_nan_label_does_not_poison():
    assert_survives_a_missing_label(with_the_learner)
    with mistaken("poisoned"):
        assert_survives_a_missing_label(with_a_bare_loop)


class Advancing(sg.Learner):
    """A learner whose state moves when it is asked."""

    def predict(self, st, x):
        new, out = self.step(st, x, np.full(1, np.nan))
        st.arrays = new.arrays
        return out.prediction


def assert_asking_changes_nothing(kind):
    learner = kind(forecaster().model(forecaster().init(key=KEY)), optax.sgd(0.1), loss=sg.losses.mse)
    st, _ = learner.step(learner.init(key=KEY), np.ones(1), np.ones(1))
    np.testing.assert_array_equal(learner.predict(st, np.ones(1)), learner.predict(st, np.ones(1)))


def test_12_predict_advances_nothing():
    assert_asking_changes_nothing(sg.Learner)
    with mistaken("Arrays are not equal"):
        assert_asking_changes_nothing(Advancing)
