"""Columns with private features, wirings with a drawn number of links, and functions of units that are told apart."""

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.flatten_util import ravel_pytree
from oracles import assert_no_silent_parameter, assert_same, distance, named

import streamgrad as sg
from streamgrad.influence._sequential import linearise_sequentially
from streamgrad.lab.experiments import columns_gradient

KEY = jax.random.key(0)
cells, wiring = sg.cells, sg.wiring
IN, FEATURES, UNITS, STEPS = 3, 2, 3, 4
SOURCES = FEATURES * (UNITS - 1) + UNITS


def drawn(density, seed=0, gates="own"):
    return wiring.Sparse(density=density, seed=seed, counts="drawn", gates=gates)


WIRINGS = {
    "columns": wiring.Columns(),
    "sparse": drawn(0.3, 1),
    "dense": wiring.Dense(),
}
MEMORIES = ("gated", "integrator", "none")
PRIVATE = ("first", "first_bias", "second", "second_bias")


def filled(make, seed=0):
    """What `make` makes, with random numbers in every array: far quicker than to have them drawn by the cell."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(0.6 * rng.normal(size=leaf.shape)), eqx.filter_eval_shape(make))


@functools.cache
def columns(wires="sparse", memory="gated"):
    """Columns at no special point, their features awake."""
    options = dict(features=FEATURES, wiring=WIRINGS[wires], memory=memory, key=KEY)
    cell = filled(lambda: cells.FeatureColumns(IN, UNITS, **options))
    awake = lambda c: (c.first_bias, c.second_bias)
    return eqx.tree_at(awake, cell, tuple(jnp.asarray(np.abs(leaf) + 0.3) for leaf in awake(cell)))


def traits(wires, memory, algorithm):
    layer = sg.Recurrent(columns(wires, memory), algorithm)
    return layer.algorithm.traits(layer.cell.core())


# The equations as they are published: every column by itself, from z = [features of all columns, states of all].


def links_of(wires):
    """Which entry of z each link hears, by row, gate and column; padding left out."""
    if wires == "columns":
        return {}
    index = WIRINGS[wires].connect(SOURCES, UNITS, 2).index()
    index, where = np.broadcast_to(index, (index.shape[0], 2, UNITS)), {}
    for row, gate, k in np.ndindex(index.shape):
        # Features of the other columns, one column after the other, then all states.
        others = [FEATURES * j + m for j in range(UNITS) if j != k for m in range(FEATURES)]
        sources = [*others, *range(FEATURES * UNITS, FEATURES * UNITS + UNITS)]
        if (source := index[row, gate, k]) < SOURCES:
            where[row, gate, k] = sources[source]
    return where


def test_the_sparse_columns_of_these_tests_have_links_of_every_kind():
    where = links_of("sparse")
    states = {(k, z - FEATURES * UNITS) for (_, _, k), z in where.items() if z >= FEATURES * UNITS}
    assert len(where) < columns("sparse").links.size, "padding"
    assert any(k == j for k, j in states) and any(k != j for k, j in states) and min(where.values()) < FEATURES * UNITS


class Published:
    """One step after another of h_k and of T_k <- dh_k/dθ_k + dh_k/dh_k⁻ T_k, with what column k sees of the others
    held fixed."""

    def __init__(self, cell, wires):
        self.memory, self.h = cell.memory, np.zeros(UNITS)
        self.parameters = {name[1:]: leaf for name, leaf in named(cell).items()}
        self.where = links_of(wires)
        self.w = np.zeros((2, UNITS, FEATURES * UNITS + UNITS))  # of both gates of all columns over z
        for k in range(UNITS):
            self.w[:, k, FEATURES * k : FEATURES * (k + 1)] = self.parameters["own"][:, :, k].T
        for (row, gate, k), z in self.where.items():
            self.w[gate, k, z] = self.parameters["links"][row, gate, k]
        self.traces = {name: np.zeros(leaf.shape) for name, leaf in self.parameters.items() if name in PRIVATE}
        self.traces |= {"w": np.zeros(self.w.shape), "bias": np.zeros((2, UNITS))}

    def step(self, x):
        relu = lambda a: np.maximum(a, 0)
        p, before = self.parameters, self.h
        first = np.einsum("x,xmn->mn", x, p["first"]) + p["first_bias"]
        second = np.einsum("an,amn->mn", relu(first), p["second"]) + p["second_bias"]
        z = np.concatenate([relu(second).T.ravel(), before])
        self.h = np.zeros(UNITS)
        for k in range(UNITS):
            drive = self.w[:, k] @ z + p["bias"][:, k]
            i, f = np.tanh(drive[0]), 1 / (1 + np.exp(-drive[1]))
            keep = {"gated": f, "integrator": 1.0, "none": 0.0}[self.memory]
            self.h[k] = keep * before[k] + i
            by_drive = np.array([1 - i**2, before[k] * f * (1 - f) if self.memory == "gated" else 0.0])
            of_state = FEATURES * UNITS + k
            by_h = keep + by_drive @ self.w[:, k, of_state]
            by_phi = by_drive @ self.w[:, k, FEATURES * k : FEATURES * (k + 1)]
            by_second = by_phi * (second[:, k] > 0)
            by_first = p["second"][:, :, k] @ by_second * (first[:, k] > 0)
            now = {
                "first": np.outer(x, by_first),
                "first_bias": by_first,
                "second": np.outer(relu(first[:, k]), by_second),
                "second_bias": by_second,
                "bias": by_drive,
            }
            for name, by_parameter in now.items():
                self.traces[name][..., k] = by_parameter + by_h * self.traces[name][..., k]
            self.traces["w"][:, k] = np.outer(by_drive, z) + by_h * self.traces["w"][:, k]

    def shaped(self, factors=1.0):
        """T, times a factor for each column, by the names and shapes of the cell."""
        found = {"." + name: factors * self.traces[name] for name in (*PRIVATE, "bias")}
        w = np.moveaxis(self.traces["w"], 1, 2) * factors  # gate, z, column
        found[".own"] = np.stack([w[:, FEATURES * k : FEATURES * (k + 1), k].T for k in range(UNITS)], axis=2)
        found[".links"] = np.zeros(self.parameters["links"].shape)
        for (row, gate, k), z in self.where.items():
            found[".links"][row, gate, k] = w[gate, z, k]
        return found


def losses(h, target, w):
    return (target - w @ h) ** 2 / 2


def problem():
    rng = np.random.default_rng(0)
    xs, targets = rng.normal(size=(STEPS, IN)), 3 * rng.normal(size=STEPS)
    return jnp.asarray(xs), jnp.asarray(targets), jnp.asarray(rng.normal(size=UNITS))


@functools.cache
def online(wires, memory, algorithm):
    """Carries, outputs and gradients, one step at a time."""

    @eqx.filter_jit
    def step(layer, carry, x, target, w):
        def loss(layer):
            new, h = layer(carry, x)
            return losses(h, target, w), (new, h)

        return eqx.filter_grad(loss, has_aux=True)(layer)

    layer = sg.Recurrent(columns(wires, memory), algorithm)
    carry, found = layer.init(key=KEY), []
    xs, targets, w = problem()
    for x, target in zip(xs, targets, strict=True):
        gradient, (carry, h) = step(layer, carry, x, target, w)
        found.append((carry, np.asarray(h), named(gradient.cell)))
    return found


def stacked(steps):
    return {name: np.stack([step[name] for step in steps]) for name in steps[0]}


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("wires", WIRINGS)
def test_columns_keep_the_published_trace_and_gradient(wires, memory):
    published, (xs, targets, w) = Published(columns(wires, memory), wires), problem()
    found, traces, gradients = online(wires, memory, sg.SnAp(1)), [], []
    for (_, h, _), x, target in zip(found, np.asarray(xs), np.asarray(targets), strict=True):
        published.step(x)
        np.testing.assert_allclose(h, published.h, rtol=1e-12, atol=1e-12)
        traces.append(published.shaped())
        gradients.append(published.shaped(-(target - np.asarray(w) @ published.h) * np.asarray(w)))
    kept = [{"." + name: np.asarray(leaf)[0] for name, leaf in carry.trace.items()} for carry, _, _ in found]
    assert_same(stacked(kept), stacked(traces))
    assert_same(stacked([gradient for _, _, gradient in found]), stacked(gradients))


@functools.cache
def through_time(wires, memory):
    """The gradient of every step's loss through all of the past."""

    @eqx.filter_jit
    def gradient(cell, xs, targets, w):
        def each(cell):
            def body(state, now):
                state = cell(state, now[0])
                return state, losses(cell.output(state, now[0]), now[1], w)

            return jax.lax.scan(body, cell.init_state(), (xs, targets))[1]

        return eqx.filter_jacrev(each)(cell)

    return named(gradient(columns(wires, memory), *problem()))


