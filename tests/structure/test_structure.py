"""Structure: who reaches whom, how dense J is, and errors that say what to change."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import streamgrad as sg

KEY = jax.random.key(0)
cells, wiring = sg.cells, sg.wiring
UNITS = 12


def make(kind=cells.Vanilla, units=UNITS, in_size=3, **options):
    return kind(in_size, units, key=KEY, **options)


WIRED = {
    "sparse": make(wiring=wiring.Sparse(fan_in=1, seed=0)),
    "sparse-2": make(wiring=wiring.Sparse(fan_in=2, seed=1)),
    "own": make(cells.LSTM, wiring=wiring.Sparse(fan_in=1, seed=2)),
    "shared": make(cells.GRU, wiring=wiring.Sparse(fan_in=1, seed=3, gates="shared")),
    "blocks": make(cells.GRU, wiring=wiring.Blocks(4)),
    "columns": make(cells.LSTM, wiring=wiring.Columns()),
    "dense": make(),
    "diagonal": make(cells.MinGRU),
    "two stages": make(cells.GRU, reset_before=True, wiring=wiring.Sparse(fan_in=1, seed=4)),
    "two stages, columns": make(cells.GRU, reset_before=True, wiring=wiring.Columns()),
}
wired = pytest.mark.parametrize("cell", WIRED.values(), ids=WIRED)


@wired
@pytest.mark.parametrize("n", [1, 2, 3, 4, 30])
def test_reach_is_the_boolean_power(cell, n):
    structure, pattern = cell.core().structure, oracles.pattern_of_wiring(cell)
    np.testing.assert_array_equal(structure.reads_matrix(), pattern.reads)
    assert structure.closed(n) == pattern.closed(n)
    assert structure.kept(n) == pattern.mask(n).sum()
    assert structure.density(n) == pytest.approx(pattern.mask(n).mean())
    # Parameter by parameter; the two lists hold the same columns in another order.
    columns = np.repeat(structure.reach(n), structure.group_sizes.value, axis=1)
    as_set = lambda matrix: sorted(map(bytes, np.packbits(matrix, axis=0).T))
    assert as_set(columns) == as_set(pattern.units(n))


@wired
def test_the_horizon_is_where_the_pattern_closes(cell):
    pattern = oracles.pattern_of_wiring(cell)
    assert cell.core().structure.horizon() == next(n for n in range(1, 30) if pattern.closed(n))


def test_diagonal_cells_and_columns_close_at_one_step_blocks_and_dense_at_two():
    horizon = {name: cell.core().structure.horizon() for name, cell in WIRED.items()}
    assert horizon["columns"] == horizon["diagonal"] == horizon["two stages, columns"] == 1
    assert horizon["blocks"] == horizon["dense"] == 2
    assert horizon["sparse"] > 2


# The published densities of J in percent under SnAp-1, 2 and 3: arXiv 2006.07232.
DENSITIES = [
    (cells.Vanilla, 256, 0.25, (0.39, 25, 100)),
    (cells.Vanilla, 512, 0.0625, (0.20, 6.4, 87)),
    (cells.Vanilla, 1024, 0.015625, (0.10, 1.7, 23)),
    (cells.GRU, 256, 0.25, (0.39, 58, 100)),
    (cells.GRU, 512, 0.0625, (0.20, 18, 100)),
    (cells.GRU, 1024, 0.015625, (0.10, 4.7, 89)),
    (cells.LSTM, 256, 0.25, (0.39, 69, 100)),
    (cells.LSTM, 512, 0.0625, (0.20, 23, 100)),
    (cells.LSTM, 1024, 0.015625, (0.10, 6.2, 98)),
]


@pytest.mark.parametrize(("kind", "units", "density", "expected"), DENSITIES)
def test_densities_of_the_published_table(kind, units, density, expected):
    cell = kind(1, units, wiring=wiring.Sparse(density=density, seed=0), key=KEY)
    found = [100 * cell.core().structure.density(n) for n in (1, 2, 3)]
    assert found == pytest.approx(expected, rel=0.03)


def test_gates_that_share_a_pattern_keep_the_influence_of_a_vanilla_cell():
    densities = [
        make(kind, 256, wiring=wiring.Sparse(density=0.25, gates="shared")).core().structure.density(2)
        for kind in (cells.Vanilla, cells.GRU, cells.LSTM)
    ]
    assert densities == pytest.approx([0.25] * 3, rel=0.03)


def test_a_wiring_is_drawn_once_per_seed_without_repetition():
    draw = lambda seed: wiring.Sparse(fan_in=4, seed=seed).connect(9, 20, 3).index()
    np.testing.assert_array_equal(draw(0), draw(0))
    assert not np.array_equal(draw(0), draw(1))
    assert all(len(set(links)) == 4 for links in draw(0).reshape(4, -1).T)
    # Uniform: over many draws every source is heard about equally often.
    heard = np.bincount(np.concatenate([draw(seed).ravel() for seed in range(40)]), minlength=9)
    np.testing.assert_allclose(heard / heard.mean(), 1, atol=0.1)


def test_equal_layers_are_compiled_once():
    traced = []

    @eqx.filter_jit
    def step(layer, carry, x):
        traced.append(1)
        return layer(carry, x)

    for _ in range(2):
        layer = sg.Recurrent(make(wiring=wiring.Sparse(fan_in=2, seed=0)), sg.SnAp(n=2))
        step(layer, layer.init(key=KEY), jnp.ones(3))
    assert len(traced) == 1


# Errors: what came, what was expected, what to change.


class Complex(sg.cells.MinGRU):
    """A cell with a complex parameter."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.weight_x = self.weight_x.astype(complex)


