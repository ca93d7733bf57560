"""The nets of the comparison in plain JAX: parameters in a layout of neither library, and BPTT, the oracle."""

from __future__ import annotations

import jax
import jax.numpy as jnp

# How many gates a cell has. Gates are in the order z, r, a (GRU) and i, f, g, o (LSTM).
GATES = {"rnn": 1, "rnn-elementwise": 1, "gru": 3, "gru-reset-before": 3, "lstm": 4}


def parameters(net, in_size, units, *, recurrence="dense", seed=0):
    """`x` (in, gates, units), `h` (units, gates, units) or, elementwise, (units,), `b`; readout `out`, `out_b`."""
    gates, keys = GATES[net], jax.random.split(jax.random.key(seed), 5)
    h = jax.random.normal(keys[1], (units, gates, units)) / units**0.5
    if net == "rnn-elementwise":
        h = jax.random.uniform(keys[1], (units,), minval=0.5, maxval=0.95)
    elif recurrence == "diagonal":
        h = jnp.eye(units)[:, None] * jax.random.uniform(keys[1], (gates, units), minval=0.5, maxval=0.95)
    elif recurrence == "zero":
        h = jnp.zeros_like(h)
    return {
        "x": jax.random.normal(keys[0], (in_size, gates, units)) / in_size**0.5,
        "h": h,
        "b": 0.1 * jax.random.normal(keys[2], (gates, units)),
        "out": jax.random.normal(keys[3], (units, 1)) / units**0.5,
        "out_b": jnp.zeros(1),
    }


def stream(in_size, steps, batch=None, seed=1):
    """Inputs and targets of one stream, or of a batch of streams: time first."""
    lead = (steps,) if batch is None else (steps, batch)
    key_x, key_y = jax.random.split(jax.random.key(seed))
    return jax.random.normal(key_x, (*lead, in_size)), jax.random.normal(key_y, (*lead, 1))


def loss(prediction, target):
    """Half the squared error, averaged over a batch."""
    return 0.5 * jnp.mean(jnp.sum((prediction - target) ** 2, axis=-1))


def step(net, p, state, x):
    """One step of a cell; state is (h,), or (c, h) for an LSTM."""
    h = state[-1]
    by_x = jnp.einsum("i,igu->gu", x, p["x"]) + p["b"]
    if net == "rnn-elementwise":
        return (jnp.tanh(by_x[0] + p["h"] * h),)
    by_h = jnp.einsum("i,igu->gu", h, p["h"])
    if net == "rnn":
        return (jnp.tanh(by_x[0] + by_h[0]),)
    if net == "lstm":
        i, f, g, o = by_x + by_h
        c = jax.nn.sigmoid(f) * state[0] + jax.nn.sigmoid(i) * jnp.tanh(g)
        return c, jax.nn.sigmoid(o) * jnp.tanh(c)
    z, r = jax.nn.sigmoid(by_x[:2] + by_h[:2])
    candidate = r * by_h[2] if net == "gru" else (r * h) @ p["h"][:, 2]
    return ((1 - z) * h + z * jnp.tanh(by_x[2] + candidate),)


def bptt(net, p, xs, ys):
    """The summed loss of an unbatched stream and its gradient, by `jax.grad` through time."""

    def total(p):
        def body(state, now):
            x, y = now
            state = step(net, p, state, x)
            return state, loss(state[-1] @ p["out"] + p["out_b"], y)

        start = (jnp.zeros(p["b"].shape[-1]),) * (2 if net == "lstm" else 1)
        return jnp.sum(jax.lax.scan(body, start, (xs, ys))[1])

    return jax.value_and_grad(total)(p)
