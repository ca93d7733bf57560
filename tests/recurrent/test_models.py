"""Several layers in one model: which gradients are exact, and that `explain` knows."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from oracles import assert_same, distance, named

import streamgrad as sg

KEY = jax.random.key(0)
IN, STEPS = 3, 7
cells = sg.cells
LOWER = oracles.randomised(cells.GRU(IN, 4, key=KEY), seed=0)
UPPER = oracles.randomised(cells.LSTM(4, 3, key=KEY), seed=1)
BESIDE = oracles.randomised(cells.LRU(IN, 2, out_size=2, key=KEY), seed=2)
READOUT = sg.Readout(3, 2, key=KEY)
LAYER = functools.partial(sg.Recurrent, algorithm=sg.RTRL())
STACK = sg.nn.Sequential([LAYER(LOWER), jnp.tanh, LAYER(UPPER), READOUT])
PARALLEL = sg.nn.Parallel([LAYER(LOWER), LAYER(BESIDE)])


def problem(out_size):
    rng = np.random.default_rng(0)
    xs = jnp.asarray(rng.normal(size=(STEPS, IN)))
    return xs, (jnp.asarray(rng.normal(size=(STEPS, out_size))), jnp.asarray(rng.normal(size=(STEPS, out_size))))


def online(model, xs, weights):
    """The gradient of every step's loss for all of a model, one step at a time."""

    @eqx.filter_jit
    def step(model, carry, x, weights):
        def objective(model):
            new, y = model(carry, x)
            return oracles.loss(y, weights), new

        return eqx.filter_grad(objective, has_aux=True)(model)

    carry, steps = model.init(key=KEY), []
    for x, *w in zip(xs, *weights, strict=True):
        gradient, carry = step(model, carry, x, tuple(w))
        steps.append(named(gradient))
    return {name: np.stack([each[name] for each in steps]) for name in steps[0]}


def exact(model, run, xs, weights):
    """The same by differentiating `run(parts, state, x) -> state, y` through time, cells alone."""
    parameters, fixed = eqx.partition(model, eqx.is_inexact_array)

    @jax.jit
    def losses(parameters):
        model = eqx.combine(parameters, fixed)

        def body(states, now):
            states, y = run(model, states, now[0])
            return states, oracles.loss(y, now[1])

        start = tuple(layer.cell.init_state() for layer in model.layers if isinstance(layer, sg.Recurrent))
        return jax.lax.scan(body, start, (xs, weights))[1]

    return named(jax.jacrev(losses)(parameters))


def stack(model, states, x):
    lower, _, upper, readout = model.layers
    s1 = lower.cell(states[0], x)
    s2 = upper.cell(states[1], jnp.tanh(lower.cell.output(s1, x)))
    return (s1, s2), readout(upper.cell.output(s2, x))


def side_by_side(model, states, x):
    new = tuple(layer.cell(state, x) for layer, state in zip(model.layers, states, strict=True))
    return new, jnp.concatenate([layer.cell.output(s, x) for layer, s in zip(model.layers, new, strict=True)])


def part(gradient, prefix):
    return {name: leaf for name, leaf in gradient.items() if name.startswith(prefix)}


def test_of_a_stack_the_last_layer_is_exact():
    got, want = online(STACK, *problem(2)), exact(STACK, stack, *problem(2))
    for layer in (".layers[2]", ".layers[3]"):  # and the readout above it
        assert_same(part(got, layer), part(want, layer))
    below = distance(part(got, ".layers[0]"), part(want, ".layers[0]"))
    assert below[0] < 1e-10 and below[-1] > 1e-3


def test_parallel_layers_are_both_exact():
    assert_same(online(PARALLEL, *problem(6)), exact(PARALLEL, side_by_side, *problem(6)))


def test_one_chain_is_exact_throughout():
    chain = LAYER(cells.Chain([LOWER, UPPER]))
    xs, weights = problem(3)
    model = sg.nn.Sequential([LAYER(LOWER), LAYER(UPPER)])

    def run(model, states, x):
        s1 = model.layers[0].cell(states[0], x)
        s2 = model.layers[1].cell(states[1], s1[0])
        return (s1, s2), s2[1]

    want = exact(model, run, xs, weights)
    rename = lambda name: name.replace(".cell.cells[", ".layers[").replace("].", "].cell.", 1)
    assert_same({rename(name): leaf for name, leaf in online(chain, xs, weights).items()}, want)


