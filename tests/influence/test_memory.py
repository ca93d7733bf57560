"""Memory, from the compiled program's own analysis: nothing is executed, so large sizes cost nothing."""

import functools
import math
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest

import streamgrad as sg

KEY = jax.random.key(0)
IN = 64
cells, wiring = sg.cells, sg.wiring


def make(kind, units=128, **options):
    return kind(IN, units, key=KEY, dtype=jnp.float32, **options)


def analysed(function, *arguments, donate=()):
    return jax.jit(function, donate_argnums=donate).lower(*arguments).compile().memory_analysis()


def size(tree):
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


class Problem:
    """A layer as pure functions of arrays, and the shapes of its carry."""

    def __init__(self, cell, algorithm, batch=()):
        self.batch = batch
        self.arrays, self.static = eqx.partition(sg.Recurrent(cell, algorithm), eqx.is_array)
        self.carry = jax.eval_shape(self.init, self.arrays)
        self.influence = size(self.carry.trace)

    def init(self, arrays):
        init = lambda key: eqx.combine(arrays, self.static).init(key=key)
        return jax.vmap(init)(jax.random.split(KEY, self.batch)) if self.batch else init(KEY)

    def step(self, arrays, carry, x):
        """One step with its gradient."""

        def objective(arrays):
            layer = eqx.combine(arrays, self.static)
            new, y = (jax.vmap(lambda c, x: layer(c, x)) if self.batch else layer)(carry, x)
            return jnp.sum(jnp.sin(y)), new

        gradient, new = jax.grad(objective, has_aux=True)(arrays)
        return new, gradient

    def analysed(self):
        return analysed(self.step, self.arrays, self.carry, floats(*self.batch, IN), donate=1)


# How large the influence is.

FEW = dict(wiring=wiring.Sparse(fan_in=8))
ONE_TRACE_A_WEIGHT = [
    (cells.Vanilla, {}, 1),
    (cells.GRU, {}, 1),
    (cells.GRU, FEW, 1),
    (cells.GRU, dict(wiring=wiring.Columns()), 1),
    (cells.LeakyRNN, {}, 1),
    (cells.IndRNN, {}, 1),
    (cells.MinGRU, {}, 1),
    (cells.LSTM, {}, 2),
    (cells.LSTM, dict(wiring=wiring.Blocks(4)), 2),
    (cells.LIF, FEW, 2),
    (cells.ALIF, FEW, 3),
]


@pytest.mark.parametrize(("kind", "options", "entries"), ONE_TRACE_A_WEIGHT)
def test_snap_1_keeps_one_number_per_state_entry_and_parameter(kind, options, entries):
    cell = make(kind, **options)
    problem = Problem(cell, sg.SnAp(n=1))
    parameters = size(eqx.filter(cell, eqx.is_inexact_array))
    assert problem.influence == entries * parameters
    # The compiled program keeps this and nothing more from one step to the next.
    kept = analysed(problem.init, problem.arrays).output_size_in_bytes
    assert kept <= (entries * parameters + size(problem.carry.state)) * 1.001 + 512


def test_an_lru_keeps_one_complex_number_per_entry_of_its_recurrence():
    """λ, γ and B; C and D are no part of the recurrence."""
    problem = Problem(make(cells.LRU, 128), sg.SnAp(n=1))
    assert problem.influence == 8 * (128 + 128 + IN * 128)
    assert problem.influence == Problem(make(cells.LRU, 128), sg.RTRL()).influence


def test_each_stream_of_a_deep_network_keeps_n_times_2_plus_h_complex_numbers_a_block():
    model = sg.nn.Deep(IN, 1, width=16, units=8, depth=3, key=KEY, dtype=jnp.float32)
    traces = [block[1].trace for block in model.init(key=KEY)[1:4]]
    for trace in traces:
        leaves = jax.tree.leaves(trace)
        assert {leaf.dtype.name for leaf in leaves} == {"complex64"}
        assert sum(leaf.size for leaf in leaves) == 8 * (2 + 16)


