"""OTPE below a layer of spiking units is backpropagation through time."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from definitions import spike

import streamgrad as sg

IN, STEPS, LEAK, DECAY = 3, 12, 0.8, 0.9


def feed_forward(in_size, units, decay, seed):
    """A layer whose units hear no unit: a link of each to itself, of weight 0."""
    cell = sg.cells.LIF(
        in_size, units, decay=decay, detach_reset=True, wiring=sg.wiring.Columns(), key=jax.random.key(seed)
    )
    return eqx.tree_at(lambda cell: (cell.weight_h, cell.weight_x), cell, (0 * cell.weight_h, 1.5 * cell.weight_x))


def through_time(weights, biases, xs):
    """The loss of every step of two textbook layers."""
    states, losses = [(jnp.zeros(bias.shape),) * 2 for bias in biases], []
    for x in xs:
        for layer, decay in enumerate((DECAY, LEAK)):
            v, z = states[layer]
            v = decay * v + x @ weights[layer] + biases[layer] - jax.lax.stop_gradient(z)
            states[layer] = v, spike(v - 1)
            x = states[layer][1]
        losses.append(jnp.sum(jnp.sin(2 * x + jnp.arange(x.size, dtype=float))))
    return jnp.stack(losses)


def test_otpe_is_backpropagation_through_the_membranes_above():
    lower, upper = feed_forward(IN, 5, DECAY, 0), feed_forward(5, 4, LEAK, 1)
    xs = jnp.asarray(np.random.default_rng(0).normal(1.0, 1.0, (STEPS, IN)))
    by_weight, by_bias = jax.jacrev(through_time, argnums=(0, 1))(
        [lower.weight_x[:, 0], upper.weight_x[:, 0]], [lower.bias[0], upper.bias[0]], xs
    )
    otpe = sg.Recurrent(lower, sg.OTPE(leak=LEAK))
    model = sg.nn.Sequential([otpe, sg.Recurrent(upper, sg.EProp())])

    @eqx.filter_jit
    @eqx.filter_grad(has_aux=True)
    def step(model, carry, x):
        carry, z = model(carry, x)
        return jnp.sum(jnp.sin(2 * z + jnp.arange(z.size, dtype=float))), carry

    carry, seen = model.init(key=jax.random.key(0)), 0.0
    for t, x in enumerate(xs):
        gradient, carry = step(model, carry, x)
        for k in range(2):
            cell = gradient.layers[k].cell
            np.testing.assert_allclose(cell.weight_x[:, 0], by_weight[k][t], atol=1e-10)
            np.testing.assert_allclose(cell.bias[0], by_bias[k][t], atol=1e-10)
        seen += np.abs(gradient.layers[0].cell.weight_x).sum()
    assert seen > 1


def test_without_a_leak_it_is_the_trace_of_e_prop():
    cell = feed_forward(IN, 5, DECAY, 0)
    problem = oracles.problem(cell, 6, 0)
    gradients = [oracles.online(sg.Recurrent(cell, rule), *problem) for rule in (sg.OTPE(leak=0.0), sg.EProp())]
    oracles.assert_same(*gradients)


@pytest.mark.parametrize("leak", [1.0, -0.1])
def test_a_leak_that_never_forgets_is_refused(leak):
    with pytest.raises(ValueError, match=r"0 <= λ < 1"):
        sg.OTPE(leak=leak)
