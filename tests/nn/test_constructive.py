"""Networks that grow: only the newest stage learns, and its gradient is exact."""

import dataclasses
import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import assert_no_silent_parameter, assert_same, loss, named

import streamgrad as sg

KEY = jax.random.key(0)
IN, UNITS, PER_STAGE, OUT, STEPS = 2, 5, 2, 2, 9
DECAY, FLOOR = 0.8, 0.05
nn = sg.nn


def columns(in_size, units, *, key):
    """A stage of LSTM columns that normalises its inputs."""
    cell = sg.cells.LSTM(in_size, units, wiring=sg.wiring.Columns(), key=key)
    before = nn.Normalise(in_size, decay=DECAY, floor=FLOOR, clip=np.inf)
    return nn.Sequential([before, sg.Recurrent(cell, sg.SnAp(1))])


def plain_stage(in_size, units, *, key):
    """The same with simpler units."""
    cell = sg.cells.IndRNN(in_size, units, key=key, activation=jnp.tanh)
    return nn.Sequential([nn.Normalise(in_size), sg.Recurrent(cell, sg.SnAp(1))])


class Hasty(nn.Constructive):
    """A mistake: a stage sees what the earlier ones put out at this very step."""

    def __call__(self, carry, x):
        stages, outputs = [], []
        for stage, own in zip(self.stages, carry.stages, strict=True):
            own, y = stage(own, jnp.concatenate([x, *map(jax.lax.stop_gradient, outputs)]))
            stages.append(own)
            outputs.append(y)
        earlier = jnp.concatenate([carry.earlier[:0], *outputs[:-1]])
        return nn.Grown(tuple(stages), earlier, outputs[-1]), jnp.concatenate(outputs)


@functools.cache
def network(stages, stage=columns, kind=nn.Constructive):
    """A model with that many stages and its carry, before the first step."""
    if stages == 1:
        net = kind(stage, IN, units=UNITS, per_stage=PER_STAGE, key=jax.random.key(7))
        model = nn.Sequential([net, sg.Readout(PER_STAGE, OUT, key=KEY)])
        return model, model.init(key=KEY)
    model, carry = network(stages - 1, stage, kind)
    model, _ = model.grow(carry, key=jax.random.key(stages))
    # New features count for nothing at first: the readout is drawn anew, so that every column has a say.
    model = eqx.tree_at(lambda m: m.layers[1], model, sg.Readout(model.layers[0].out_size, OUT, key=KEY))
    return model, model.init(key=KEY)


def stream(seed=0):
    rng = np.random.default_rng(seed)
    scale, shift = rng.normal(size=(2, STEPS, OUT))
    return jnp.asarray(rng.normal(size=(STEPS, IN)) * [1, 3]), (jnp.asarray(scale), jnp.asarray(shift))


@eqx.filter_jit
def call(model, carry, x):
    return model(carry, x)


# The gradient of the newest stage, against autodiff through all of time.


def cells(model):
    """The cells of all stages, and those that are fixed already without their wrapper."""
    stages = [stage.layer if isinstance(stage, nn.Fixed) else stage for stage in model.layers[0].stages]
    return [stage.layers[1].cell for stage in stages]


def lstm(theta, state, x):
    wx, wh, b = theta
    c, h = state
    i, f, g, o = jnp.einsum("j,jkn->kn", x, wx) + wh[0] * h + b
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return c, jax.nn.sigmoid(o) * jnp.tanh(c)


def losses(stages, readout, xs, weights):
    """The loss of every step: all stages in a plain loop over time, by the written equations."""
    sizes = [theta[2].shape[1] for theta in stages]
    inputs = [IN + sum(sizes[:k]) for k in range(len(stages))]
    zeros = jnp.zeros
    start = [(zeros(d), zeros(d), (zeros(n), zeros(n))) for d, n in zip(inputs, sizes, strict=True)]

    def body(state, now):
        t, x, w = now
        before = jnp.concatenate([h for _, _, (_, h) in state])
        new, outputs = [], []
        for theta, d, (mean, variance, own) in zip(stages, inputs, state, strict=True):
            seen = jnp.concatenate([x, before])[:d]
            share = jnp.maximum(1 / t, 1 - DECAY)
            old, mean = mean, mean + share * (seen - mean)
            variance = (1 - share) * variance + share * (seen - old) * (seen - mean)
            own = lstm(theta, own, (seen - mean) / jnp.sqrt(jnp.maximum(variance, FLOOR)))
            new.append((mean, variance, own))
            outputs.append(own[1])
        w_out, b_out = readout
        return new, loss(w_out @ jnp.concatenate(outputs) + b_out, w)

    times = jnp.arange(1, len(xs) + 1, dtype=xs.dtype)
    return jax.lax.scan(body, start, (times, xs, weights))[1]


