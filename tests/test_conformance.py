"""One table of cells and wirings against all algorithms, driven one step at a time in float64.

A new cell is a row of `ROWS`, a new algorithm a row of `ALGORITHMS`; exceptions are columns of the tables. A cell
without a row gets one or two by default, and so does an algorithm that promises the exact gradient or an unbiased one.
"""

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable

import definitions
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from oracles import assert_no_silent_parameter, assert_same, distance, named

import streamgrad as sg
from streamgrad import influence

STEPS = 8
IN = 3
SEEDS = (0, 1)

cells, wiring = sg.cells, sg.wiring
OWN = dict(wiring=wiring.Sparse(fan_in=1, seed=3))
SHARED = dict(wiring=wiring.Sparse(fan_in=2, seed=1, gates="shared"))
COLUMNS = dict(wiring=wiring.Columns())
BLOCKS = dict(units=6, wiring=wiring.Blocks(3))
SPARSE_INPUT = dict(input_wiring=wiring.Sparse(fan_in=2, seed=5))


def ring(params, state, x):
    """Unit i hears itself and unit i - 1."""
    return jnp.tanh(params["u"] * jnp.roll(state, 1) + params["v"] * state + params["w"] @ x)


def ring_cell(pattern):
    w = {"u": jnp.ones(9), "v": jnp.ones(9), "w": jnp.ones((9, IN))}
    return cells.Function(ring, w, jnp.zeros(9), in_size=IN, pattern=pattern)


def rotor(params, state, x):
    """A complex state and a real one that reads it."""
    z = state["z"] * jax.lax.complex(jnp.cos(params["turn"]), jnp.sin(params["turn"])) * 0.9
    z = z + jax.lax.complex(params["re"] @ x, params["im"] @ x)
    return {"z": z, "slow": 0.5 * state["slow"] + params["mix"] * z.real * z.imag}


def rotor_cell():
    rng = np.random.default_rng(0)
    shapes = {"turn": (2,), "re": (2, IN), "im": (2, IN), "mix": (2,)}
    state = {"z": jnp.zeros(2, complex), "slow": jnp.zeros(2)}
    params = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
    return cells.Function(rotor, params, state, in_size=IN, pattern="dense")


def chain(*makers):
    def make(key):
        made, size = [], IN
        for k, (kind, options) in enumerate(makers):
            made.append(kind(size, key=jax.random.fold_in(key, k), **options))
            size = made[-1].out_size
        return cells.Chain(made)

    return make


@dataclasses.dataclass
class Row:
    """A cell with a wiring.

    - `spatial`: parameters (or, with an index, parts of them) that act on the past alone; None where
      `Spatial` refuses the cell, which cannot tell;
    - `mixed`: parameters that act both on the past and on the input: not compared under `Spatial`;
    - `unit_of_row`: for cells that are not units of one wiring, the unit of each state entry;
    - `alike`: algorithms whose bias cannot show here: a silent spiking net has no pseudo-derivative, and in
      these few steps none lies on a path of that length.
    """

    name: str
    make: Callable
    spatial: dict | None = dataclasses.field(default_factory=lambda: {".weight_h": ...})
    mixed: tuple = ()
    unit_of_row: list | None = None
    alike: tuple = ()


def bank(name, kind, units=5, **options):
    more = {k: options.pop(k) for k in ("spatial", "mixed", "alike") if k in options}
    return Row(name, lambda key, **dtype: kind(IN, units, key=key, **options, **dtype), **more)


