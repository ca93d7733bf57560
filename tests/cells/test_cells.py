"""Every cell against its textbook equations, in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import streamgrad as sg

KEY = jax.random.key(0)
IN, UNITS = 3, 6
cells, wiring = sg.cells, sg.wiring
sigmoid = lambda v: 1 / (1 + np.exp(-v))


def drives(weights, index, source):
    """drive[g, i] = Σ_k weights[k, g, i] source[index[k, g, i]], by loops."""
    fan_in, gates, units = weights.shape
    index = np.broadcast_to(index, weights.shape)
    total = np.zeros((gates, units))
    for k, g, i in np.ndindex(fan_in, gates, units):
        total[g, i] += weights[k, g, i] * source[index[k, g, i]]
    return total


def by_x(cell, x):
    weights = np.asarray(cell.weight_x)
    return drives(weights, cell.input_wiring.connect(IN, UNITS, weights.shape[1]).index(), x)


def by_h(cell, h):
    weights = np.asarray(cell.weight_h)
    return drives(weights, cell.wiring.connect(UNITS, UNITS, weights.shape[1]).index(), h)


def vanilla(cell, h, x):
    return np.tanh(by_x(cell, x) + by_h(cell, h[0]) + cell.bias)


def gru(cell, h, x):
    wx, (hz, hr, ha), (bz, br, ba) = by_x(cell, x), by_h(cell, h[0]), np.asarray(cell.bias)
    z, r = sigmoid(wx[0] + hz + bz), sigmoid(wx[1] + hr + br)
    return (1 - z) * h + z * np.tanh(wx[2] + r * ha + ba)


def gru_before(cell, h, x):
    wx, (hz, hr, _), (bz, br, ba) = by_x(cell, x), by_h(cell, h[0]), np.asarray(cell.bias)
    z, r = sigmoid(wx[0] + hz + bz), sigmoid(wx[1] + hr + br)
    return (1 - z) * h + z * np.tanh(wx[2] + by_h(cell, r * h[0])[2] + ba)


def lstm(cell, state, x):
    c, h = state
    i, f, g, o = by_x(cell, x) + by_h(cell, h) + cell.bias
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return np.stack([c, sigmoid(o) * np.tanh(c)])


def leaky(cell, h, x):
    return 0.7 * h + 0.3 * vanilla(cell, h, x)


def indrnn(cell, h, x):
    return np.maximum(by_x(cell, x) + cell.u * h + cell.bias, 0)


def mingru(cell, h, x):
    z, a = by_x(cell, x) + cell.bias
    return (1 - sigmoid(z)) * h + sigmoid(z) * a


def lru(cell, h, x):
    nu, theta, gamma_log, b_re, b_im = map(np.asarray, (cell.nu, cell.theta, cell.gamma_log, cell.b_re, cell.b_im))
    return np.exp(-np.exp(nu) + 1j * np.exp(theta)) * h + np.exp(gamma_log) * (x @ (b_re + 1j * b_im))


def rtu(cell, state, x):
    c1, c2 = state
    r, phase = np.exp(-np.exp(cell.nu)), np.exp(cell.theta)
    g, phi, gamma = r * np.cos(phase), r * np.sin(phase), np.sqrt(1 - r**2)
    return np.stack([g * c1 - phi * c2 + gamma * (x @ cell.w1), g * c2 + phi * c1 + gamma * (x @ cell.w2)])


def lif(cell, state, x):
    v, z = state
    v = 0.9 * v + (by_x(cell, x) + by_h(cell, z) + cell.bias)[0] - z * 0.5
    return np.stack([v, v > 0.5])


def alif(cell, state, x):
    v, b, z = state
    b = 0.99 * b + z
    v = 0.9 * v + (by_x(cell, x) + by_h(cell, z) + cell.bias)[0] - z * 0.5
    return np.stack([v, b, v > 0.5 + 0.1 * b])


OWN = dict(wiring=wiring.Sparse(fan_in=2, seed=0), input_wiring=wiring.Sparse(fan_in=2, seed=1))
SHARED = dict(wiring=wiring.Sparse(fan_in=3, seed=2, gates="shared"))
BLOCKS, COLUMNS = dict(wiring=wiring.Blocks(3)), dict(wiring=wiring.Columns())
LOW = dict(threshold=0.5)
EQUATIONS = [
    (vanilla, cells.Vanilla, {}),
    (vanilla, cells.Vanilla, BLOCKS),
    *((gru, cells.GRU, options) for options in ({}, OWN, SHARED, BLOCKS, COLUMNS)),
    *((gru_before, cells.GRU, dict(reset_before=True, **options)) for options in ({}, OWN, COLUMNS)),
    *((lstm, cells.LSTM, options) for options in ({}, OWN, SHARED, BLOCKS, COLUMNS)),
    (leaky, cells.LeakyRNN, dict(leak=0.3, **OWN)),
    (indrnn, cells.IndRNN, {}),
    (mingru, cells.MinGRU, dict(input_wiring=wiring.Sparse(fan_in=2, seed=1))),
    (lru, cells.LRU, {}),
    (rtu, cells.RTU, {}),
    (lif, cells.LIF, LOW),
    (lif, cells.LIF, LOW | OWN),
    (alif, cells.ALIF, LOW | SHARED),
]


@pytest.mark.parametrize(("equations", "kind", "options"), EQUATIONS)
def test_a_step_is_the_textbooks(equations, kind, options):
    cell = oracles.randomised(kind(IN, UNITS, key=KEY, **options), seed=0)
    state, step = cell.init_state(), jax.jit(lambda state, x: cell(state, x))
    assert not np.any(state)
    want = np.asarray(state)
    for x in np.random.default_rng(1).normal(size=(6, IN)):
        state, want = step(state, jnp.asarray(x)), equations(cell, want, x)
        np.testing.assert_allclose(state, want, rtol=1e-12, atol=1e-14)


def test_outputs():
    h, x = np.arange(UNITS) * (0.3 + 0.1j) + 1j, np.arange(1.0, IN + 1)
    cell = cells.LRU(IN, UNITS, key=KEY)
    c_re, c_im, d = map(np.asarray, (cell.c_re, cell.c_im, cell.d))
    np.testing.assert_allclose(cell.output(jnp.asarray(h[None]), jnp.asarray(x)), (h @ (c_re + 1j * c_im)).real + d * x)
    h, x = jnp.asarray(h), jnp.asarray(x)
    narrow = cells.LRU(IN, UNITS, out_size=2, key=KEY)
    assert narrow.d is None and narrow.output(h[None], x).shape == (2,)
    state = jnp.arange(3.0 * UNITS).reshape(3, UNITS)
    np.testing.assert_array_equal(cells.LSTM(IN, UNITS, key=KEY).output(state[:2], x), state[1])
    np.testing.assert_array_equal(cells.ALIF(IN, UNITS, key=KEY).output(state, x), state[2])
    np.testing.assert_allclose(cells.RTU(IN, UNITS, key=KEY).output(state[:2], x), np.tanh(state[:2]).ravel())


def test_a_chain_is_its_cells_in_a_row():
    parts = [cells.LRU(IN, 4, key=KEY), cells.GRU(IN, UNITS, key=KEY), cells.LSTM(UNITS, 2, key=KEY)]
    chain, state, x = cells.Chain(parts), None, jnp.ones(IN)
    state, apart, y = chain.init_state(), [part.init_state() for part in parts], x
    for _ in range(3):
        state, y = chain(state, x), x
        for k, part in enumerate(parts):
            apart[k] = part(apart[k], y)
            y = part.output(apart[k], y)
    for got, want in zip(state, apart, strict=True):
        np.testing.assert_allclose(got, want)
    np.testing.assert_allclose(chain.output(state, x), y)


def test_spikes_have_the_published_pseudo_derivative():
    v = jnp.linspace(-2, 2, 41)
    np.testing.assert_array_equal(cells.spike(v), v > 0)
    np.testing.assert_allclose(jax.vmap(jax.grad(cells.spike))(v), 0.3 * np.maximum(0, 1 - np.abs(v)), atol=1e-12)


def test_rings_of_eigenvalues():
    for kind in (cells.LRU, cells.RTU):
        cell = kind(IN, 500, key=KEY, r_min=0.5, r_max=0.9, max_phase=1.0)
        radius, phase = np.exp(-np.exp(cell.nu)), np.exp(cell.theta)
        assert radius.min() >= 0.5 and radius.max() <= 0.9 and phase.max() <= 1
        # Uniform in area: half of them lie beyond the radius that halves the ring.
        assert np.mean(radius > np.sqrt((0.25 + 0.81) / 2)) == pytest.approx(0.5, abs=0.1)


def test_an_lru_starts_normalised():
    cell = cells.LRU(IN, 500, key=KEY)
    radius = np.exp(-np.exp(cell.nu))
    np.testing.assert_allclose(np.exp(cell.gamma_log), np.sqrt(1 - radius**2), rtol=1e-9)


def test_the_forget_gate_starts_open():
    np.testing.assert_array_equal(cells.LSTM(IN, UNITS, key=KEY).bias[1], 1)
    np.testing.assert_array_equal(cells.LSTM(IN, UNITS, forget_bias=2.0, key=KEY).bias[1], 2)


# Functions: patterns found, checked, or taken to be dense.


def shift(params, state, x):
    return jnp.tanh(params * jnp.roll(state, 1) + x[0])


def make(step, **options):
    return cells.Function(step, jnp.ones(5), jnp.zeros(5), in_size=1, **options)


def test_the_pattern_of_a_function_is_found():
    structure = make(shift).core().structure
    np.testing.assert_array_equal(
        structure.reads_matrix(), np.eye(5, dtype=bool) | np.roll(np.eye(5, dtype=bool), 1, axis=0)
    )
    assert structure.kept(1) == 5 and structure.horizon() == 5


def test_a_function_is_dense_when_asked_for():
    assert make(shift, pattern="dense").core().structure.density(1) == 1


def test_a_function_shows_its_state_unless_told_otherwise():
    state = jnp.arange(5.0)
    np.testing.assert_array_equal(make(shift).output(state, jnp.ones(1)), state)
    double = make(shift, output=lambda params, state, x: 2 * state[:2] * params[:2])
    np.testing.assert_array_equal(double.output(state, jnp.ones(1)), 2 * state[:2])