by_parameter = jax.jit(jax.jacrev(losses, argnums=(0, 1)))
NAMES = ("weight_x", "weight_h", "bias", "readout", "readout bias")


def of_cell(cell):
    return cell.weight_x, cell.weight_h, cell.bias


def through_time(model, xs, weights):
    """The gradient of every step's loss by the newest stage and the readout, through all of the past.

    One program for all: stages that the model does not have yet run along, and the readout does not hear them."""
    newest, units = len(model.layers[0].stages) - 1, model.layers[0].out_size
    stages, readout = [of_cell(cell) for cell in cells(network(3)[0])], model.layers[1]
    heard = jnp.pad(readout.weight, ((0, 0), (0, UNITS - units)))
    by_cell, (by_weight, by_bias) = by_parameter(stages, (heard, readout.bias), xs, weights)
    gradient = *by_cell[newest], by_weight[..., :units], by_bias
    return dict(zip(NAMES, map(np.asarray, gradient), strict=True))


@eqx.filter_jit
def step(model, carry, x, w):
    def objective(model):
        new, y = model(carry, x)
        return loss(y, w), new

    (_, new), gradient = eqx.filter_value_and_grad(objective, has_aux=True)(model)
    return new, gradient


def online(model, carry, xs, weights):
    """The library's gradient at every step, and by the earlier stages."""
    steps, others = [], []
    for x, *w in zip(xs, *weights, strict=True):
        carry, gradient = step(model, carry, x, tuple(w))
        *fixed, newest = map(of_cell, cells(gradient))
        readout = gradient.layers[1].weight, gradient.layers[1].bias
        steps.append([*newest, *readout])
        others += itertools.chain(*fixed)
    each = [np.stack(leaves) for leaves in zip(*steps, strict=True)]
    return dict(zip(NAMES, each, strict=True)), others


def moving(model):
    """The model with statistics of earlier stages that move, as the plain loop's do from the first step on."""
    is_normal = lambda node: isinstance(node, nn.Normalise)
    free = lambda node: dataclasses.replace(node, still=False) if is_normal(node) else node
    return jax.tree.map(free, model, is_leaf=is_normal)


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_the_gradient_of_the_newest_stage_is_exact(stages):
    model, carry = network(stages)
    model, given = moving(model), stream()
    want = through_time(model, *given)
    got, others = online(model, carry, *given)
    assert_same(got, want)
    assert_no_silent_parameter(want)
    assert not any(np.any(leaf) for leaf in others)
    # The inputs from other columns are among those that learn.
    assert cells(model)[-1].in_size == IN + PER_STAGE * (stages - 1) and np.abs(want["weight_x"][-1]).min() > 1e-9


def test_an_earlier_column_seen_too_early_is_noticed():
    model, carry = network(2, columns, Hasty)
    model, given = moving(model), stream()
    with pytest.raises(AssertionError, match="step 1"):
        assert_same(online(model, carry, *given)[0], through_time(model, *given))


def test_explain_calls_the_newest_stage_exact():
    model, _ = network(2, plain_stage)
    told = sg.explain(model, jnp.zeros(IN))
    earlier, newest = told.layers
    assert newest.gradient == "exact" and newest.feeds == ()
    assert earlier.algorithm == "Frozen" and "does not learn" in earlier.reason
    assert set(told.others.values()) == {()}


# What is fixed, and what grows.


def traces(carry):
    is_carry = lambda node: isinstance(node, sg.algorithms.Carry)
    nodes = [node for node in jax.tree.leaves(carry, is_leaf=is_carry) if is_carry(node)]
    return [len(jax.tree.leaves(node.trace)) for node in nodes]


