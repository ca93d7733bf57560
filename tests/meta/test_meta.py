"""Meta-learning through LMS, against plain differentiation of the inner learner and the published recursions."""

import dataclasses
import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import assert_no_silent_parameter, assert_same, distance, named

import streamgrad as sg

KEY = jax.random.key(0)
cells, wiring = sg.cells, sg.wiring
IN, UNITS, STEPS = 2, 3, 4


def filled(make, seed=0):
    """What `make` makes, with random numbers in every array: far quicker than to have them drawn by the cell."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(0.6 * rng.normal(size=leaf.shape)), eqx.filter_eval_shape(make))


def features(**options):
    cell = filled(lambda: cells.FeatureColumns(IN, UNITS, features=2, key=KEY, **options))
    awake = lambda c: (c.first_bias, c.second_bias)
    return eqx.tree_at(awake, cell, tuple(jnp.asarray(np.abs(leaf) + 0.3) for leaf in awake(cell)))


@dataclasses.dataclass
class Row:
    """A cell and a step size; `zero`: parameters that have nothing to act on; `linked`: whether columns hear others."""

    make: Callable
    step_size: float
    zero: tuple = ()
    linked: bool = True


ROWS = {
    "LSTM columns": Row(lambda: filled(lambda: cells.LSTM(IN, UNITS, wiring=wiring.Columns(), key=KEY)), 1e-3),
    "GRU": Row(lambda: filled(lambda: cells.GRU(IN, UNITS, key=KEY)), 0.02),
    "columns": Row(features, 0.02, (".links",)),
    "linked columns": Row(lambda: features(wiring=wiring.Sparse(density=0.4, counts="drawn")), 0.02),
}


def stream(inputs=IN, steps=STEPS):
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.normal(size=(steps, inputs))), jnp.asarray(rng.uniform(-50, 50, size=steps))


def stacked(steps):
    return {name: np.stack([step[name] for step in steps]) for name in steps[0]}


def half_squared(prediction, target):
    return jnp.sum((target - prediction) ** 2) / 2


@functools.cache
def row(name):
    return ROWS[name].make(), ROWS[name].step_size


def plain(cell, step_size):
    """The losses of all steps: columns, their readout, and LMS, written as a loop."""
    state, w, losses = cell.init_state(), jnp.zeros(cell.units), []
    for x, target in zip(*stream(), strict=True):
        state = cell(state, x)
        h = cell.output(state, x)
        error = target - w @ h
        losses.append(error**2 / 2)
        w = w + step_size * error * h
    return jnp.stack(losses)


def through_all(of, at):
    """The gradient of every step's loss by autodiff through h and w."""
    return named(eqx.filter_jit(eqx.filter_jacrev(of))(at))


@functools.cache
def truth(name):
    cell, step_size = row(name)
    return through_all(lambda cell: plain(cell, step_size), cell)


def drive(learner, algorithm, xs, targets, loss=half_squared):
    """One step at a time: the carries, the outputs and the gradient of each step's loss."""

    @eqx.filter_jit
    def step(layer, carry, x, target):
        def of(layer):
            new, y = layer(carry, x)
            return loss(y, target), (new, y)

        return eqx.filter_grad(of, has_aux=True)(layer)

    layer = sg.Recurrent(learner, algorithm)
    carry, found = layer.init(key=KEY), []
    for x, target in zip(xs, targets, strict=True):
        gradient, (carry, y) = step(layer, carry, x, target)
        found.append((carry, np.asarray(y), named(gradient.cell)))
    return found


@functools.cache
def meta(name, algorithm):
    """As `drive`, of LMS on this cell."""
    cell, step_size = row(name)
    xs, targets = stream()
    return drive(sg.meta.LMS(cell, step_size=step_size), algorithm, jnp.column_stack([xs, targets]), targets)


def gradients(found):
    return {name.removeprefix(".cell"): leaf for name, leaf in stacked([g for _, _, g in found]).items()}


def traits(learner, algorithm):
    layer = sg.Recurrent(learner, algorithm)
    return layer.algorithm.traits(layer.cell.core())


# LMS.


@pytest.mark.parametrize("name", ROWS)
def test_rtrl_of_lms_is_the_gradient_through_the_inner_learner(name):
    got, want = gradients(meta(name, sg.RTRL())), truth(name)
    assert_same(got, want)
    assert_no_silent_parameter(want, zero=ROWS[name].zero)
    assert traits(sg.meta.LMS(row(name)[0], step_size=0.1), sg.RTRL()).bias == "exact"


