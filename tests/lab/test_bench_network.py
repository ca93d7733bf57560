"""The row of a whole network: what is timed is what it says."""

import jax
import jax.numpy as jnp
import numpy as np

import streamgrad as sg
from streamgrad.lab.bench import ROWS, _deep, measure


def test_each_part_does_what_it_says():
    programs = _deep.price(6, 4, 1, 10)
    said = {name: program.run(*program.make()) for name, program in programs.items()}
    model, carry, xs, targets = programs["state, traces, gradient"].make()

    def loss(model):
        return jnp.sum(jnp.mean((sg.nn.unroll(model, carry, xs)[1] - targets) ** 2, axis=1))

    value, online = jax.jit(jax.value_and_grad(loss))(model)
    for got, want in zip(*map(jax.tree.leaves, (said["state, traces, gradient"][2], online)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    moved = said["state, traces, gradient, update"][0]
    assert all((new != old).any() for new, old in zip(jax.tree.leaves(moved), jax.tree.leaves(model), strict=True))
    for name in ("state, gradient of a chunk", "state, gradient of a chunk by BPTT"):
        np.testing.assert_allclose(said[name][0], value, rtol=1e-5)
    for got, want in zip(*map(jax.tree.leaves, (said["state, gradient of a chunk"][1], online)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_the_row_is_there():
    row = ROWS["network"]
    assert (
        row.to_reach is None
        and measure.__doc__
        and row.ratio({"state": 2.0, "state, traces, gradient, update": 6.0}) == 3
    )
