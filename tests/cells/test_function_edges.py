"""Steps of one's own at their edges: rules of their own, loops, scalars, tracers, and what asdex does not know."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import streamgrad as sg
from streamgrad.cells import Function

KEY = jax.random.key(0)
UNITS = 4


def parameters(units=UNITS):
    rng = np.random.default_rng(0)
    return {name: jnp.asarray(rng.normal(size=units)) for name in "wvb"}


def units(activation):
    """Independent units."""
    return lambda p, s, x: activation(p["w"] * s + p["v"] * x[0] + p["b"])


def cell_of(step, units=UNITS, **options):
    return Function(step, parameters(units), jnp.zeros(units), in_size=1, **options)


def trace_bytes(cell, algorithm=None):
    trace = sg.Recurrent(cell, algorithm or sg.SnAp(1)).init(key=KEY).trace
    return sum(leaf.nbytes for leaf in jax.tree.leaves(trace))


# Rules of their own.


@jax.custom_jvp
def mixing(v):
    """Each on its own; its derivative, a surrogate, takes the neighbour too."""
    return jnp.tanh(v)


@mixing.defjvp
def _(primals, tangents):
    (v,), (dv,) = primals, tangents
    return mixing(v), (1 - jnp.tanh(v) ** 2) * (dv + 0.5 * jnp.roll(dv, 1))


@jax.custom_vjp
def mixing_back(v):
    return jnp.tanh(v)


mixing_back.defvjp(lambda v: (jnp.tanh(v), v), lambda v, g: (g * jnp.cos(v) + 0.5 * jnp.roll(g * v, -1),))


@pytest.mark.parametrize("name", ["relu", "gelu", "silu", "softplus", "relu6", "elu", "log_sigmoid"])
def test_activations_with_a_rule_of_their_own_keep_the_pattern(name):
    """256 units with relu took 171 times as much as with tanh."""
    cell = cell_of(units(getattr(jax.nn, name)))
    np.testing.assert_array_equal(cell.core().structure.reads_matrix(), np.eye(UNITS, dtype=bool))
    assert trace_bytes(cell) == trace_bytes(cell_of(units(jnp.tanh)))


@pytest.mark.parametrize("rule", [mixing, mixing_back], ids=["custom_jvp", "custom_vjp"])
def test_the_pattern_is_that_of_the_rule_and_not_of_the_function(rule):
    """What a surrogate gradient alone depends on is kept: SnAp-1 stays exact at one step, and RTRL everywhere."""
    cell = cell_of(units(rule))
    reads = np.eye(UNITS, dtype=bool)
    np.testing.assert_array_equal(cell.core().structure.reads_matrix(), reads | np.roll(reads, 1, axis=0))
    xs = jnp.asarray(np.random.default_rng(1).normal(size=(6, 1)))
    assert sg.check_gradients(sg.Recurrent(cell, sg.RTRL()), xs, key=KEY).worst < 1e-10


def test_a_rule_within_a_scan_is_seen():
    def step(p, s, x):
        return jax.lax.scan(lambda s, _: (mixing(p["w"] * s + x[0]), None), s, None, length=2)[0]

    assert cell_of(step).core().structure.reads_matrix().sum() > UNITS


# What asdex does not know.


def solved(p, s, x):
    return jnp.linalg.solve(jnp.eye(UNITS) + jnp.outer(p["v"], s), jnp.tanh(p["w"] * s + x[0]))


def test_what_cannot_be_analysed_is_dense_and_says_so():
    with pytest.warns(UserWarning, match="taken to be dense.*custom_linear_solve.*pattern='dense'") as told:
        cell = cell_of(solved)
    assert len(told) == 1
    assert cell.core().structure.density(1) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cell_of(solved, pattern="dense")


# Modes.


def looped(p, s, x):
    """Three turns, of which JAX does not know the number."""
    body = lambda turn: (turn[0] + 1, jnp.tanh(p["w"] * turn[1] + 0.3 * jnp.roll(turn[1], 1) + p["v"] * x[0]))
    return jax.lax.while_loop(lambda turn: turn[0] < 3, body, (0, s))[1]


@pytest.fixture(scope="module")
def loop():
    return cell_of(looped)


@pytest.mark.parametrize("pattern", ["auto", "dense"])
def test_a_loop_that_only_forward_mode_differentiates_learns_by_rtrl(pattern, loop):
    """Against the same loop, unrolled, by backpropagation through time."""
    cell = loop if pattern == "auto" else cell_of(looped, pattern=pattern)

    def unrolled(p, s, x):
        for _ in range(3):
            s = jnp.tanh(p["w"] * s + 0.3 * jnp.roll(s, 1) + p["v"] * x[0])
        return s

    layer = sg.Recurrent(cell, sg.RTRL())
    xs = jnp.asarray(np.random.default_rng(1).normal(size=(4, 1)))

    def through_time(p):
        s, total = jnp.zeros(UNITS), 0.0
        for x in xs:
            s = unrolled(p, s, x)
            total = total + jnp.sum(jnp.sin(s))
        return total

    @eqx.filter_jit
    def one(layer, carry, x):
        def loss(both):
            layer, x = both
            new, y = layer(carry, x)
            return jnp.sum(jnp.sin(y)), new

        return eqx.filter_grad(loss, has_aux=True)((layer, x))

    carry, total = layer.init(key=KEY), None
    for x in xs:
        before = carry.state
        (gradient, by_x), carry = one(layer, carry, x)
        total = gradient.cell.params if total is None else jax.tree.map(jnp.add, total, gradient.cell.params)
    want = jax.grad(through_time)(parameters())
    for name in want:
        np.testing.assert_allclose(total[name], want[name], rtol=1e-10, atol=1e-12)
    now = jax.grad(lambda x: jnp.sum(jnp.sin(unrolled(parameters(), before, x))))(xs[-1])
    np.testing.assert_allclose(by_x, now, rtol=1e-10)
    assert sg.check_gradients(layer, xs, key=KEY).worst < 1e-10


@pytest.mark.parametrize("algorithm", [sg.BPTT(), sg.TBPTT(2), sg.UORO()], ids=lambda a: type(a).__name__)
def test_an_algorithm_that_needs_reverse_mode_is_refused_by_name(algorithm, loop):
    with pytest.raises(TypeError, match=f"{type(algorithm).__name__} needs .* in reverse mode.*use sg.RTRL"):
        sg.Recurrent(loop, algorithm)


@pytest.mark.parametrize("algorithm", [sg.DODGE(), sg.UORO()], ids=lambda a: type(a).__name__)
def test_an_algorithm_that_needs_forward_mode_is_refused_by_name(algorithm):
    cell = cell_of(units(mixing_back))
    with pytest.raises(TypeError, match=f"{type(algorithm).__name__} needs .* in forward mode.*custom_vjp"):
        sg.Recurrent(cell, algorithm)
    sg.Recurrent(cell, sg.TBPTT(2))


def test_a_step_without_any_derivative_is_refused():
    def step(p, s, x):
        return jax.pure_callback(lambda s: np.tanh(s), jax.ShapeDtypeStruct(s.shape, s.dtype), p["w"] * s)

    with pytest.raises(TypeError, match="no derivative, neither in forward nor in reverse mode"):
        cell_of(step)


# Shapes and tracers.


def pair(p, s, x):
    level = jnp.tanh(p["w"] * s["level"] + jnp.sum(s["rest"]) + x[0])
    return {"level": level, "count": s["count"] + 1.0, "rest": jnp.tanh(level + s["rest"])}


def test_scalar_entries_of_a_state_keep_their_shape():
    """They came back as (1,), and no step fitted any more."""
    state = {"level": jnp.zeros(()), "count": np.float64(0), "rest": jnp.ones(2)}
    cell = Function(pair, {"w": jnp.asarray(0.5)}, state, in_size=1)
    layer = sg.Recurrent(cell, sg.RTRL())
    assert jax.tree.map(jnp.shape, layer.init(key=KEY).state) == {"count": (), "level": (), "rest": (2,)}
    assert sg.check_gradients(layer, jnp.ones((3, 1)), key=KEY).worst < 1e-10


def test_the_arrays_that_a_cell_was_made_with_stay_the_users():
    state = np.zeros(UNITS)
    cell = Function(units(jnp.tanh), parameters(), state, in_size=1)
    state[0] = 5.0  # it was made read-only
    np.testing.assert_array_equal(cell.init_state(), 0)


@pytest.mark.parametrize("dtype", [float, complex])
def test_a_cell_can_be_made_under_a_jit(dtype):
    """Its state is then a value that only the program knows: it stays a constant, that nothing trains."""

    def turn(p, s, x):
        new = jnp.tanh(p["w"] * s.real + p["v"] * x[0])
        return jax.lax.complex(new, 0.5 * s.imag) if dtype is complex else new

    start = jnp.arange(1.0, UNITS + 1).astype(dtype)
    make = lambda key: Function(turn, parameters(), start + jax.random.uniform(key, (UNITS,)).astype(dtype), in_size=1)
    traced, plain = eqx.filter_jit(make)(KEY), make(KEY)
    np.testing.assert_array_equal(traced.init_state(), plain.init_state())
    assert traced.init_state().dtype == start.dtype and traced.pattern == plain.pattern
    trained = lambda cell: [leaf.shape for leaf in jax.tree.leaves(eqx.filter(cell, eqx.is_inexact_array))]
    assert trained(traced) == trained(plain) == [(UNITS,)] * 3
    xs = jnp.ones((3, 1))
    assert sg.check_gradients(sg.Recurrent(traced, sg.RTRL()), xs, key=KEY).worst < 1e-10


def test_units_that_see_each_other_can_be_made_under_a_jit():
    step = lambda p, s, x, seen: jnp.tanh(p["w"] * s + seen)
    make = lambda: Function(step, {"w": jnp.ones(3)}, jnp.zeros(3), in_size=1, seen=lambda p, s, x: jnp.sum(s))
    assert eqx.filter_jit(make)().pattern == make().pattern


@pytest.mark.full
def test_compare_takes_a_function_made_in_its_factory():
    def factory(key):
        drawn = jax.random.normal(key, (3, 3))
        return Function(units(jnp.tanh), dict(zip("wvb", drawn, strict=True)), jnp.zeros(3), in_size=1)

    xs = jnp.sin(jnp.arange(8.0))[:, None]
    options = dict(loss=sg.losses.cross_entropy, rates=(1e-2,), seeds=1, steps=4, window=2)  # no floors for classes
    found = sg.compare(factory, {"RTRL": sg.RTRL()}, xs, jnp.arange(8) % 2, key=KEY, **options)
    row = next(row for row in found.rows if row.name == "RTRL")
    np.testing.assert_allclose(row.gradient.cosines, 1, rtol=1e-9)


def test_a_cell_is_looked_at_once_for_all_of_its_kind():
    """The same step and shapes: the program is analysed and compiled once, whatever the values."""
    looked = []

    def step(p, s, x):
        looked.append(1)
        return jnp.tanh(p["w"] * s + x[0])

    cell_of(step)
    before = len(looked)
    cell_of(step)
    assert len(looked) - before <= 2