ROWS = [
    bank("Vanilla-dense", cells.Vanilla),
    bank("Vanilla-sparse", cells.Vanilla, **OWN, **SPARSE_INPUT),
    bank("Vanilla-columns", cells.Vanilla, **COLUMNS),
    bank("GRU-dense", cells.GRU),
    bank("GRU-sparse", cells.GRU, units=7, **OWN),
    bank("GRU-shared", cells.GRU, **SHARED, **SPARSE_INPUT),
    bank("GRU-blocks", cells.GRU, **BLOCKS),
    bank("GRU-columns", cells.GRU, **COLUMNS),
    bank("GRU-before-dense", cells.GRU, reset_before=True, spatial=None),
    bank("GRU-before-sparse", cells.GRU, units=7, reset_before=True, spatial=None, **OWN, **SPARSE_INPUT),
    bank("GRU-before-columns", cells.GRU, reset_before=True, spatial=None, **COLUMNS),
    bank("LSTM-dense", cells.LSTM, **SPARSE_INPUT),
    bank("LSTM-sparse", cells.LSTM, units=7, **OWN),
    bank("LSTM-shared", cells.LSTM, **SHARED),
    bank("LSTM-blocks", cells.LSTM, **BLOCKS),
    bank("LSTM-columns", cells.LSTM, **COLUMNS, **SPARSE_INPUT),
    bank("LeakyRNN-sparse", cells.LeakyRNN, leak=0.3, **OWN),
    bank("LinearRNN-sparse", cells.LinearRNN, **OWN),
    bank("IndRNN-tanh", cells.IndRNN, activation=jnp.tanh, spatial={".u": ...}),
    bank("IndRNN-relu", cells.IndRNN, spatial={".u": ...}, **SPARSE_INPUT),
    bank("MinGRU", cells.MinGRU, spatial={}),
    bank("LRU", cells.LRU, spatial={".nu": ..., ".theta": ...}),
    bank("LRU-wide", cells.LRU, out_size=4, spatial={".nu": ..., ".theta": ...}),
    bank("RTU", cells.RTU, spatial={".theta": ...}, mixed=(".nu",)),
    bank("LIF-dense", cells.LIF),
    bank("LIF-sparse", cells.LIF, alike=("SnAp-3",), **OWN),
    bank("LIF-detached", cells.LIF, detach_reset=True, alike=("SnAp-3",), **OWN),
    bank("ALIF-sparse", cells.ALIF, alike=("SnAp-3",), **OWN),
    Row(
        "Chain-LRU-GRU-LSTM",
        chain(
            (cells.LRU, dict(units=3)),
            (cells.GRU, dict(units=4, **OWN)),
            (cells.LSTM, dict(units=3, **COLUMNS, **SPARSE_INPUT)),
        ),
        spatial=None,
        unit_of_row=[0, 1, 2] * 2 + [3, 4, 5, 6] + [7, 8, 9] * 2,
    ),
    Row(
        "Chain-MinGRU-before-LRU",
        chain(
            (cells.MinGRU, dict(units=3, **SPARSE_INPUT)),
            (cells.GRU, dict(units=3, reset_before=True, **OWN)),
            (cells.LRU, dict(units=2)),
        ),
        spatial=None,
        unit_of_row=[0, 1, 2, 3, 4, 5] + [6, 7] * 2,
    ),
    Row(
        "LaggedRNN",
        lambda key, **dtype: cells.LaggedRNN(IN, 3, lags=(1, 3), key=key, wiring=OWN["wiring"], **dtype),
        spatial=None,
        unit_of_row=[0, 1, 2] * 3,
    ),
    Row(
        "ByAction-GRU",
        lambda key: cells.ByAction(lambda key: cells.GRU(IN - 2, 4, key=key, **OWN), 2, key=key),
        spatial=None,
        unit_of_row=[0, 1, 2, 3],
    ),
    Row("Function", lambda key: ring_cell("auto"), spatial=None, unit_of_row=[*range(9)]),
    Row("Function-dense", lambda key: ring_cell("dense"), spatial=None, unit_of_row=[0] * 9),
    Row("Function-complex", lambda key: rotor_cell(), spatial=None, unit_of_row=[0] * 6),
]


@dataclasses.dataclass
class Algorithm:
    """What it computes, as one of

    - `order`: n of the pattern M_n that it keeps; `window`: of the past that it keeps;
    - `rule`: a definition (layer, cell, problem) -> gradient of every step;
    - `draws`: for an unbiased one, how many random gradients to average.

    `spatial`: whether it stops the recurrent term; `on`: the rows whose gradients are compared, None for all. Every
    algorithm is bound to every row.
    """

    algorithm: sg.algorithms.Algorithm
    order: int | None = None
    window: int | None = None
    rule: Callable | None = None
    draws: int = 0
    spatial: bool = False
    on: tuple[str, ...] | None = None