def test_only_the_newest_stage_has_traces():
    model, carry = network(1)
    for stages in (2, 3):
        before = carry
        model, carry = model.grow(carry, key=KEY)
        *earlier, new = traces(carry)
        assert earlier == [0] * (stages - 1) and new > 0
        assert jax.tree.structure(carry) == jax.tree.structure(model.init(key=KEY))
        assert_equal([old.state for old in states(before)], [kept.state for kept in states(carry)[:-1]])


def states(carry):
    return [own[1] for own in carry[0].stages]


def assert_equal(got, want):
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(g, w)


def weights(model):
    return eqx.filter(model, eqx.is_inexact_array)


def test_no_optimiser_moves_the_earlier_stages():
    """Neither by a gradient nor by weight decay. (What TD(λ) does is in test_td.py.)"""
    model, _ = network(2, plain_stage)
    optimiser = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1))
    learner = sg.Learner(model, optimiser, loss=sg.losses.mse)
    st, _ = learner.run(learner.init(key=KEY), stream()[0], jnp.ones((STEPS, OUT)))
    old, new = (each.layers[0].stages for each in (model, learner.model(st)))
    assert_equal(weights(old[0]), weights(new[0]))
    for leaf, moved in zip(jax.tree.leaves(weights(old[1])), jax.tree.leaves(weights(new[1])), strict=True):
        assert (np.asarray(leaf) != moved).any()
    earlier, newest = traces(st.memory.carry)
    assert earlier == 0 and newest > 0
    assert learner.warnings(st) == []


def test_growth_keeps_what_there_is_and_widens_what_follows():
    net = network(1, plain_stage)[0].layers[0]
    following = [nn.Normalise(PER_STAGE, prior=3.0), jnp.tanh, sg.Readout(PER_STAGE, OUT, key=KEY, feedback="adaptive")]
    model = nn.Sequential([net, *following])
    carry = model.init(key=KEY)
    for x in stream()[0][:3]:
        carry, _ = call(model, carry, x)
    grown, new = model.grow(carry, key=KEY)
    _, norm, _, readout = grown.layers
    assert norm.size == 4 and norm.prior == 3 and new[1].count.tolist() == [3, 3, 0, 0]
    assert_equal(new[1].mean, np.append(carry[1].mean, [0, 0]))
    assert_equal(new[1].variance, np.append(carry[1].variance, [1, 1]))
    assert_equal(readout.weight, np.pad(model.layers[3].weight, ((0, 0), (0, 2))))
    assert_equal(readout.feedback_weight, np.pad(model.layers[3].feedback_weight, ((0, 2), (0, 0))))
    # What the newest stage put out last is what the next one sees first.
    assert_equal(new[0].earlier, carry[0].newest)
    later, _ = call(grown, new, stream()[0][3])
    assert_equal(later[0].stages[1][0].mean[IN:], carry[0].newest)
    assert_equal(later[0].stages[0][0].mean, carry[0].stages[0][0].mean)


def test_a_learner_grows_and_keeps_what_it_knows():
    model, _ = network(1, plain_stage)
    learner = sg.Learner(model, optax.adam(0.1), loss=sg.losses.mse)
    st = learner.init(key=KEY)
    st = eqx.tree_at(lambda st: st.arrays, st, tuple(jnp.where(a == 0, 1, a) if a.ndim else a for a in st.arrays))
    memory, old, steps = st.memory, learner.model(st), st.steps
    st = learner.grow(st, key=KEY)
    new = learner.model(st)
    assert_equal(weights(new.layers[0].stages[0]), weights(old.layers[0].stages[0]))
    assert_equal(new.layers[1].weight, np.pad(old.layers[1].weight, ((0, 0), (0, PER_STAGE))))
    mu, kept = st.memory.optimiser[0].mu, memory.optimiser[0].mu
    assert_equal(mu.layers[1].weight, np.pad(kept.layers[1].weight, ((0, 0), (0, PER_STAGE))))
    assert kept.layers[1].weight.any() and jax.tree.leaves(mu.layers[0].stages[0]) == []
    assert traces(st.memory.carry)[0] == 0 and st.steps == steps