def test_traces_of_bfloat16_weights_are_float32():
    low = lambda dtype: Problem(cells.GRU(IN, 128, key=KEY, dtype=dtype), sg.SnAp(n=1)).influence
    assert low(jnp.bfloat16) == low(jnp.float32)


# Nothing grows with time.


def run(problem, steps, step):
    """Many steps; inputs are made on the way, gradients are summed."""

    def body(i, loop):
        carry, total = loop
        carry, gradient = step(problem.arrays, carry, jnp.sin(i.astype(jnp.float32) * jnp.ones(IN, jnp.float32)))
        return carry, jax.tree.map(jnp.add, total, gradient)

    zeros = jax.tree.map(jnp.zeros_like, problem.arrays)
    return jax.lax.fori_loop(0, steps, body, (problem.init(problem.arrays), zeros))


def assert_flat_in_time(program):
    """`program(steps)` compiles to as much memory for 10^6 steps as for 10^3."""
    short, long = (analysed(functools.partial(program, steps)) for steps in (10**3, 10**6))
    assert long.temp_size_in_bytes <= short.temp_size_in_bytes + 64
    assert long.output_size_in_bytes <= short.output_size_in_bytes + 64


SMALL = [
    (make(cells.GRU, 16), sg.SnAp(n=1)),
    (make(cells.GRU, 16, **FEW), sg.SnAp(n=2)),
    (make(cells.LSTM, 16), sg.RTRL()),
    (make(cells.LRU, 16), sg.SnAp(n=1)),
    (make(cells.GRU, 16), sg.TBPTT(window=4)),
    (make(cells.GRU, 16, reset_before=True), sg.SnAp(n=2)),
]


@pytest.mark.parametrize(("cell", "algorithm"), SMALL)
def test_flat_in_time(cell, algorithm):
    problem = Problem(cell, algorithm)
    assert_flat_in_time(lambda steps: run(problem, steps, problem.step))


def learner(streams=None, optimiser=None, deep=False):
    cell = make(cells.GRU, 16)
    readout = sg.Readout(16, 1, key=KEY, dtype=jnp.float32)
    model = sg.nn.Sequential([sg.Recurrent(cell, sg.SnAp(n=1)), readout])
    if deep:
        model = sg.nn.Deep(IN, 1, width=16, units=8, depth=2, key=KEY, dtype=jnp.float32)
    return sg.Learner(model, optimiser or optax.adam(1e-3), loss=sg.losses.mse, streams=streams)


def analysed_call(compiled, taught, *lead, batch=()):
    """A learner's own compiled step or run."""
    state = taught.init(key=KEY)
    arguments = floats(*lead, *batch, IN), floats(*lead, *batch, 1), jax.ShapeDtypeStruct(lead, jnp.bool_)
    if lead:  # a run: its inputs together, and how many of them there are
        arguments = arguments, jax.ShapeDtypeStruct((), jnp.int32)
    first = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), arguments[0]) if lead else arguments
    compiled = compiled[taught._small(taught.program, state, *first)]
    return state, compiled.lower(taught.program, state, *arguments).compile().memory_analysis()


@pytest.mark.parametrize("deep", [False, pytest.param(True, marks=pytest.mark.full)])
def test_a_learner_is_flat_in_time(deep):
    """But for what `run` returns of every step: a prediction, a loss and a flag."""
    taught, returned = learner(deep=deep), 4 + 4 + 1
    (_, short), (_, long) = (analysed_call(taught._run, taught, steps) for steps in (10**3, 10**6))
    assert long.temp_size_in_bytes <= short.temp_size_in_bytes + 64
    assert long.output_size_in_bytes - returned * 10**6 <= short.output_size_in_bytes - returned * 10**3 + 64