ALGORITHMS = {
    "RTRL": Algorithm(sg.RTRL(), order=99),
    "SnAp-1": Algorithm(sg.SnAp(n=1), order=1),
    "SnAp-2": Algorithm(sg.SnAp(n=2), order=2),
    "SnAp-3": Algorithm(sg.SnAp(n=3), order=3),
    "SnAp-20": Algorithm(sg.SnAp(n=20), order=20),
    "SnAp-1-full": Algorithm(
        sg.SnAp(n=1, present="full"),
        rule=definitions.full_present,
        on=("Vanilla-dense", "GRU-dense", "GRU-sparse", "GRU-before-sparse", "LSTM-dense"),
    ),
    "SnAp-2-full": Algorithm(sg.SnAp(n=2, present="full"), rule=definitions.full_present, on=("GRU-sparse",)),
    "SnAp-20-full": Algorithm(sg.SnAp(n=20, present="full"), order=20, on=("GRU-shared", "LRU")),
    "TBPTT-3": Algorithm(sg.TBPTT(window=3), window=3),
    "Spatial": Algorithm(sg.Spatial(), window=1, spatial=True),
    "Frozen": Algorithm(sg.Frozen(), window=0),
    "UORO": Algorithm(sg.UORO(), draws=20_000, on=("Vanilla-dense", "GRU-before-sparse", "LRU", "Function-complex")),
    "DODGE": Algorithm(sg.DODGE(), draws=20_000, on=("LSTM-dense", "LRU", "GRU-before-sparse")),
    "KF-RTRL": Algorithm(sg.KFRTRL(), draws=20_000, on=("GRU-sparse", "LSTM-dense", "LRU")),
    "OK-2": Algorithm(sg.OK(rank=2), draws=20_000, on=("Vanilla-sparse", "GRU-dense", "LRU")),
    "OK-all": Algorithm(sg.OK(rank=20), order=99, on=("Vanilla-dense", "GRU-shared", "LRU", "ALIF-sparse")),
    "RFLO": Algorithm(sg.RFLO(), rule=definitions.rflo, on=("LeakyRNN-sparse", "GRU-sparse", "LSTM-dense")),
    "RFLO-alone": Algorithm(sg.RFLO(), order=1, on=("IndRNN-relu", "MinGRU", "LRU", "RTU")),
    "e-prop": Algorithm(sg.EProp(), rule=definitions.eprop, on=("LIF-sparse", "LIF-detached", "ALIF-sparse")),
    "e-prop-leaky": Algorithm(sg.EProp(low_pass=0.6), rule=definitions.eprop, on=("LSTM-blocks", "ALIF-sparse")),
    "OTPE": Algorithm(sg.OTPE(leak=0.7), rule=definitions.otpe, on=("LIF-sparse", "LIF-detached")),
    "ES-D-RTRL": Algorithm(
        sg.ESDRTRL(decay=0.8),
        rule=definitions.es_d_rtrl,
        on=("Vanilla-columns", "GRU-sparse", "LSTM-blocks", "ALIF-sparse"),
    ),
    "MDGL": Algorithm(sg.MDGL(), rule=definitions.mdgl, on=("Vanilla-sparse", "GRU-shared", "LSTM-blocks")),
    "MDGL-2": Algorithm(sg.MDGL(types=2), rule=definitions.mdgl, on=("LIF-dense", "GRU-sparse", "ALIF-sparse")),
    "ModProp": Algorithm(
        sg.ModProp(types=2, decay=0.7), rule=definitions.modprop, on=("LeakyRNN-sparse", "LIF-dense", "ALIF-sparse")
    ),
    "ModProp-all": Algorithm(sg.ModProp(types=None), rule=definitions.modprop, on=("Vanilla-sparse",)),
    "KeRNL": Algorithm(sg.KeRNL(), rule=definitions.kernl, on=("LeakyRNN-sparse", "GRU-shared", "Vanilla-columns")),
    "DNI": Algorithm(sg.DNI(), rule=definitions.dni, on=("LSTM-sparse", "LRU", "GRU-before-dense", "Function-complex")),
    "random-2": Algorithm(
        sg.RandomK(k=2), rule=definitions.random_k, on=("Vanilla-dense", "GRU-sparse", "LSTM-blocks")
    ),
    "random-all": Algorithm(sg.RandomK(k=20), order=99, on=("GRU-shared", "LSTM-dense", "LRU")),
    "sketched-2": Algorithm(
        sg.Sketched(rank=2), rule=definitions.sketched, on=("Vanilla-dense", "GRU-sparse", "LSTM-blocks")
    ),
    "sketched-0": Algorithm(sg.Sketched(rank=0), order=1, on=("GRU-dense", "LSTM-sparse", "LRU")),
    "sketched-all": Algorithm(sg.Sketched(rank=20), order=99, on=("GRU-sparse", "LSTM-dense", "LRU")),
}
BASES = {sg.algorithms.Online, cells.UnitCell}
ELSEWHERE = {sg.BPTT, cells.FeatureColumns}  # in test_a_window_of_bptt and in test_columns


