"""SnAp-n with the present step in full: nearer to the exact gradient, at the price that is told."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import streamgrad as sg

KEY = jax.random.key(0)
FULL = sg.SnAp(1, present="full")


@pytest.mark.parametrize("kind", ["GRU", "Vanilla"])
def test_it_is_nearer_to_the_exact_gradient(kind):
    """Cosine of the gradients of each step with those of backprop through time, at random weights."""
    cell = oracles.randomised(getattr(sg.cells, kind)(3, 8, key=KEY), 0)
    problem = oracles.problem(cell, 12, 0)
    exact = oracles.bptt(cell, *problem)
    flat = lambda tree: np.concatenate([np.asarray(leaf).reshape(12, -1) for leaf in jax.tree.leaves(tree)], 1)
    want = flat(oracles.named(exact))

    def cosine(algorithm):
        got = flat(oracles.online(sg.Recurrent(cell, algorithm), *problem))
        return ((got * want).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(want, axis=1))[2:].mean()

    kept, full = cosine(sg.SnAp(1)), cosine(FULL)
    assert kept < full < 1 - 1e-6


def test_where_nothing_is_dropped_it_is_the_same_program():
    cell = sg.cells.LRU(3, 4, key=KEY)

    def program(algorithm):
        layer = sg.Recurrent(cell, algorithm)
        carry = layer.init(key=KEY)
        step = lambda layer: jnp.sum(layer(carry, jnp.ones(3))[1] ** 2)
        return str(jax.make_jaxpr(lambda layer: eqx.filter_grad(step)(layer))(layer))

    assert program(FULL) == program(sg.SnAp(1))


def test_explain_says_that_it_is_biased_and_what_it_costs():
    cell = sg.cells.GRU(3, 8, key=KEY)
    plain, full = (sg.explain(sg.Recurrent(cell, algorithm)) for algorithm in (sg.SnAp(1), FULL))
    assert "SnAp(n=1, present='full')" in str(full) and "present" not in str(plain)
    (plain,), (full,) = plain.layers, full.layers
    assert full.gradient == "biased" and "the present step is full" in full.reason
    # δ D, 8 x 8 non-zeros, and δ I, for each multiply-add two operations.
    assert full.traits.flops - plain.traits.flops == 2 * 64 + 2 * cell.core().structure.parameters
    assert full.traits.temporaries - plain.traits.temporaries == plain.traits.bytes == full.traits.bytes


def test_names_and_refusals():
    assert sg.algorithms.algorithm("snap-1-full") == FULL
    assert sg.algorithms.algorithm("SnAp-2-FULL") == sg.SnAp(2, present="full")
    for name in ("snap-full", "ok-2-full", "snap-x-full", "snap-1-half"):
        with pytest.raises(ValueError, match="SnAp-N-full"):
            sg.algorithms.algorithm(name)
    with pytest.raises(ValueError, match=r"present=\.\.\.\) is one of \('kept', 'full'\), got 'all'"):
        sg.SnAp(1, present="all")
    with pytest.raises(TypeError, match="no chunked gradient"):
        sg.Recurrent(sg.cells.GRU(3, 4, key=KEY), FULL).algorithm.check_unroll(sg.cells.GRU(3, 4, key=KEY).core())