def test_the_flatness_test_fails_on_traces_kept_over_time():
    """The mistake: an exact trace at every step, (T, ...), contracted afterwards."""
    problem = Problem(*SMALL[0])

    def materialised(steps):
        def body(carry, i):
            carry, _ = problem.step(problem.arrays, carry, jnp.ones(IN, jnp.float32) * i.astype(jnp.float32))
            return carry, carry.trace

        _, traces = jax.lax.scan(body, problem.init(problem.arrays), jnp.arange(steps))
        return jax.tree.map(lambda trace: jnp.sum(jnp.sort(trace, axis=0), axis=0), traces)

    with pytest.raises(AssertionError):
        assert_flat_in_time(materialised)


def test_the_flatness_test_fails_on_a_differentiated_scan():
    """Why a scan of online steps is never differentiated: J is stored at every step."""
    problem = Problem(*SMALL[0])

    def through_time(steps):
        def objective(arrays):
            layer = eqx.combine(arrays, problem.static)

            def body(carry, i):
                carry, y = layer(carry, jnp.ones(IN, jnp.float32) * i.astype(jnp.float32))
                return carry, jnp.sum(jnp.sin(y))

            return jax.lax.scan(body, layer.init(key=KEY), jnp.arange(steps))[1].sum()

        return jax.grad(objective)(problem.arrays)

    with pytest.raises(AssertionError):
        assert_flat_in_time(through_time)


# All is linear in the batch.


def assert_linear_in_batch(bytes_of):
    """Eight times the streams take at most eight times the memory (and a little that is shared)."""
    small, large = bytes_of(64), bytes_of(512)
    assert large <= 8 * small * 1.02


@pytest.mark.parametrize(("cell", "algorithm"), SMALL)
def test_linear_in_the_batch(cell, algorithm):
    def bytes_of(batch):
        found = Problem(cell, algorithm, (batch,)).analysed()
        return found.temp_size_in_bytes + found.output_size_in_bytes + found.argument_size_in_bytes

    assert Problem(cell, algorithm, (64,)).influence == 64 * Problem(cell, algorithm).influence
    assert_linear_in_batch(bytes_of)


def test_a_learner_of_streams_is_linear_in_their_number():
    def bytes_of(streams):
        taught = learner(streams)
        _, found = analysed_call(taught._step, taught, batch=(streams,))
        return found.temp_size_in_bytes + found.output_size_in_bytes

    assert_linear_in_batch(bytes_of)


def test_the_linearity_test_fails_on_jacobians_of_the_whole_batch():
    """The mistake: D from a Jacobian of the batched step has the batch axis twice."""
    cell = make(cells.GRU, 16)

    def bytes_of(batch):
        step = jax.vmap(lambda h, x: cell(h, x))
        dynamics = lambda h, x: jax.jacrev(step)(h, x)
        found = analysed(dynamics, floats(batch, 1, 16), floats(batch, IN))
        return found.temp_size_in_bytes + found.output_size_in_bytes

    with pytest.raises(AssertionError):
        assert_linear_in_batch(bytes_of)


# The influence is updated in place.

# Temporaries of a step over the size of J. SnAp-1 updates each number where it lies, one entry of the state after
# another; others need some or all of the old J while the new one is made.
IN_PLACE = [(kind, options, 0.1) for kind, options, _ in ONE_TRACE_A_WEIGHT]
OTHERS = [
    (cells.LRU, {}, sg.SnAp(n=1), 1.1),
    (cells.RTU, {}, sg.SnAp(n=1), 1.6),
    (cells.GRU, dict(wiring=wiring.Sparse(fan_in=4, gates="shared")), sg.SnAp(n=2), 2.5),
    (cells.GRU, dict(units=48), sg.RTRL(), 1.1),
]


def assert_in_place(problem, share):
    found = problem.analysed()
    assert found.alias_size_in_bytes >= problem.influence
    assert found.temp_size_in_bytes <= share * problem.influence