def concrete(space, base):
    """The classes of a public namespace that a user makes."""
    found = [thing for thing in vars(space).values() if inspect.isclass(thing) and issubclass(thing, base)]
    return [thing for thing in found if not inspect.isabstract(thing) and thing not in BASES | ELSEWHERE]


def default_algorithm(kind):
    """What its traits promise, held on some rows that it fits; None where they promise nothing that could be held."""
    promised = {}
    for row in ROWS:
        if row.name in ("Vanilla-dense", "GRU-before-sparse", "LSTM-columns", "LRU"):
            with contextlib.suppress(TypeError):  # it does not fit
                layer = sg.Recurrent(row.make(jax.random.key(0)), kind())
                promised.setdefault(layer.algorithm.traits(layer.cell.core()).bias, []).append(row.name)
    if "unbiased" in promised:
        return Algorithm(kind(), draws=20_000, on=tuple(promised["unbiased"]))
    return Algorithm(kind(), order=99, on=tuple(promised["exact"])) if "exact" in promised else None


known = {row.name.partition("-")[0] for row in ROWS}
for kind in concrete(cells, cells.Cell):
    if kind.__name__ not in known and kind in cells.NAMED.values():
        ROWS.append(bank(f"{kind.__name__}-dense", kind, spatial=None))
        if cells.has_links(kind):
            ROWS.append(bank(f"{kind.__name__}-sparse", kind, spatial=None, **OWN))
known = {type(entry.algorithm) for entry in ALGORITHMS.values()}
for kind in concrete(sg.algorithms, sg.algorithms.Algorithm):
    if kind not in known and (entry := default_algorithm(kind)):
        ALGORITHMS[kind.__name__] = entry
ORDERED = [name for name, entry in ALGORITHMS.items() if entry.order]
TRACED = [name for name in ALGORITHMS if name not in ("Spatial", "Frozen")]