class Bare(sg.cells.Core):
    """A core that nothing is known of."""

    def __call__(self, state, x):
        return state

    structure = property(lambda self: None)

    def acts_on_state(self):
        raise TypeError("Unknown to this core: use TBPTT instead.")


def function(step=lambda params, state, x: state * params, params=1.0, state=(2,), **options):
    return cells.Function(step, jnp.asarray(params), jnp.zeros(state), in_size=1, **options)


def wrong_carry():
    return sg.Recurrent(make(units=4), sg.RTRL())(sg.Recurrent(make(units=5), sg.RTRL()).init(key=KEY), jnp.ones(3))


def carry_of_another_algorithm():
    carry = sg.Recurrent(make(units=4), sg.SnAp(n=1)).init(key=KEY)
    return sg.Recurrent(make(units=4), sg.RTRL())(carry, jnp.ones(3))


def wrong_input(x):
    layer = sg.Recurrent(make(units=4), sg.RTRL())
    return layer(layer.init(key=KEY), x)


ERRORS = {
    "fan_in too large": (
        lambda: make(wiring=wiring.Sparse(fan_in=13)),
        ValueError,
        "fan_in=13|12 sources|lower fan_in",
    ),
    "no sparsity": (lambda: wiring.Sparse(), ValueError, "fan_in=None|density=None|exactly one"),
    "two sparsities": (lambda: wiring.Sparse(fan_in=1, density=0.5), ValueError, "fan_in=1|density=0.5|exactly one"),
    "fan_in zero": (lambda: wiring.Sparse(fan_in=0), ValueError, "at least 1|got 0"),
    "density above one": (lambda: wiring.Sparse(density=1.5), ValueError, r"\(0, 1\]|got 1.5"),
    "blocks that do not divide": (lambda: make(wiring=wiring.Blocks(5)), ValueError, "size=5|divide|12 units"),
    "blocks as input": (
        lambda: make(input_wiring=wiring.Blocks(3)),
        ValueError,
        r"3 sources for 12 units|use Dense\(\)",
    ),
    "columns as input": (
        lambda: make(input_wiring=wiring.Columns()),
        ValueError,
        r"3 sources for 12 units|use Dense\(\)",
    ),
    "no units": (lambda: make(units=0), ValueError, "units|positive integer|got 0"),
    "an integer dtype": (lambda: make(dtype=jnp.int32), TypeError, "int32|use float32"),
    "a complex parameter": (
        lambda: sg.Recurrent(make(Complex), sg.RTRL()),
        TypeError,
        "weight_x|complex128|real leaves",
    ),
    "a leak of zero": (lambda: make(cells.LeakyRNN, leak=0.0), ValueError, r"\(0, 1\]|got 0"),
    "a threshold of zero": (lambda: make(cells.LIF, threshold=0.0), ValueError, "positive|got 0"),
    "a decay of one": (lambda: make(cells.ALIF, decay=1.0), ValueError, r"decay|\[0, 1\)|got 1"),
    "an empty ring": (lambda: make(cells.LRU, r_min=0.9, r_max=0.5), ValueError, "r_min=0.9|r_max=0.5|r_min < r_max"),
    "an empty chain": (lambda: cells.Chain([]), ValueError, "at least one cell|got none"),
    "a chain that does not fit": (
        lambda: cells.Chain([make(units=4), make(cells.LSTM, in_size=5)]),
        ValueError,
        r"cell 0 \(Vanilla\) outputs 4|cell 1 \(LSTM\) expects in_size=5|make the two equal",
    ),
    "a step that changes the state": (
        lambda: function(lambda params, state, x: state[:1] * params),
        TypeError,
        r"same structure, shapes and dtypes|initial: \(\(2,\)|returned: \(\(1,\)",
    ),
    "complex parameters of a function": (lambda: function(params=1j), TypeError, "must be real|real and imaginary"),
    "a dense influence too large": (
        lambda: function(params=np.ones(20_000), state=20_000, step=lambda p, s, x: s * p, pattern="dense"),
        ValueError,
        "20000 parameters on 20000 state entries|4.00e[+]08 entries|Make the cell smaller",
    ),
    "SnAp-0": (lambda: sg.SnAp(n=0), ValueError, r"n >= 1|got 0|SnAp\(1\)"),
    "a window of zero": (lambda: sg.TBPTT(window=0), ValueError, "window >= 1|got 0"),
    "reach of zero steps": (lambda: make().core().structure.reach(0), ValueError, "n >= 1|n = 0"),
    "an algorithm without a cell": (
        lambda: sg.SnAp(n=1).init(make().core(), make().init_state(), key=KEY),
        ValueError,
        r"before it knew its cell|sg.Recurrent\(cell, algorithm\)",
    ),
    "a core that cannot be linearised": (
        lambda: sg.RTRL().bind(Bare(), jnp.zeros(1), jnp.zeros(1)),
        TypeError,
        "got Bare|sg.cells.Function",
    ),
    "an input too long": (lambda: wrong_input(jnp.ones(5)), ValueError, r"shape \(3,\)|got \(5,\)|One step"),
    "a complex input": (
        lambda: wrong_input(jnp.ones(3, complex)),
        TypeError,
        "must be real|complex128|real and imaginary",
    ),
    "another cell's carry": (wrong_carry, ValueError, r"Vanilla, RTRL|\(1, 5\)|\(1, 4\)|own init\(key="),
    "another algorithm's carry": (carry_of_another_algorithm, ValueError, r"trace|own init\(key="),
}


@pytest.mark.parametrize(("call", "kind", "said"), ERRORS.values(), ids=ERRORS)
def test_errors_say_what_came_what_was_expected_and_what_to_change(call, kind, said):
    with pytest.raises(kind) as error:
        call()
    for fragment in said.split("|"):
        error.match(fragment)