@pytest.mark.parametrize("memory", MEMORIES)
def test_snap1_is_exact_without_links(memory):
    got, want = stacked([g for _, _, g in online("columns", memory, sg.SnAp(1))]), through_time("columns", memory)
    assert_same(got, want)
    assert traits("columns", memory, sg.SnAp(1)).bias == "exact"
    assert_no_silent_parameter(got, zero=[".links"])
    for k in range(UNITS):  # of the first column, too
        assert all(leaf[..., k].any() for name, leaf in got.items() if name != ".links")
    assert (got[".own"][:, :, 1].any() and got[".bias"][:, 1].any()) == (memory == "gated")


def test_with_links_snap1_is_biased_and_rtrl_is_exact():
    want = through_time("sparse", "gated")
    got = stacked([g for _, _, g in online("sparse", "gated", sg.SnAp(1))])
    assert distance(got, want).max() > 1e-3
    assert_no_silent_parameter(got)
    assert_same(stacked([g for _, _, g in online("sparse", "gated", sg.RTRL())]), want)
    for wires in ("sparse", "dense"):
        told = traits(wires, "gated", sg.SnAp(1))
        assert told.bias == "biased" and "held fixed" in told.reason
        assert traits(wires, "gated", sg.RTRL()).bias == "exact"


def test_the_pattern_of_linked_columns_is_that_of_their_derivatives():
    units = 5
    make = lambda: cells.FeatureColumns(IN, units, features=2, wiring=drawn(0.08), key=KEY)
    cell = filled(make)
    pattern, structure = oracles.pattern_of_values(cell, np.arange(units)), cell.core().structure
    np.testing.assert_array_equal(structure.reads_matrix(), pattern.reads)
    group = np.concatenate([np.broadcast_to(np.arange(units), leaf.shape).ravel() for leaf in named(cell).values()])
    enters = np.stack([pattern.enters[:, group == g].any(1) for g in range(units)], axis=1)
    np.testing.assert_array_equal(structure.reach(1), enters)
    assert len({*map(bytes, (enters, pattern.reads, np.ones((units, units), bool), np.eye(units, dtype=bool)))}) == 4