def grown_at(update_every=1):
    """A model that grows at steps 5 and 10, its learner, and a stream of 12 steps."""
    net = nn.Constructive(plain_stage, IN, units=UNITS, per_stage=PER_STAGE, every=5, key=KEY)
    model = nn.Sequential([nn.Normalise(IN), net, sg.Readout(PER_STAGE, OUT, key=KEY)])
    learner = sg.Learner(model, optax.sgd(0.05), loss=sg.losses.mse, update_every=update_every)
    xs = np.sin(np.arange(12 * IN).reshape(12, IN))
    return learner, xs, np.cos(np.arange(12 * OUT).reshape(12, OUT))


def test_a_learner_grows_by_its_schedule_in_step_and_run():
    learner, xs, ys = grown_at()
    st, stages, losses = learner.init(key=KEY), [], []
    for x, y in zip(xs, ys, strict=True):
        st, out = learner.step(st, x, y)
        stages.append(len(learner.model(st).layers[1].stages))
        losses.append(out.loss)
    assert stages == [1] * 5 + [2] * 5 + [3] * 2
    other, outs = learner.run(learner.init(key=KEY), xs, ys)
    np.testing.assert_allclose(losses, outs.loss, rtol=1e-12)
    for one, same in zip(*(jax.tree.leaves(weights(learner.model(each))) for each in (other, st)), strict=True):
        np.testing.assert_allclose(one, same, rtol=1e-12, atol=1e-15)
    with pytest.raises(TypeError, match="grows by itself"):  # what a session asks for
        learner.resident(learner.init(key=KEY), xs[0], ys[0])
    with pytest.raises(TypeError, match="A mixture runs one compiled program"):
        sg.Mixture([learner])


def test_a_fleet_of_models_that_grow_is_refused():
    like = np.ones(IN), np.ones(OUT)
    with pytest.raises(TypeError, match="A fleet runs one compiled program"):
        sg.Fleet(lambda key: grown_at()[0].template, optax.sgd(0.05), loss=sg.losses.mse, like=like)


def test_a_learner_grows_where_its_window_ends():
    learner, xs, ys = grown_at(update_every=4)
    st, stages = learner.init(key=KEY), []
    for x, y in zip(xs, ys, strict=True):
        st, _ = learner.step(st, x, y)
        stages.append(len(learner.model(st).layers[1].stages))
    assert stages == [1] * 8 + [2] * 4


def test_a_stage_is_due_at_its_step():
    net = nn.Constructive(plain_stage, IN, units=UNITS, per_stage=PER_STAGE, every=10, key=KEY)
    model = nn.Sequential([nn.Normalise(IN), net, sg.Readout(PER_STAGE, OUT, key=KEY)])
    seen = []
    for _ in range(3):
        seen.append((nn.next_growth_step(model), model.layers[1].out_size, model.layers[1].complete))
        if not seen[-1][-1]:
            model, _ = model.grow(model.init(key=KEY), key=KEY)
    assert seen == [(10, 2, False), (20, 4, False), (None, 5, True)]
    assert nn.next_growth_step(network(1)[0]) is None and nn.next_growth_step(nn.Normalise(2)) is None
    slow = nn.Constructive(plain_stage, IN, units=2, per_stage=1, every=30, key=KEY)
    assert nn.next_growth_step([slow, net]) == 10


def test_what_cannot_grow_is_refused():
    net = nn.Constructive(plain_stage, IN, units=3, per_stage=2, key=KEY)
    recurrent = plain_stage(2, 2, key=KEY).layers[1]
    grow = lambda *layers: nn.Sequential(layers).grow(nn.Sequential(layers).init(key=KEY), key=KEY)
    with pytest.raises(TypeError, match="no layer can grow"):
        grow(nn.Normalise(IN), sg.Readout(IN, 1, key=KEY))
    with pytest.raises(TypeError, match=r"layer 1 \(Recurrent\) has no widen"):
        grow(net, recurrent)
    with pytest.raises(TypeError, match=r"layer 1 \(Linear\)"):
        grow(net, eqx.nn.Linear(2, 2, key=KEY), sg.Readout(2, 1, key=KEY))
    for layer in (nn.Dropout(2, 0.5), nn.RunningMean(2), nn.Lags(2, 1)):
        with pytest.raises(TypeError, match=r"layer 1 \(\w+\)"):
            grow(net, layer, sg.Readout(2, 1, key=KEY))
    full, carry = net.grow(net.init(key=KEY), key=KEY)
    assert full.complete
    with pytest.raises(ValueError, match="all 3 units are there"):
        full.grow(carry, key=KEY)
    with pytest.raises(TypeError, match="must make a layer with init"):
        nn.Constructive(linear, IN, units=2, per_stage=1, key=KEY)
    for sizes in (dict(units=0, per_stage=1), dict(units=2, per_stage=0), dict(units=2, per_stage=1, every=0)):
        with pytest.raises(ValueError, match=r"positive|at least 1|>= 1"):
            nn.Constructive(plain_stage, IN, **sizes, key=KEY)
    with pytest.raises(ValueError, match=r"expects an input of shape \(2,\), got \(3,\)"):
        net(net.init(key=KEY), jnp.zeros(3))