@pytest.mark.parametrize("name", ["LSTM columns", "GRU", "linked columns"])
def test_snap1_of_lms_is_the_published_recursion(name):
    """T, the effect on a column's own h, is SnAp-1's of the bare columns; TW, that on its weight, is written out."""
    (cell, step_size), (xs, targets) = row(name), stream()
    traces = drive(cell, sg.SnAp(1), xs, targets, loss=lambda h, _: jnp.sum(h))
    w, effect, want = np.zeros(UNITS), {name: np.zeros(leaf.shape) for name, leaf in named(cell).items()}, []
    for (_, h, trace), target in zip(traces, np.asarray(targets), strict=True):
        error = target - w @ h
        on_part = {name: w * trace[name] + h * effect[name] for name in trace}
        want.append({name: -error * leaf for name, leaf in on_part.items()})
        effect = {name: effect[name] + step_size * (error * trace[name] - h * on_part[name]) for name in trace}
        w = w + step_size * error * h
    found = meta(name, sg.SnAp(1))
    np.testing.assert_allclose(found[-1][0].state["weight"], w, rtol=1e-12)
    assert_same(gradients(found), stacked(want))
    told = traits(sg.meta.LMS(cell, step_size=0.1), sg.SnAp(1))
    assert told.bias == "biased" and "held fixed" in told.reason


def test_even_independent_columns_are_tied_by_the_error_they_share():
    got, want = gradients(meta("LSTM columns", sg.SnAp(1))), gradients(meta("LSTM columns", sg.RTRL()))
    apart = distance(got, want)
    assert apart[:2].max() < 1e-14, "weights that are still 0 pass nothing on"
    assert (apart[2:] > 1e-6).all() and apart.max() < 0.01


def test_the_trace_of_lms_has_a_number_for_each_parameter_and_entry():
    cell = row("LSTM columns")[0]
    trace = sg.Recurrent(sg.meta.LMS(cell, step_size=0.1), sg.SnAp(1)).init(key=KEY).trace
    entries = 2 + 2  # c and h, and the weight and part of each column
    assert sum(leaf.size for leaf in jax.tree.leaves(trace)) == entries * sum(
        leaf.size for leaf in named(cell).values()
    )


# Step sizes.


@functools.cache
def step_sizes():
    learner = sg.meta.StepSizes(UNITS, step_size=0.02)
    return eqx.tree_at(lambda m: m.log_step_size, learner, jnp.log(jnp.array([0.02, 0.05, 0.1])))


def test_rtrl_of_step_sizes_is_the_gradient_through_lms():
    learner, (xs, targets) = step_sizes(), stream(UNITS)

    def losses(learner):
        w, found = jnp.zeros(UNITS), []
        for x, target in zip(xs, targets, strict=True):
            error = target - w @ x
            found.append(error**2 / 2)
            w = w + jnp.exp(learner.log_step_size) * error * x
        return jnp.stack(found)

    inputs = jnp.column_stack([xs, targets])
    want = through_all(losses, learner)
    assert_same(gradients(drive(learner, sg.RTRL(), inputs, targets)), want)
    assert traits(learner, sg.RTRL()).bias == "exact"
    got = gradients(drive(learner, sg.SnAp(1), inputs, targets))
    assert traits(learner, sg.SnAp(1)).bias == "biased" and distance(got, want)[2:].min() > 1e-3


def test_one_unit_alone_shares_its_error_with_none():
    xs, targets = stream(1)
    learner, inputs = sg.meta.StepSizes(1, step_size=0.1), jnp.column_stack([xs, targets])
    got, want = (gradients(drive(learner, algorithm, inputs, targets)) for algorithm in (sg.SnAp(1), sg.RTRL()))
    assert_same(got, want)
    assert_no_silent_parameter(got)
    alone = sg.meta.LMS(filled(lambda: cells.LSTM(IN, 1, key=KEY)), step_size=0.1)
    assert traits(learner, sg.SnAp(1)).bias == traits(alone, sg.SnAp(1)).bias == "exact"


def idbd(xs, targets, beta, rate):
    """Sutton's recursion without its clipping, and with every step's weights and h from the step sizes *before* that
    step: the published one changes β first. Predictions, gradients by β, and β, at every step."""
    w, h, found = np.zeros(len(beta)), np.zeros(len(beta)), []
    for x, target in zip(xs, targets, strict=True):
        prediction, alpha = w @ x, np.exp(beta)
        error = target - prediction
        slope = -error * x * h
        beta = beta - rate * slope
        w = w + alpha * error * x
        h = h * (1 - alpha * x**2) + alpha * error * x
        found.append((prediction, slope, beta))
    return map(np.stack, zip(*found, strict=True))


def test_snap1_of_step_sizes_is_idbd():
    learner, (xs, targets) = step_sizes(), stream(UNITS)
    found = drive(learner, sg.SnAp(1), jnp.column_stack([xs, targets]), targets)
    prediction, slope, _ = idbd(np.asarray(xs), np.asarray(targets), np.asarray(learner.log_step_size), 0.0)
    np.testing.assert_allclose([y[0] for _, y, _ in found], prediction, rtol=1e-10, atol=1e-10)
    assert_same(gradients(found), {".log_step_size": slope})


def drifting(inputs, relevant, steps):
    """The first inputs count, with weights of 1 or -1, and every 20 steps one of them changes its sign."""
    rng = np.random.default_rng(0)
    xs, w, targets = rng.normal(size=(steps, inputs)), np.zeros(inputs), []
    w[:relevant] = 1
    for t, x in enumerate(xs):
        if t % 20 == 0:
            w[rng.integers(relevant)] *= -1
        targets.append(w @ x)
    return xs, np.array(targets)