@pytest.mark.parametrize("wires", WIRINGS)
def test_the_trace_has_one_number_for_each_parameter(wires):
    carry = sg.Recurrent(columns(wires), sg.SnAp(1)).init(key=KEY)
    assert {"." + name: leaf.shape for name, leaf in carry.trace.items()} == {
        name: (1, *leaf.shape) for name, leaf in named(columns(wires)).items()
    }


def test_the_trace_grows_linearly_with_the_columns():
    def numbers(units, wires, algorithm):
        make = lambda key: cells.FeatureColumns(IN, units, wiring=wires, key=key)
        trace = eqx.filter_eval_shape(lambda key: sg.Recurrent(make(key), algorithm).init(key=key).trace, KEY)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(eqx.filter_eval_shape(make, KEY)))
        return sum(leaf.size for leaf in jax.tree.leaves(trace)), parameters

    (few, _), (many, parameters) = (numbers(units, wiring.Columns(), sg.SnAp(1)) for units in (6, 24))
    assert many == 4 * few == parameters
    everything, parameters = numbers(6, wiring.Dense(), sg.RTRL())
    assert everything == 6 * parameters


def test_columns_with_links_refuse_a_chunk_under_snap1():
    layer = sg.Recurrent(columns(), sg.SnAp(1))
    with pytest.raises(TypeError, match="no chunked gradient"):
        oracles.chunk(layer, *oracles.problem(layer.cell, STEPS, 0))