def linear(in_size, units, *, key):
    return eqx.nn.Linear(in_size, units, key=key)


def test_a_model_within_a_model_grows():
    """A Sequential that cannot grow may stand in front, and what grows may stand within one."""
    net = nn.Constructive(plain_stage, IN, units=3, per_stage=2, key=KEY)
    for front in ([nn.Sequential([nn.Normalise(IN)]), net], [nn.Sequential([net, nn.Normalise(2)])]):
        model = nn.Sequential([*front, sg.Readout(2, 1, key=KEY)])
        model, carry = model.grow(model.init(key=KEY), key=KEY)
        assert call(model, carry, jnp.ones(IN))[1].shape == (1,)


# Layers that are fixed.


def test_a_fixed_layer_stands_still():
    """Statistics and weights stay, dropout is left out, and the input gets the derivative of the present step."""
    live = nn.Sequential([*plain_stage(IN, 3, key=KEY).layers, nn.Dropout(3, 0.5)])
    carry = live.init(key=jax.random.key(3))
    for x in stream()[0][:4]:
        carry, _ = call(live, carry, x)
    fixed, held = nn.Fixed(live), nn.Fixed.carry(carry)
    assert held[1].trace == () and jax.tree.structure(held) == jax.tree.structure(fixed.init(key=KEY))
    moments, cell, x = carry[0], live.layers[1].cell, jnp.array([0.3, -2.0])

    def by_hand(x):
        xn = (x - moments.mean) / jnp.sqrt(moments.variance)
        return jnp.tanh(xn @ cell.weight_x[:, 0] + cell.u * carry[1].state[0] + cell.bias[0])

    new, y = call(fixed, held, x)
    np.testing.assert_allclose(y, by_hand(x), rtol=1e-12)
    assert_equal(new[0], moments)
    slope = lambda f: jax.jit(jax.jacobian(f))(x)
    np.testing.assert_allclose(slope(lambda x: fixed(held, x)[1]), slope(by_hand), rtol=1e-10)
    gradient = eqx.filter_jit(eqx.filter_grad(lambda fixed: fixed(held, x)[1].sum()))(fixed)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))
    assert_equal(call(nn.Fixed(fixed), held, x)[1], y)


def test_a_fixed_layer_may_hold_functions_and_have_no_carry():
    layer = nn.Sequential([plain_stage(IN, 3, key=KEY).layers[1], jnp.tanh, eqx.nn.Linear(3, 1, key=KEY)])
    x, carry = jnp.ones(IN), layer.init(key=KEY)
    assert_equal(nn.Fixed(layer)(nn.Fixed.carry(carry), x)[1], layer(carry, x)[1])
    alone = nn.Fixed(eqx.nn.Linear(IN, 1, key=KEY))
    assert alone.init(key=KEY) == ()
    assert_equal(alone((), x)[1], alone.layer(x))
    gradient = eqx.filter_grad(lambda fixed: fixed((), x)[1].sum())(alone)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))
    assert nn.Fixed(jnp.tanh)((), x)[0] == ()


def test_a_grown_model_serves_without_traces():
    model, _ = network(2, plain_stage)
    served = sg.inference(model)
    x = stream()[0][0]
    assert traces(served.init(key=KEY)) == [0, 0]
    assert_equal(served(served.init(key=KEY), x)[1], model(model.init(key=KEY), x)[1])
    assert named(served).keys() == named(model).keys()