def test_step_sizes_grow_where_the_target_drifts_and_shrink_elsewhere():
    xs, targets = drifting(inputs=8, relevant=3, steps=4000)
    learner = sg.Learner(
        sg.Recurrent(sg.meta.StepSizes(8, step_size=0.05), sg.SnAp(1)), optax.sgd(0.02), loss=half_squared
    )
    st, out = learner.run(learner.init(key=KEY), np.column_stack([xs, targets]), targets[:, None])
    found = np.exp(learner.model(st).cell.log_step_size)
    assert (found[:3] > 0.12).all() and (found[3:] < 0.03).all()
    # The error, too, is less than that of LMS with the step size at the start.
    prediction, _, beta = idbd(xs, targets, np.full(8, np.log(0.05)), 0.02)
    fixed, _, _ = idbd(xs, targets, np.full(8, np.log(0.05)), 0.0)
    late = slice(2000, None)
    mean = lambda prediction: np.mean((targets - prediction)[late] ** 2)
    assert mean(np.asarray(out.prediction)[:, 0]) < 0.6 * mean(fixed)
    np.testing.assert_allclose(np.asarray(out.prediction)[:, 0], prediction, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(found, np.exp(beta[-1]), rtol=1e-8)


# What both have in common.


@pytest.mark.parametrize("build", [lambda: sg.meta.LMS(row("GRU")[0], step_size=0.1), step_sizes], ids=["LMS", "steps"])
def test_a_prediction_is_made_before_its_target_is_known(build):
    learner = build()
    step = eqx.filter_jit(lambda learner, state, x: (new := learner(state, x), learner.output(new, x)))
    xs = np.random.default_rng(0).normal(size=(4, learner.in_size))
    state = learner.init_state()
    for x in xs[:3]:
        state, _ = step(learner, state, x)
    ends = {}
    for target in (-1e3, 0.0, 7.0):
        after, y = step(learner, state, np.append(xs[3][:-1], target))
        ends[target] = np.asarray(y), np.asarray(step(learner, after, xs[0])[1])
    now, later = zip(*ends.values(), strict=True)
    assert now[0] == now[1] == now[2] != 0 and len({float(y[0]) for y in later}) == 3


@pytest.mark.parametrize("build", [lambda: lms(row("GRU")[0]), step_sizes], ids=["LMS", "steps"])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_an_input_of_another_type_keeps_the_state_as_it_is(build, dtype):
    layer = sg.Recurrent(build(), sg.SnAp(1))
    carry = layer.init(key=KEY)
    after, y = eqx.filter_eval_shape(layer, carry, jnp.ones(layer.cell.in_size, dtype))
    types = lambda tree: [str(leaf.dtype) for leaf in jax.tree.leaves(tree)]
    assert types(after) == types(carry) and y.dtype == float


lms = lambda cell, step_size=0.1: sg.meta.LMS(cell, step_size=step_size)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: lms(row("GRU")[0], 0.0), ValueError, "step_size must be positive, got 0.0"),
        (lambda: lms(row("GRU")[0], float("nan")), ValueError, "step_size must be positive, got nan"),
        (lambda: sg.meta.StepSizes(3, step_size=-0.1), ValueError, "step_size must be positive, got -0.1"),
        (lambda: sg.meta.StepSizes(0, step_size=0.1), ValueError, "in_size must be a positive integer, got 0"),
        (
            lambda: lms(filled(lambda: cells.RTU(IN, 4, key=KEY))),
            TypeError,
            "one number for each unit, got 8 outputs of 4 units",
        ),
        (lambda: lms(lms(row("GRU")[0])), TypeError, "one number for each unit, got 1 outputs of 3 units"),
    ],
)
def test_what_lms_cannot_learn_through_is_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()


def ring(params, state, x):
    return jnp.tanh(params["u"] * jnp.roll(state, 1) + params["w"] @ x)


def test_a_cell_whose_units_cannot_be_told_apart_is_refused():
    params = {"u": jnp.ones(1), "w": jnp.ones((1, IN))}
    with pytest.raises(TypeError, match=r"the 1 units as their last axis, got .params\['w'\] of shape \(1, 2\)"):
        lms(cells.Function(ring, params, jnp.zeros(1), in_size=IN, pattern="dense"))
    with pytest.raises(TypeError, match="real state, got LRU"):
        lms(filled(lambda: cells.LRU(4, 4, key=KEY)))
    wide = filled(lambda: cells.GRU(IN, UNITS, reset_before=True, key=KEY))
    with pytest.raises(TypeError, match=r"told apart: use a cell made of drives \(sg.cells.LSTM, ...\)"):
        layer = sg.Recurrent(lms(wide), sg.SnAp(1))
        layer(layer.init(key=KEY), jnp.ones(IN + 1))