# A drawn number of links.


@pytest.mark.parametrize("gates", ["own", "shared"])
@pytest.mark.parametrize("density", [0.02, 0.3, 0.9])
def test_each_link_is_drawn_by_itself(density, gates):
    links = drawn(density, gates=gates).connect(50, 80, 4)
    index = links.index()
    assert index.shape == (links.fan_in, 4 if gates == "own" else 1, 80)
    there = index < 50
    # Of n independent links a share of `density`, give or take four standard deviations; as many in each gate and unit
    # as a binomial says.
    n = there[0].size * 50
    assert abs(there.sum() / n - density) < 4 * (density * (1 - density) / n) ** 0.5
    counts = there.sum(0)
    assert counts.max() == links.fan_in
    assert abs(counts.var() / (50 * density * (1 - density)) - 1) < 0.4
    assert (index[~there] == 50).all() and (np.diff(there.astype(int), axis=0) <= 0).all(), "padding comes last"
    assert all(len(set(one[one < 50])) == (one < 50).sum() for one in index.reshape(links.fan_in, -1).T)
    other = drawn(density, 1, gates).connect(50, 80, 4)
    assert other.index().shape != index.shape or (other.index() != index).any()
    heard = np.bincount(index[there], minlength=50) / there.sum()
    np.testing.assert_allclose(heard * 50, 1, atol=5 / (density * n / 50) ** 0.5)


def test_edges_are_the_links_without_padding():
    links = drawn(0.1).connect(9, 6, 3)
    index = links.index()
    assert (index == 9).any()
    want = {(u, s) for _, g, u in np.ndindex(index.shape) for s in index[:, g, u] if s < 9}
    got = links.edges()
    assert got.shape == (2, len(want)) and set(map(tuple, got.T.tolist())) == want


def test_links_too_rare_to_be_drawn_leave_columns():
    cell = filled(lambda: cells.LSTM(IN, 5, wiring=drawn(1e-9), key=KEY))
    assert cell.core().structure.diagonal()
    layer = sg.Recurrent(cell, sg.SnAp(1))
    assert layer.algorithm.traits(layer.cell.core()).bias == "exact"


def padded(cell):
    """The cell with every padding weight far from 0, and where these weights are."""
    index = cell.wiring.connect(cell.units, cell.units, cell.weight_h.shape[1]).index()
    padding = np.broadcast_to(index == cell.units, cell.weight_h.shape)
    return eqx.tree_at(lambda c: c.weight_h, cell, jnp.asarray(np.where(padding, 1e3, cell.weight_h))), padding


def reads_of(index, gate, units):
    """Which unit hears which through one gate, padding left out."""
    reads = np.zeros((units, units), bool)
    for row, k in np.ndindex(index[:, gate].shape):
        if index[row, gate, k] < units:
            reads[k, index[row, gate, k]] = True
    return reads


def pattern_of_links(cell):
    """The pattern from the indices of the links, padding left out."""
    gates, units = cell.weight_h.shape[1], np.arange(cell.units)
    index = cell.wiring.connect(cell.units, cell.units, gates).index()
    reads = np.any([np.eye(cell.units, dtype=bool), *(reads_of(index, g, cell.units) for g in range(gates))], axis=0)
    entered = np.concatenate([np.broadcast_to(units, leaf.shape).ravel() for leaf in named(cell).values()])
    entries = oracles.to_rows(cell.init_state()).size // cell.units
    return oracles.Pattern(np.tile(units, entries), reads, entered == units[:, None])