@pytest.mark.parametrize(("kind", "options", "share"), IN_PLACE)
def test_snap_1_works_in_place(kind, options, share):
    assert_in_place(Problem(make(kind, 256, **options), sg.SnAp(n=1)), share)


@pytest.mark.parametrize(("kind", "options", "_"), ONE_TRACE_A_WEIGHT)
def test_traits_count_what_the_program_allocates(kind, options, _):
    cell = make(kind, **options)
    traits = sg.Recurrent(cell, sg.SnAp(n=1)).algorithm.traits(cell.core())
    problem = Problem(cell, sg.SnAp(n=1))
    assert traits.bytes == problem.influence
    assert abs(problem.analysed().temp_size_in_bytes - traits.temporaries) <= 0.1 * traits.bytes


@pytest.mark.parametrize(("cell", "algorithm"), [row for row in SMALL if not isinstance(row[1], sg.TBPTT)])
def test_traits_count_the_influence(cell, algorithm):
    traits = sg.Recurrent(cell, algorithm).algorithm.traits(cell.core())
    assert traits.bytes == Problem(cell, algorithm).influence


@pytest.mark.parametrize(("kind", "options", "algorithm", "share"), OTHERS)
def test_temporaries_of_other_influences(kind, options, algorithm, share):
    assert_in_place(Problem(make(kind, **options), algorithm), share)


def copies(text, *shape):
    """The instructions of a compiled program that copy an array of this shape, but for those within a fold: the body of
    a loop of at most one turn, whose product the step itself does not make."""
    form = r"copy[.\w]* = \S*\[" + ",".join(map(str, shape)) + r"\]\S* copy\(%get-tuple-element"
    is_fold = lambda part: " dot(" in part and " while(" not in part
    return [found for part in text.split("\n}\n") if not is_fold(part) for found in re.findall(form, part)]


@pytest.mark.parametrize("kind", [cells.LRU, cells.RTU])
def test_deferred_traces_are_not_copied_where_they_are_not_written(kind):
    """Many steps without a gradient: J stays in its place at all of them, and so do the pieces kept apart."""
    problem = Problem(make(kind, 96), sg.SnAp(1, defer=8))

    def program(arrays, carry, xs):
        layer = eqx.combine(arrays, problem.static)
        return jax.lax.scan(lambda carry, x: layer(carry, x), carry, xs)

    compiled = jax.jit(program, donate_argnums=1).lower(problem.arrays, problem.carry, floats(100, IN)).compile()
    assert compiled.memory_analysis().alias_size_in_bytes >= problem.influence
    gates = 2 if kind is cells.RTU else 1
    assert not copies(compiled.as_text(), IN, gates, 96)
    traits = sg.Recurrent(make(kind, 96), sg.SnAp(1, defer=8)).algorithm.traits(make(kind, 96).core())
    assert traits.bytes == problem.influence
    assert compiled.memory_analysis().temp_size_in_bytes <= 1.2 * traits.temporaries


def test_a_learner_of_deferred_traces_copies_neither_them_nor_the_weights():
    cell = make(cells.LRU, 96)
    model = sg.nn.Sequential([sg.Recurrent(cell, sg.SnAp(1, defer=8)), sg.Readout(IN, 1, key=KEY, dtype=jnp.float32)])
    taught = sg.Learner(model, optax.sgd(1e-3), loss=sg.losses.mse)
    steps = (floats(100, IN), floats(100, 1), jax.ShapeDtypeStruct((100,), jnp.bool_))
    count = jax.ShapeDtypeStruct((), jnp.int32)
    text = taught._run[True].lower(taught.program, taught.init(key=KEY), steps, count).compile().as_text()
    assert not copies(text, IN, 1, 96) and not copies(text, IN, 96) and not copies(text, 96, IN)


def test_a_learner_updates_its_state_in_place():
    """Everything that a learner knows is donated: the compiled step allocates no second copy of it."""
    taught = learner()
    state, found = analysed_call(taught._step, taught)
    assert found.alias_size_in_bytes >= size(state.arrays)