def test_layers_may_learn_by_different_algorithms():
    """Each as it does alone: the signal from above is all that they share."""
    mixed = sg.nn.Parallel([sg.Recurrent(LOWER, sg.SnAp(n=1)), sg.Recurrent(BESIDE, sg.RTRL())])
    got, want = online(mixed, *problem(6)), online(PARALLEL, *problem(6))
    assert_same(part(got, ".layers[1]"), part(want, ".layers[1]"))
    assert distance(part(got, ".layers[0]"), part(want, ".layers[0]"))[-1] > 1e-3
    xs, (scale, shift) = problem(6)
    alone = oracles.online(mixed.layers[0], xs, (scale[:, :4], shift[:, :4]))
    assert_same({name.removeprefix(".layers[0].cell"): leaf for name, leaf in part(got, ".layers[0]").items()}, alone)


def test_explain_says_so():
    x = jnp.ones(IN)
    told = sg.explain(STACK, x)
    assert [layer.gradient for layer in told.layers] == ["biased", "exact"] and not told.exact
    assert "layers[2]" in told.layers[0].reason and not any(told.others.values())
    assert [layer.gradient for layer in sg.explain(PARALLEL, x).layers] == ["exact", "exact"]
    assert sg.explain(LAYER(cells.Chain([LOWER, UPPER])), x).exact
    assert not sg.explain(sg.Recurrent(LOWER, sg.SnAp(n=1)), x).exact
    assert "layers[2]" in str(told) and "RTRL" in str(told)


@pytest.mark.parametrize(
    ("algorithm", "right"), [(sg.RTRL(), True), (sg.SnAp(n=2), True), (sg.BPTT(), True), (sg.SnAp(n=1), False)]
)
def test_check_gradients_tells_exact_from_biased(algorithm, right):
    found = sg.check_gradients(sg.Recurrent(LOWER, algorithm), problem(4)[0], key=KEY)
    assert set(found.parameters) == {"weight_x", "weight_h", "bias"}
    assert (found.worst < 1e-10) == right
    if not right:
        assert found.worst > 1e-3 and min(found.cosines) < 1 - 1e-6


class Wrong(sg.RTRL):
    """An algorithm with an error of one in a thousand."""

    def pullback(self, core, residual, cotangent):
        return super().pullback(core, residual, jax.tree.map(lambda d: 1.001 * d, cotangent))


def test_check_gradients_sees_a_small_error():
    found = sg.check_gradients(sg.Recurrent(LOWER, Wrong()), problem(4)[0], key=KEY)
    assert found.worst == pytest.approx(1e-3, rel=1e-3)


def test_inference_predicts_the_same_without_traces():
    serving = sg.inference(STACK)
    carry, bare = STACK.init(key=KEY), serving.init(key=KEY)
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    assert count(bare) == 4 + 2 * 3 < count(carry)
    step = eqx.filter_jit(lambda model, carry, x: model(carry, x))
    for x in problem(2)[0]:
        (carry, y), (bare, same) = step(STACK, carry, x), step(serving, bare, x)
        np.testing.assert_allclose(y, same, rtol=1e-13)


# Every layout of an influence is the same influence.


@pytest.mark.parametrize("kind", [cells.GRU, cells.LSTM])
@pytest.mark.parametrize("n", [2, 3])
def test_layouts_of_a_sparse_influence_agree(kind, n):
    from streamgrad._base.static import Static
    from streamgrad.influence._dense import DenseRows
    from streamgrad.influence._gathered_rows import GatheredRows

    cell = oracles.randomised(kind(IN, 12, wiring=sg.wiring.Sparse(fan_in=1, seed=0), key=KEY), seed=0)
    xs, weights = oracles.problem(cell, STEPS, seed=0)
    linear = oracles.linearise(cell, xs, weights)
    mask = oracles.pattern_of_wiring(cell).mask(n)
    want = linear.gradient(oracles.brute_force(linear.immediate, linear.dynamics, mask))
    layer = sg.Recurrent(cell, sg.SnAp(n=n))
    for layout in GatheredRows(n), DenseRows(1, Static(cell.core().structure.reach(n))):
        planned = dataclasses.replace(layer.algorithm, layout=layout)
        forced = eqx.tree_at(lambda layer: layer.algorithm, layer, planned, is_leaf=lambda a: a is layer.algorithm)
        assert_same(oracles.online(forced, xs, weights), want)


@pytest.mark.parametrize("kind", [cells.GRU, pytest.param(cells.LSTM, marks=pytest.mark.full)])
def test_a_large_cell_takes_the_path_of_large_cells(kind):
    """From some thousands of parameters on, SnAp-1 keeps its coefficients apart: the numbers stay the same."""
    cell = oracles.randomised(kind(IN, 48, key=KEY), seed=0)
    xs, weights = oracles.problem(cell, 4, seed=0)
    linear = oracles.linearise(cell, xs, weights)
    mask = oracles.pattern_of_wiring(cell).mask(1)
    want = linear.gradient(oracles.brute_force(linear.immediate, linear.dynamics, mask))
    assert_same(oracles.online(sg.Recurrent(cell, sg.SnAp(n=1)), xs, weights), want)