#: A cell, and the layout of SnAp-2 and RTRL on it.
BANKS = {
    "GRU": (cells.GRU, 8, drawn(0.05, 3), "GatheredRows"),
    "LSTM": (cells.LSTM, 5, drawn(0.1, 5), "DenseRows"),
}


@functools.cache
def bank(name):
    kind, units, wires, _ = BANKS[name]
    cell, padding = padded(filled(lambda: kind(IN, units, wiring=wires, key=KEY)))
    assert padding.any() and not padding.all()
    at = oracles.problem(cell, STEPS, 0)
    return cell, padding, at, oracles.linearise(cell, *at)


@pytest.mark.parametrize(("algorithm", "order"), [(sg.SnAp(1), 1), (sg.SnAp(2), 2), (sg.RTRL(), 99)])
@pytest.mark.parametrize("name", BANKS)
def test_a_bank_with_a_drawn_number_of_links_has_the_defined_gradient(name, algorithm, order):
    (cell, padding, at, linear), pattern = bank(name), pattern_of_links(bank(name)[0])
    layer = sg.Recurrent(cell, algorithm)
    assert type(getattr(layer.algorithm, "layout", None)).__name__ == ("PerUnit" if order == 1 else BANKS[name][3])
    mask: Any = pattern.mask(order)
    want = linear.gradient(oracles.brute_force(linear.immediate, linear.dynamics, mask))
    got = oracles.online(layer, *at)
    assert_same(got, want)
    assert not got[".weight_h"][:, padding].any(), "a padding weight has a gradient"
    if name == "LSTM":  # a reset gate of a GRU has nothing to do where its candidate has no link
        assert got[".weight_h"][:, ~padding].any(0).all(), "a link does not learn"
    assert not pattern.closed(2)
    assert layer.algorithm.traits(cell.core()).bias == ("exact" if pattern.closed(order) else "biased")


def test_a_padding_weight_does_nothing():
    cell, padding, (xs, _), _ = bank("LSTM")
    without = eqx.tree_at(lambda c: c.weight_h, cell, jnp.where(padding, 0, cell.weight_h))
    states = [jax.lax.scan(lambda s, x, c=c: (c(s, x),) * 2, c.init_state(), xs)[1] for c in (cell, without)]
    np.testing.assert_array_equal(*states)


def test_padding_is_no_part_of_a_pattern_in_other_cells_either():
    structure = filled(lambda: cells.GRU(IN, 6, wiring=drawn(0.1), reset_before=True, key=KEY)).core().structure
    index = drawn(0.1).connect(6, 6, 3).index()
    z, r, a = (reads_of(index, gate, 6) for gate in range(3))
    assert (index == 6).any() and not (z | r | a).all()
    np.testing.assert_array_equal(structure.reads_matrix(), z | a | (a.astype(int) @ r > 0) | np.eye(6, dtype=bool))
    np.testing.assert_array_equal(structure.reach(1), np.concatenate([np.eye(6, dtype=bool), a], axis=1))
    cell = filled(lambda: cells.LSTM(IN, 5, input_wiring=drawn(0.3, 3), key=KEY))
    index = cell.input_wiring.connect(IN, 5, 4).index()
    hears = [[(index[:, :, k] == x).any() for x in range(IN)] for k in range(5)]
    np.testing.assert_array_equal(cell.sees()[0], hears)
    assert (index == IN).any() and cells.Chain(
        [cell, filled(lambda: cells.LSTM(5, 2, key=KEY))]
    ).core().structure.units == 7


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: wiring.Sparse(fan_in=2, counts="drawn"), "'drawn' with a density"),
        (lambda: dataclasses.replace(drawn(0.5), counts="random"), "random"),
        (lambda: drawn(0.0), r"density=...\) must lie in \(0, 1\], got 0.0"),
        (lambda: wiring.Sparse(counts="drawn"), "either fan_in or density"),
        (lambda: cells.FeatureColumns(IN, 0, key=KEY), "units must be a positive integer"),
        (lambda: cells.FeatureColumns(IN, 2, features=0, key=KEY), "features must be a positive integer"),
        (lambda: cells.FeatureColumns(IN, 2, memory="lstm", key=KEY), "'gated', 'integrator'(,| or) 'none'"),
        (lambda: cells.FeatureColumns(IN, 2, wiring=wiring.Blocks(2), key=KEY), "Blocks wires units to units"),
    ],
)
def test_what_makes_no_wiring_is_refused(make, words):
    with pytest.raises(Exception, match=words):
        make()