class Case:
    """What the tests of one row share, each computed once."""

    def __init__(self, row):
        self.row = row
        self.cell = row.make(jax.random.key(0))
        assert type(self.cell).__name__ == row.name.partition("-")[0], "a row begins with the name of its cell"
        self.layer = functools.cache(lambda name: sg.Recurrent(self.cell, ALGORITHMS[name].algorithm))
        self.problem = functools.cache(lambda seed, hot=False: oracles.problem(self.cell, STEPS, seed, hot))
        self.at = functools.cache(lambda seed: oracles.randomised(self.cell, seed))
        self.linear = functools.cache(lambda *s: oracles.linearise(self.at(s[0]), *self.problem(*s)))
        self.exact = functools.cache(lambda *s: named(oracles.bptt(self.at(s[0]), *self.problem(*s))))
        self.apart = functools.cache(self._apart)

    def with_weights(self, name, seed):
        """With noise on the cell's parameters and on those of the algorithm."""
        layer = eqx.tree_at(lambda layer: layer.cell, self.layer(name), self.at(seed))
        return dataclasses.replace(layer, algorithm=oracles.randomised(layer.algorithm, seed))

    def _apart(self, name, *problem):
        return oracles.online(self.with_weights(name, problem[0]), *self.problem(*problem))

    def plan(self, name):
        if not applies(self.row, name) or getattr(ALGORITHMS[name].algorithm, "present", "kept") == "full":
            return None
        return getattr(self.layer(name).algorithm, "layout", None)

    def online(self, name, *problem):
        """The online gradient at every step. Algorithms that end up with one plan share one program."""
        plan = self.plan(name)
        alike = [other for other in ORDERED if plan is not None and self.plan(other) == plan]
        return self.apart((alike or [name])[0], *problem)

    def traits(self, name):
        layer = self.layer(name)
        return layer.algorithm.traits(layer.cell.core())

    @functools.cached_property
    def pattern(self):
        if self.row.unit_of_row is None:
            return oracles.pattern_of_wiring(self.cell)
        return oracles.pattern_of_values(self.cell, np.array(self.row.unit_of_row))

    def defined(self, name, *seed):
        """The gradient as the algorithm's definition has it, by brute force."""
        entry = ALGORITHMS[name]
        if entry.rule:
            return entry.rule(self.with_weights(name, seed[0]), self.at(seed[0]), self.problem(*seed))
        linear = self.linear(*seed)
        i, d = linear.immediate, linear.dynamics
        if entry.order:
            return linear.gradient(oracles.brute_force(i, d, self.pattern.mask(entry.order)))
        gradient = linear.gradient(oracles.truncated(i, d, entry.window))
        for leaf, part in self.row.spatial.items() if entry.spatial else ():
            gradient[leaf][:, part] = 0
        return gradient


def applies(row, name):
    entry = ALGORITHMS[name]
    return (entry.on is None or row.name in entry.on) and not (entry.spatial and row.spatial is None)


def shortened(problem, steps=4):
    """The first steps alone: the spread of random gradients grows with every one."""
    return jax.tree.map(lambda leaf: leaf[:steps], problem)


def reduced(gradient, skip):
    return {name: leaf for name, leaf in gradient.items() if name not in skip}


# One row of each kind, for what depends on the kind alone.
SAMPLE = (
    *("Vanilla-dense", "GRU-sparse", "GRU-shared", "GRU-before-sparse", "LSTM-dense", "LRU", "RTU", "ALIF-sparse"),
    *("Chain-MinGRU-before-LRU", "Function", "Function-complex"),
)


def over(*names, rows=None):
    """A test of each of these algorithms, on the rows that they are compared on, or on those of them in `rows`."""

    def mark(test):
        test.algorithms, test.rows = names, rows
        return test

    return mark


def cases(row, test):
    there = test.rows is None or row.name in test.rows
    return [name for name in test.algorithms if there and applies(row, name)]


def pytest_generate_tests(metafunc):
    if hasattr(metafunc.function, "algorithms"):
        metafunc.parametrize("name", cases(metafunc.cls.row, metafunc.function))


@pytest.fixture(scope="class")
def case(request):
    yield Case(request.cls.row)
    jax.clear_caches()  # compiled programs of one row are of no use to the next


