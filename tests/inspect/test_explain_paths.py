"""`explain` never says exact of a model in which some path is not accounted for, and says which path it is."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import streamgrad as sg

KEYS = jax.random.split(jax.random.key(0), 4)
N = 3


def layer(in_size=N, k=0, algorithm=None, kind=sg.cells.Vanilla):
    return sg.Recurrent(kind(in_size, N, key=KEYS[k]), algorithm or sg.RTRL())


def stacked(count=2, algorithm=None):
    """Layers of one shape as one module whose arrays have a leading axis."""
    return eqx.filter_vmap(lambda key: sg.Recurrent(sg.cells.Vanilla(N, N, key=key), algorithm or sg.RTRL()))(
        KEYS[:count]
    )


def weight(layer):
    return layer.cell.weight_h


class Model(eqx.Module):
    """Layers `a` and `b`, something else that learns `w`, and a step written as a function."""

    a: sg.Recurrent
    b: sg.Recurrent | None
    w: jax.Array
    step: object = eqx.field(static=True)
    begin: object = eqx.field(static=True)

    def __init__(self, step, a=None, b=None, w=None, begin=None):
        self.a, self.b, self.step, self.begin = a or layer(), b, step, begin
        self.w = jnp.ones(N) if w is None else w

    def init(self, *, key):
        if self.begin is not None:
            return self.begin(self, key)
        return self.a.init(key=key) if self.b is None else (self.a.init(key=key), self.b.init(key=key))

    def __call__(self, carry, x):
        return self.step(self, carry, x)


def scaled_carry(carry, factor=0.5):
    return eqx.tree_at(lambda c: c.state, carry, carry.state * factor)


def held(flag, new, old):
    return jax.tree.map(lambda a, b: jnp.where(flag, a, b), new, old)


# Steps.


def plain(m, carry, x):
    carry, y = m.a(carry, x)
    return carry, m.w * y


def predicts_old_state(m, carry, x):
    new, _ = m.a(carry, x)
    return new, carry.state[0]


def predicts_both(m, carry, x):
    new, y = m.a(carry, x)
    return new, jnp.concatenate([y, carry.state[0]])


def weights_below_too(m, carry, x):
    return m.a(carry, jnp.tanh(x @ m.a.cell.weight_x[:, 0]))


def weights_beside_too(m, carry, x):
    carry, y = m.a(carry, x)
    return carry, y + jnp.tanh(x @ m.a.cell.weight_x[:, 0])


def weights_of_the_input(m, carry, x):
    own = eqx.tree_at(weight, m.a, m.a.cell.weight_h * m.w * x)
    return own(carry, x)


def weights_of_weights(m, carry, x):
    own = eqx.tree_at(weight, m.a, m.a.cell.weight_h * jnp.tanh(m.w))
    return own(carry, x)


def tied_sideways(m, carry, x):
    b = eqx.tree_at(weight, m.b, m.a.cell.weight_h)
    (a, y), (b, z) = m.a(carry[0], x), b(carry[1], x)
    return (a, b), y + z


def learned_start(m, key):
    carry = m.a.init(key=key)
    return eqx.tree_at(lambda c: c.state, carry, carry.state + m.w)


def loaded_trace(m, key):
    carry = m.a.init(key=key)
    return eqx.tree_at(lambda c: c.trace, carry, jax.tree.map(jnp.ones_like, carry.trace))


def with_reset(m, carry, x):
    carry = held(x[0] > 0, m.a.init(key=KEYS[0]), carry)
    return m.a(carry, x)


def with_learned_reset(m, carry, x):
    return m.a(held(x[0] > 0, learned_start(m, KEYS[0]), carry), x)


def padded_by_where(m, carry, x):
    new, y = m.a(carry, x)
    return held(x[0] > 0, new, carry), jnp.where(x[0] > 0, m.w * y, 0)


def padded_by_cond(m, carry, x):
    carry, y = jax.lax.cond(x[0] > 0, lambda c, x: m.a(c, x), lambda c, x: (c, jnp.zeros(N)), carry, x)
    return carry, m.w * y


def held_state_alone(m, carry, x):
    new, y = m.a(carry, x)
    return eqx.tree_at(lambda c: c.state, new, jnp.where(x[0] > 0, new.state, carry.state)), y


def held_entry_by_entry(m, carry, x):
    new, y = m.a(carry, x)
    return eqx.tree_at(lambda c: c.state, new, jnp.where(x[None] > 0, new.state, carry.state)), y


def trace_begins_anew_alone(m, carry, x):
    new, y = m.a(carry, x)
    fresh = m.a.init(key=KEYS[0])
    return held(x[0] > 0, sg.algorithms.Carry(new.state, fresh.trace), new), y


def trace_always_begins_anew(m, carry, x):
    new, y = m.a(carry, x)
    return sg.algorithms.Carry(new.state, m.a.init(key=KEYS[0]).trace), y


def held_by_other_flags(m, carry, x):
    new, y = m.a(carry, x)
    held_state = jnp.where(x[0] > 0, new.state, carry.state)
    return sg.algorithms.Carry(held_state, held(x[1] > 0, new.trace, carry.trace)), y


def trace_fades(m, carry, x):
    new, y = m.a(carry, x)
    return eqx.tree_at(lambda c: c.trace, new, jax.tree.map(lambda t: 0.9 * t, new.trace)), y


def jitted_scaling(m, carry, x):
    carry, y = eqx.filter_jit(lambda a, carry, x: a(carry, x))(m.a, carry, x)
    return scaled_carry(carry), y


def wholly_jitted(m, carry, x):
    return eqx.filter_jit(plain)(m, carry, x)


def twice_a_step(m, carry, x):
    carry, _ = m.a(carry, x)
    return m.a(carry, -x)


def twice_with_input_of_the_first(m, carry, x):
    carry, y = m.a(carry, x)
    return m.a(carry, y)


def swapped(m, carry, x):
    a, y = m.a(carry[0], x)
    b, z = m.a(carry[1], -x)
    return (b, a), y + 2 * z


def two_carries(m, key):
    return m.a.init(key=key), m.a.init(key=key)


def scanned_chunk(m, carry, x):
    carry, ys = jax.lax.scan(lambda carry, x: m.a(carry, x), carry, jnp.stack([x, -x, 2 * x]))
    return carry, ys.sum(0)


def while_loop(m, carry, x):
    turn = lambda now: (now[0] + 1, m.a(now[1], x)[0])
    carry = jax.lax.while_loop(lambda now: now[0] < 2, turn, (0, carry))[1]
    return carry, carry.state[0]


def loops_beside(m, carry, x):
    carry, y = m.a(carry, x)
    y = jax.lax.fori_loop(0, 3, lambda k, y: jnp.tanh(y * m.w), y)
    return carry, jax.lax.scan(lambda c, x: (c * x, c), y, jnp.ones((2, N)))[0]


def loop_over_fed_back(m, carry, x):
    def turn(read, _):
        return jnp.tanh(read * m.w), None

    read = jax.lax.scan(turn, carry[1], None, length=3)[0]
    own, y = m.a(carry[0], x + read)
    return (own, y), y


def fed_back(m, key):
    return m.a.init(key=key), jnp.zeros(N)


def stop_beside(m, carry, x):
    carry, y = m.a(carry, x)
    return carry, y * jax.lax.stop_gradient(m.w * y)


def straight_through(m, carry, x):
    carry, y = m.a(carry, x)
    return carry, y + jax.lax.stop_gradient(jnp.round(y) - y)


@jax.custom_vjp
def reversed_(x):
    return x


reversed_.defvjp(lambda x: (x, None), lambda _, g: (-g,))


@jax.custom_vjp
def squared(x):
    return x * x


squared.defvjp(lambda x: (x * x, x), lambda x, g: (2 * x * g,))


def reversal(m, carry, x):
    carry, y = m.a(carry, x)
    return carry, reversed_(y)


def own_rule(m, carry, x):
    carry, y = m.a(carry, x)
    return carry, squared(y)


def relu_and_softmax(m, carry, x):
    carry, y = m.a(carry, x)
    y = jax.nn.relu(y) + jax.nn.softplus(y) + jax.nn.softmax(m.w * y) + jax.nn.log_softmax(y)
    return carry, y + jax.scipy.special.logsumexp(y) + jax.nn.gelu(y)


def reads_the_trace(m, carry, x):
    new, y = m.a(carry, x)
    return new, y + sum(jnp.sum(leaf) for leaf in jax.tree.leaves(carry.trace))


def fixed_mask(m, key):
    return m.a.init(key=key), jnp.asarray([0.0, 2.0, 2.0])


def weights_by_mask(m, carry, x):
    own = eqx.tree_at(weight, m.a, m.a.cell.weight_h * carry[1])
    new, y = own(carry[0], x)
    return (new, carry[1]), y


def a_loop_of_layers(m, carry, x):
    def turn(x, now):
        layer, carry = now
        carry, y = eqx.combine(layer, rest)(carry, x)
        return y, carry

    arrays, rest = eqx.partition(m.a, eqx.is_array)
    y, carry = jax.lax.scan(turn, x, (arrays, carry))
    return carry, y


def a_population(m, carry, x):
    carry, y = eqx.filter_vmap(lambda a, carry: a(carry, x))(m.a, carry)
    return carry, m.w * y.sum(0)


def a_padded_population(m, carry, x):
    def one(a, carry, flag):
        new, y = a(carry, x)
        return held(flag, new, carry), jnp.where(flag, y, 0)

    carry, y = eqx.filter_vmap(one)(m.a, carry, x[:2] > 0)
    return carry, m.w * y.sum(0)


def a_population_padded_by_cond(m, carry, x):
    def one(a, carry, flag):
        return jax.lax.cond(flag, lambda c: a(c, x), lambda c: (c, jnp.zeros(N)), carry)

    carry, y = eqx.filter_vmap(one)(m.a, carry, x[:2] > 0)
    return carry, y.sum(0)


def trained_where_chosen(m, carry, x):
    carry, y = m.a(carry, x)
    which = (x[0] > 0).astype(int)
    return carry, jnp.where(which == 1, y, jax.lax.stop_gradient(y))


def a_population_that_talks(m, carry, x):
    carry, y = eqx.filter_vmap(lambda a, carry, x: a(carry, x))(m.a, carry, x + carry.state[::-1, 0])
    return carry, y.sum(0)


def a_mapped_population(m, carry, x):
    arrays, rest = eqx.partition(m.a, eqx.is_array)
    carry, y = jax.lax.map(lambda now: eqx.combine(now[0], rest)(now[1], x), (arrays, carry))
    return carry, y.sum(0)


def population_carry(m, key):
    return eqx.filter_vmap(lambda a: a.init(key=key))(m.a)


def a_mixture(m, carry, x):
    """Two layers, of which one condition says who takes the step; the other one waits."""
    (a, y), (b, z) = m.a(carry[0], x), m.b(carry[1], x)
    first = x[0] > 0
    return (held(first, a, carry[0]), held(first, carry[1], b)), jnp.where(first, y, z)


def scale_below(m, carry, x):
    return m.a(carry, m.w * x)


def residual(m, carry, x):
    carry, y = m.a(carry, x)
    return carry, x + m.w * y


def conditional_readout(m, carry, x):
    carry, y = m.a(carry, x)
    return carry, jax.lax.cond(x[0] > 0, lambda y: y * m.w, lambda y: y**2, y)


def checkpointed(m, carry, x):
    return eqx.filter_checkpoint(plain)(m, carry, x)


PEOPLE = dict(a=stacked(), begin=population_carry)
BESIDE = dict(b=layer(k=1))
EXACT = {
    "plain": Model(plain),
    "weights beside too": Model(weights_beside_too),
    "weights of weights": Model(weights_of_weights),
    "tied sideways": Model(tied_sideways, **BESIDE),
    "with a reset": Model(with_reset),
    "padded by where": Model(padded_by_where),
    "padded by cond": Model(padded_by_cond),
    "wholly jitted": Model(wholly_jitted),
    "two steps of one carry": Model(twice_a_step),
    "two carries that change places": Model(swapped, begin=two_carries),
    "a scanned chunk": Model(scanned_chunk),
    "loops beside": Model(loops_beside),
    "relu and softmax": Model(relu_and_softmax),
    "weights by a mask that stands still": Model(weights_by_mask, begin=fixed_mask),
    "a population": Model(a_population, **PEOPLE),
    "a mapped population": Model(a_mapped_population, **PEOPLE),
    "a padded population": Model(a_padded_population, **PEOPLE),
    "a population padded by cond": Model(a_population_padded_by_cond, **PEOPLE),
    "one of two waits": Model(a_mixture, **BESIDE),
    "residual": Model(residual),
    "a readout chosen by cond": Model(conditional_readout),
    "checkpointed": Model(checkpointed),
}
# Of layer a: the verdict, and a word of the path.
OTHERWISE = {
    "predicts the old state": (Model(predicts_old_state), "biased", "old state of a"),
    "predicts both": (Model(predicts_both), "biased", "old state of a"),
    "weights below too": (Model(weights_below_too), "biased", "a, whose past"),
    "weights of the input": (Model(weights_of_the_input), "biased", "weights of a, which change"),
    "held state alone": (Model(held_state_alone), "biased", "carry of a, of which not all"),
    "held entry by entry": (Model(held_entry_by_entry), "biased", "carry of a, of which not all"),
    "held by other flags": (Model(held_by_other_flags), "biased", "carry of a, of which not all"),
    "the trace alone begins anew": (Model(trace_begins_anew_alone), "biased", "carry of a, of which not all"),
    "the trace always begins anew": (Model(trace_always_begins_anew), "biased", "a, whose past"),
    "the trace fades": (Model(trace_fades), "biased", "carry.trace"),
    "the trace begins with something": (Model(plain, begin=loaded_trace), "biased", "empty trace"),
    "scaled in jit": (Model(jitted_scaling), "biased", "carry.state"),
    "reads its own first step": (Model(twice_with_input_of_the_first), "biased", "a, whose past"),
    "within while": (Model(while_loop), "unknown", "while"),
    "loop over what was fed back": (Model(loop_over_fed_back, begin=fed_back), "biased", "carry[1]"),
    "stop_gradient": (Model(stop_beside), "biased", "surrogate"),
    "trained where chosen": (Model(trained_where_chosen), "biased", "surrogate"),
    "straight-through": (Model(straight_through), "biased", "surrogate"),
    "reversed gradient": (Model(reversal), "biased", "surrogate"),
    "a derivative of one's own": (Model(own_rule), "unknown", "squared"),
    "reads the trace": (Model(reads_the_trace), "unknown", "trace of a"),
    "a loop of layers": (Model(a_loop_of_layers, **PEOPLE), "biased", "a, whose past"),
    "a population that talks": (Model(a_population_that_talks, **PEOPLE), "biased", "a"),
    "spikes": (Model(plain, a=layer(kind=sg.cells.LIF)), "biased", "surrogate"),
}


@pytest.mark.parametrize("name", EXACT)
def test_exact_where_every_path_is_accounted_for(name):
    found = sg.explain(EXACT[name], jnp.ones(N))
    assert [report.gradient for report in found.layers] == ["exact"] * len(found.layers), str(found)
    assert found.exact and not any(found.others.values()), found.parameters


@pytest.mark.parametrize("name", OTHERWISE)
def test_a_path_that_is_not_accounted_for_is_named(name):
    model, verdict, word = OTHERWISE[name]
    report = sg.explain(model, jnp.ones(N)).layers[0]
    assert report.gradient == verdict and word in report.reason and report.feeds, report.reason


def test_a_learned_start_gets_no_gradient():
    for model in (Model(plain, begin=learned_start), Model(with_learned_reset)):
        found = sg.explain(model, jnp.ones(N))
        assert found.layers[0].gradient == "exact" and not found.exact
        (w,) = found.parameters
        assert w.path == "w" and w.gradient == "biased" and w.feeds


class LearnedStart(sg.cells.GRU):
    h0: jax.Array

    def __init__(self, *sizes, key):
        super().__init__(*sizes, key=key)
        self.h0 = jnp.ones((1, N))

    def init_state(self):
        return self.h0


def test_a_learned_init_state_gets_no_gradient():
    report = sg.explain(layer(kind=LearnedStart)).layers[0]
    assert report.gradient == "biased" and "initial value of carry.state" in report.reason


def test_a_layer_that_the_model_makes_itself_is_not_called_exact():
    report = sg.explain(Model(lambda m, carry, x: sg.Recurrent(m.a.cell, sg.RTRL())(carry, x)), jnp.ones(N)).layers[0]
    assert report.gradient == "unknown" and "makes itself" in report.reason


def test_what_lies_below_a_layer_is_biased():
    (w,) = sg.explain(Model(scale_below), jnp.ones(N)).parameters
    assert w.gradient == "biased" and w.feeds == ("a",)


def test_weights_that_enter_a_biased_layer_are_biased():
    (w,) = sg.explain(Model(weights_of_weights, a=layer(algorithm=sg.SnAp(1))), jnp.ones(N)).parameters
    assert w.gradient == "biased" and w.feeds == ("a",)
    (w,) = sg.explain(Model(weights_of_weights, a=layer(algorithm=sg.UORO())), jnp.ones(N)).parameters
    assert w.gradient == "unbiased"


@pytest.mark.parametrize("above", [sg.nn.Lags(N, 2), sg.nn.RunningMean(N), sg.nn.LowPass(N, 0.5)])
def test_a_past_above_a_layer_is_no_exact_gradient(above):
    assert sg.explain(sg.nn.Sequential([layer(), above]), jnp.ones(N)).layers[0].gradient == "biased"


@pytest.mark.parametrize("feedback", ["random", "adaptive"])
def test_feedback_is_a_surrogate(feedback):
    model = sg.nn.Sequential([layer(), sg.Readout(N, 1, key=KEYS[0], feedback=feedback)])
    found = sg.explain(model, jnp.ones(N))
    assert not found.exact and found.layers[0].gradient == "biased" and "surrogate" in found.layers[0].reason


def test_statistics_below_a_layer_are_no_matter():
    model = sg.nn.Sequential([sg.nn.Normalise(N), sg.nn.Lags(N, 2), layer(2 * N), sg.RLS(N, 1)])
    assert sg.explain(model, jnp.ones(N)).exact


def test_inputs_may_be_any_pytree():
    step = lambda m, carry, x: plain(m, carry, jnp.concatenate([x["a"], x["b"]]))
    assert sg.explain(Model(step), {"a": jnp.ones(1), "b": jnp.ones(2)}).exact


# Plans.


def test_a_plan_that_no_longer_fits_is_refused():
    sparse = sg.Recurrent(sg.cells.GRU(N, N, wiring=sg.wiring.Columns(), key=KEYS[0]), sg.SnAp(1))
    carry = sparse.init(key=KEYS[0])
    others = {
        "weight_h": sg.cells.GRU(N, N, key=KEYS[0]),
        "weight_x": sg.cells.GRU(N + 1, N, wiring=sg.wiring.Columns(), key=KEYS[0]),
        "LSTM": sg.cells.LSTM(N, N, wiring=sg.wiring.Columns(), key=KEYS[0]),
    }
    for word, cell in others.items():
        stale = eqx.tree_at(lambda layer: layer.cell, sparse, cell, is_leaf=lambda node: node is sparse.cell)
        for use in (lambda s=stale: s(carry, jnp.ones(N)), lambda s=stale: sg.explain(s)):
            with pytest.raises(ValueError, match=rf"planned for the GRU.*{word}"):
                use()


def test_another_wiring_of_the_same_sizes_is_refused():
    wired = lambda seed: sg.cells.GRU(N, N, wiring=sg.wiring.Sparse(fan_in=1, seed=seed), key=KEYS[0])
    own = sg.Recurrent(wired(0), sg.SnAp(1))
    seed = next(s for s in range(1, 9) if wired(s).core().links != wired(0).core().links)
    stale = eqx.tree_at(lambda layer: layer.cell, own, wired(seed), is_leaf=lambda node: node is own.cell)
    with pytest.raises(ValueError, match="wiring"):
        stale(own.init(key=KEYS[0]), jnp.ones(N))


class MadeAnew(sg.cells.Vanilla):
    """A cell whose unit is another function each time it is asked for."""

    @property
    def unit(self):
        return lambda state, drives: (jnp.tanh(drives[0]),)


def test_a_cell_that_makes_its_functions_anew_keeps_its_plan():
    own = layer(kind=MadeAnew)
    own(own.init(key=KEYS[0]), jnp.ones(N))


def test_new_weights_and_another_precision_are_welcome():
    own = layer()
    for cell in (
        sg.cells.Vanilla(N, N, key=KEYS[1]),
        jax.tree.map(lambda leaf: leaf.astype(jnp.float32) if eqx.is_array(leaf) else leaf, own.cell),
    ):
        other = eqx.tree_at(lambda layer: layer.cell, own, cell, is_leaf=lambda node: node is own.cell)
        carry, _ = other(other.init(key=KEYS[0]), jnp.ones(N))
        assert carry.state.dtype == cell.weight_x.dtype and sg.explain(other).exact