def test_the_experiment_runs_drawn_links_among_all_links():
    settings = columns_gradient.Settings(columns=3, features=2, inputs=IN, scale=1.5)
    drawn_, whole = (columns_gradient.network(settings, "gated", s, 4) for s in (1.0, "dense"))
    among, there = columns_gradient.among_all_links(drawn_, whole)
    index = drawn(2 / 7, 4).connect(7, 3, 2).index()
    assert there.links.sum() == (index < 7).sum() > 0 and there.own.all()
    np.testing.assert_array_equal(np.sort(among.links[there.links]), np.sort(drawn_.links[index < 7]))
    assert not np.asarray(among.links)[~np.asarray(there.links)].any()
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(STEPS, IN)))
    states = [jax.lax.scan(lambda s, x, c=c: (c(s, x),) * 2, c.init_state(), xs)[1] for c in (drawn_, among)]
    np.testing.assert_allclose(*states, rtol=1e-12)
    assert np.ptp(states[0]) > 0.1


# Functions of units that see each other through `seen` alone.

N = 5


def crowd_step(params, state, x, left):
    """Units of two entries in a ring; they hear what the neighbour to the left shows."""
    fast = jnp.tanh(params["u"] * state["slow"] + x @ params["w"] + params["v"] * left)
    return {"fast": fast, "slow": 0.7 * state["slow"] + params["v"] * fast + 0.2 * left * state["fast"]}


def crowd_seen(params, state, x):
    return jnp.roll(params["w"][0] * state["fast"] + x[0] * params["u"], 1)


def crowd(**changes):
    rng = np.random.default_rng(0)
    params = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in {"u": N, "v": N, "w": (IN, N)}.items()}
    state = {"fast": jnp.zeros(N), "slow": jnp.zeros(N)}
    return cells.Function(crowd_step, params | changes, state, in_size=IN, seen=crowd_seen)


def held_fixed(cell, xs, weights):
    """Along the run, by autodiff of the bare step: I and D with what is seen held fixed, and dL/ds."""
    theta, unravel = ravel_pytree(cell.params)
    state = lambda rows: oracles.from_rows(rows, cell.init_state())
    step = lambda theta, rows, x, seen: oracles.to_rows(crowd_step(unravel(theta), state(rows), x, seen))

    def body(rows, now):
        x, *w = now
        seen = crowd_seen(cell.params, state(rows), x)
        new = step(theta, rows, x, seen)
        return new, (*jax.jacfwd(step, argnums=(0, 1))(theta, rows, x, seen), jax.grad(oracles.loss)(new, tuple(w)))

    return map(np.asarray, jax.lax.scan(body, oracles.to_rows(cell.init_state()), (xs, *weights))[1])