@pytest.mark.cross
class Conformance:
    """The tests of one row. Every row is a class of its own, so that a test process has it to itself."""

    row: Row

    def test_the_oracles_agree(self, case):
        """Two ways to the exact gradient, and where both exist two ways to the pattern."""
        linear = case.linear(0)
        full = oracles.brute_force(linear.immediate, linear.dynamics)
        assert_same(linear.gradient(full), case.exact(0))
        if case.row.unit_of_row is None:
            by_values = oracles.pattern_of_values(case.cell, case.pattern.unit)
            np.testing.assert_array_equal(case.pattern.reads, by_values.reads)
            np.testing.assert_array_equal(case.pattern.enters, by_values.enters)

    @over(*ALGORITHMS)
    def test_the_gradient_is_the_defined_one(self, case, name):
        """At every step, for several draws of weights and inputs, one-hot inputs too."""
        if draws := ALGORITHMS[name].draws:
            scores = oracles.z_scores(case.with_weights(name, 0), shortened(case.problem(0)), draws)
            assert np.abs(scores).max() < oracles.bound(scores)
            return
        skip = case.row.mixed if ALGORITHMS[name].spatial else ()
        for problem in (0,), (1,), (0, True):
            assert_same(reduced(case.online(name, *problem), skip), reduced(case.defined(name, *problem), skip))

    @over(*ALGORITHMS)
    def test_traits_say_what_holds(self, case, name):
        """Exact ones equal backprop through time at every step, biased ones differ from it."""
        traits, order = case.traits(name), ALGORITHMS[name].order
        random = "unbiased" if ALGORITHMS[name].draws else "biased"
        assert traits.bias == ("exact" if order and case.pattern.closed(order) else random)
        got, want = case.online(name, 0), case.exact(0)
        if traits.bias == "exact":
            for seed in SEEDS:
                assert_same(case.online(name, seed), case.exact(seed))
        elif name not in case.row.alike:
            assert distance(got, want).max() > 1e-6
        if traits.exact_at_one_step:
            first = lambda gradient: {leaf: value[:1] for leaf, value in gradient.items()}
            assert_same(first(got), first(want))

    def test_algorithms_bind_or_say_what_would_fit(self, case):
        """And their traces take what they say."""
        for name, entry in ALGORITHMS.items():
            kind = type(entry.algorithm).__name__
            try:
                layer = case.layer(name)
            except TypeError as refusal:
                assert not applies(case.row, name)
                assert kind in str(refusal) and "use " in str(refusal)
                continue
            traits = case.traits(name)
            trace = eqx.filter_eval_shape(lambda layer: layer.init(key=jax.random.key(0)).trace, layer)
            kept = [
                leaf
                for leaf in jax.tree.leaves(trace)
                if leaf.ndim and not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            ]
            assert traits.bytes == sum(leaf.size * leaf.dtype.itemsize for leaf in kept), name
            assert traits.reason and traits.layout and traits.reference

    @over(*TRACED)
    def test_every_parameter_learns(self, case, name):
        assert case.traits(name).zero_leaves == ()
        assert_no_silent_parameter(case.online(name, 0))

    @over("Spatial", "Frozen")
    def test_declared_parameters_and_no_others_get_zero(self, case, name):
        """Declared by the leaves of the core; outputs are no part of it and always learn."""
        layer = case.with_weights(name, 0)
        core, state = layer.cell.core(), jax.tree.map(lambda s: s + 0.5, layer.cell.init_state())
        carry, x = sg.algorithms.Carry(state, layer.init(key=jax.random.key(0)).trace), case.problem(0)[0][0]

        @eqx.filter_jit
        @eqx.filter_grad
        def gradient(core, algorithm):
            return jnp.sum(jnp.sin(oracles.to_rows(algorithm.step(core, carry, x).state)))

        gradient = named(gradient(core, layer.algorithm))
        declared = case.traits(name).zero_leaves
        assert_no_silent_parameter(gradient, gradient if declared == ("*",) else declared)

    def test_a_window_of_bptt(self, case):
        layer = sg.Recurrent(case.at(0), sg.BPTT())
        assert layer.algorithm.traits(layer.cell.core()).bias == "exact"
        total = {name: leaf.sum(0, keepdims=True) for name, leaf in case.exact(0).items()}
        assert_same(oracles.bptt_window(layer, *case.problem(0)), total)
        assert_same(oracles.chunk(layer, *case.problem(0)), total)

    @over("RTRL", "SnAp-1")
    def test_a_chunk_at_once_is_the_sum_of_its_steps(self, case, name):
        """Exact credit, and credit within each unit; other rules are in test_unroll."""
        layer, order = case.with_weights(name, 0), ALGORITHMS[name].order
        local = isinstance(getattr(layer.algorithm, "layout", None), influence.PerUnit)
        if not (local or case.pattern.closed(order)):
            with pytest.raises(TypeError, match="no chunked gradient"):
                oracles.chunk(layer, *case.problem(0))
            return
        steps = {leaf: value.sum(0, keepdims=True) for leaf, value in case.online(name, 0).items()}
        assert_same(oracles.chunk(layer, *case.problem(0)), steps)

    @over("SnAp-2", "TBPTT-3", "UORO", "KF-RTRL", "OK-all", "DODGE", "DNI", "random-2", rows=SAMPLE)
    def test_streams_in_a_batch_scanned_equal_streams_apart(self, case, name):
        layer = case.with_weights(name, 0)
        problems = [case.problem(0), case.problem(0, True)]
        by_time = jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *problems)

        @eqx.filter_jit
        def run(layer, by_time):
            def objective(layer, carry, x, weights):
                carry, y = jax.vmap(layer)(carry, x)
                return jax.vmap(oracles.loss)(y, weights).sum(), carry

            def body(carry, now):
                gradient, carry = eqx.filter_grad(objective, has_aux=True)(layer, carry, *now)
                return carry, gradient.cell

            carry = jax.vmap(lambda key: layer.init(key=key))(jax.random.split(jax.random.key(0)))
            return jax.lax.scan(body, carry, by_time)[1]

        keys = jax.random.split(jax.random.key(0))
        apart = [oracles.online(layer, *each, key) for each, key in zip(problems, keys, strict=True)]
        assert_same(named(run(layer, by_time)), {leaf: sum(each[leaf] for each in apart) for leaf in apart[0]})

    @over("RTRL", "SnAp-1", rows=("GRU-dense", "GRU-before-sparse", "LSTM-sparse", "LRU", "RTU", "LIF-dense"))
    def test_low_precision(self, case, name):
        """Close to float64 at the same weights; traces are at least float32."""
        dtype, tolerance = {"RTRL": ("float32", 1e-4), "SnAp-1": ("bfloat16", 0.2)}[name]
        low = oracles.cast(case.at(0), dtype)
        problem = case.problem(0)
        layer = sg.Recurrent(low, ALGORITHMS[name].algorithm)
        traces = jax.tree.leaves(layer.init(key=jax.random.key(0)).trace)
        assert {leaf.real.dtype.name for leaf in traces} == {"float32"}
        got = oracles.online(layer, *jax.tree.map(lambda a: a.astype(dtype), problem))
        assert {leaf.dtype.name for leaf in got.values()} == {dtype}
        high = eqx.tree_at(lambda other: other.cell, case.layer(name), oracles.cast(low, "float64"))
        got = {leaf: value.astype("float64") for leaf, value in got.items()}
        assert distance(got, oracles.online(high, *problem)).max() < tolerance


for row in ROWS:
    without = {test: None for test, of in vars(Conformance).items() if hasattr(of, "algorithms") and not cases(row, of)}
    globals()[f"Test{row.name}"] = type(f"Test{row.name}", (Conformance,), {"row": row, **without})


# What the quick suite leaves to `make test-all` is a pair, never a row or a column.


def test_the_quick_suite_compares_every_cell_and_every_algorithm(quick):
    compared = [item for item in quick if item.originalname == "test_the_gradient_is_the_defined_one"]
    if len({item.cls for item in quick if item.cls}) < len(ROWS):
        pytest.skip("only a part of this file was collected")
    rows = {item.cls.row.name: item.cls.row for item in compared}.values()
    made = {getattr(cells, row.name.partition("-")[0]) for row in rows}
    assert set(concrete(cells, cells.Cell)) <= made, "no row of the quick suite: add one to ROWS"
    entries = {item.callspec.params["name"] for item in compared}
    kinds = {type(ALGORITHMS[name].algorithm) for name in entries}
    assert entries == set(ALGORITHMS)
    assert set(concrete(sg.algorithms, sg.algorithms.Algorithm)) <= kinds, (
        "no row of the quick suite: a biased algorithm needs one in ALGORITHMS, with a written definition as its rule"
    )
