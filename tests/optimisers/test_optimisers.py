"""Optimisers of our own, against their written updates."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import streamgrad as sg


def test_the_fractional_update_is_the_written_one():
    w, g = jnp.array([0.5, -2.0, 0.0]), jnp.array([1.0, -3.0, 2.0])
    rule = sg.optimisers.fractional(0.1, 0.02, order=0.7)
    updates, _ = rule.update({"w": g, "none": None}, rule.init({"w": w, "none": None}), {"w": w, "none": None})
    want = w - 0.1 * g - 0.02 * g * abs(w) ** 0.3 / math.gamma(1.3)
    np.testing.assert_allclose(w + updates["w"], want, rtol=1e-12)
    assert updates["none"] is None


def test_of_order_one_it_is_plain_descent():
    w, g = jnp.array([0.5, -2.0]), jnp.array([1.0, -3.0])
    rule = sg.optimisers.fractional(0.1, 0.02, order=1.0)
    np.testing.assert_allclose(
        rule.update(g, rule.init(w), w)[0], optax.sgd(0.12).update(g, optax.sgd(0.12).init(w))[0], rtol=1e-12
    )


def test_the_fractional_update_learns_within_a_chain():
    cell = sg.cells.GRU(1, 4, key=jax.random.key(0))
    model = sg.nn.Sequential([sg.Recurrent(cell, sg.SnAp(1)), sg.Readout(4, 1, key=jax.random.key(1))])
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), sg.optimisers.fractional(0.03, 0.03))
    learner = sg.Learner(model, optimiser, loss=sg.losses.mse)
    xs = jnp.sin(0.3 * jnp.arange(1501.0))[:, None]
    losses = learner.run(learner.init(key=jax.random.key(2)), xs[:-1], xs[1:])[1].loss
    assert losses[-100:].mean() < 0.2 * losses[:100].mean()


def test_it_says_what_it_needs():
    with pytest.raises(ValueError, match="0 < ν <= 1"):
        sg.optimisers.fractional(0.1, 0.1, order=1.5)
    with pytest.raises(ValueError, match="params"):
        sg.optimisers.fractional(0.1, 0.1).update(jnp.ones(2), optax.EmptyState())