def test_snap1_of_units_that_see_each_other_keeps_their_own_part():
    cell = crowd()
    at = oracles.problem(cell, STEPS, 0)
    immediate, dynamics, delta = held_fixed(cell, *at)
    unit = np.tile(np.arange(N), 2)
    number = np.concatenate([np.broadcast_to(np.arange(N), leaf.shape).ravel() for leaf in named(cell.params).values()])
    own = unit[:, None] == number
    assert not immediate[:, ~own].any() and not dynamics[:, unit[:, None] != unit].any()
    kept = oracles.brute_force(immediate, dynamics, own)
    flat = np.einsum("tr,trp->tp", delta, kept)
    want = stacked([named(eqx.tree_at(lambda c: c.params, cell, ravel_pytree(cell.params)[1](row))) for row in flat])
    layer = sg.Recurrent(cell, sg.SnAp(1))
    got, exact = oracles.online(layer, *at), named(oracles.bptt(cell, *at))
    assert_same(got, want)
    assert layer.algorithm.traits(layer.cell.core()).bias == "biased" and distance(got, exact).max() > 1e-3
    assert [leaf.shape for leaf in jax.tree.leaves(layer.init(key=KEY).trace)] == [(2, N), (2, N), (2, IN, N)]
    ring = np.eye(N, dtype=bool) | np.roll(np.eye(N, dtype=bool), 1, axis=0)
    structure = cell.core().structure
    np.testing.assert_array_equal(structure.reads_matrix(), ring)
    np.testing.assert_array_equal(structure.reach(1), ring)
    assert_same(oracles.online(sg.Recurrent(cell, sg.RTRL()), *at), exact)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"w": jnp.zeros((N, IN))}, r"units as its last axis, got last axes \[\(3,\), \(5,\)\]"),
        ({"u": jnp.array(1.0)}, r"got last axes \[\(\), \(5,\)\]"),
    ],
)
def test_units_that_are_not_the_last_axis_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        crowd(**changes)


def test_units_that_are_not_apart_are_refused():
    """A step that reads another unit past what is seen would be learned by another definition, silently."""
    neighbour = lambda params, state, x, seen: jnp.tanh(params["u"] * jnp.roll(state, 1))
    seen = lambda params, state, x: state
    with pytest.raises(ValueError, match="still depends on the old state of another one"):
        sg.cells.Function(neighbour, {"u": jnp.ones(3)}, jnp.zeros(3), in_size=1, pattern="dense", seen=seen)


# Entries of a state, one after another.

IN_TURN = {
    "lstm": lambda: cells.LSTM(IN, UNITS, wiring=wiring.Columns(), key=KEY),
    "gru": lambda: cells.GRU(IN, UNITS, wiring=wiring.Columns(), key=KEY),
    "alif": lambda: cells.ALIF(IN, UNITS, wiring=wiring.Columns(), key=KEY),
}


@pytest.mark.parametrize("name", IN_TURN)
def test_entries_in_turn_chain_to_the_whole_step(name):
    cell = filled(IN_TURN[name])
    core, state, x = cell.core(), filled(cell.init_state), jnp.ones(IN)
    whole, turn = core.linearise(state, x), linearise_sequentially(core, state, x)
    np.testing.assert_allclose(turn.state, whole.state, atol=1e-14)
    number = lambda value: jnp.zeros(UNITS) if value is None else value
    for rows, by_turn in ((whole.own, turn.own), (whole.drive, turn.drive)):
        chained = []
        for a, row in enumerate(by_turn):
            through = lambda k, a=a: sum(number(turn.earlier[a][b]) * chained[b][k] for b in range(a))  # noqa: B023
            chained.append([number(value) + through(k) for k, value in enumerate(row)])
            np.testing.assert_allclose(chained[a], [number(value) for value in rows[a]], atol=1e-14)


def test_the_output_of_an_lstm_is_made_of_its_new_cell():
    cell = filled(IN_TURN["lstm"])
    turn = linearise_sequentially(cell.core(), filled(cell.init_state), jnp.ones(IN))
    assert [value is not None for value in turn.earlier[1]] == [True]
    assert [value is not None for value in turn.own[1]] == [False, False]
    assert [value is not None for value in turn.drive[1]] == [False, False, False, True]
