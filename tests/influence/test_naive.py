"""Every layout of the influence on a bank against the dense definition beside it, step by step in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import streamgrad as sg
from streamgrad.influence import DenseRows, GatheredRows, PerUnit, naive, plan

KEY = jax.random.key(0)
SPARSE, COLUMNS, BLOCKS = sg.wiring.Sparse(fan_in=1, seed=3), sg.wiring.Columns(), sg.wiring.Blocks(3)
CASES = {
    "per unit": (lambda: sg.cells.LSTM(2, 5, wiring=SPARSE, key=KEY), 1, PerUnit),
    "per unit, columns": (lambda: sg.cells.LSTM(2, 5, wiring=COLUMNS, key=KEY), 1, PerUnit),
    "gathered": (lambda: sg.cells.GRU(2, 9, wiring=SPARSE, key=KEY), 2, GatheredRows),
    "gathered, two entries": (lambda: sg.cells.LSTM(2, 9, wiring=SPARSE, key=KEY), 3, GatheredRows),
    "dense": (lambda: sg.cells.GRU(2, 4, key=KEY), 2, DenseRows),
    "blocks": (lambda: sg.cells.LSTM(2, 6, wiring=BLOCKS, key=KEY), 2, DenseRows),
}


@pytest.mark.parametrize("name", CASES)
def test_a_layout_is_the_dense_influence_under_its_pattern(name):
    make, n, kind = CASES[name]
    core = make().core()
    theta, as_core = ravel_pytree(core)
    rng = np.random.default_rng(0)
    core = as_core(theta + jnp.asarray(0.3 * rng.normal(size=theta.shape)))
    layout = GatheredRows(n) if kind is GatheredRows else plan(core, n)
    assert type(layout) is kind
    fast, slow = jax.jit(layout.advance), jax.jit(naive.advance)
    state = other = jnp.zeros((core.entries, core.units))
    trace, mask = layout.init(core), naive.pattern(core, n)
    influence = jnp.zeros_like(mask)
    for x, delta in zip(rng.normal(size=(6, 2)), rng.normal(size=(6, *state.shape)), strict=True):
        state, trace = fast(core, trace, state, x)
        other, influence = slow(core, influence, other, x, mask)
        np.testing.assert_allclose(state, other, rtol=0, atol=1e-13)
        got, want = layout.pullback(core, trace, jnp.asarray(delta)), naive.pullback(core, influence, delta)
        for mine, written in zip(got.weights, want.weights, strict=True):
            np.testing.assert_allclose(mine, written, rtol=0, atol=1e-12)
    assert np.abs(influence).max() > 0.1
