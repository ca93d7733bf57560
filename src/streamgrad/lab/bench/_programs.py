"""The programs that the benchmark times. All of them scan on the device, donate what they carry and are
compiled with the same options; every learner uses the same loss and plain SGD."""

from __future__ import annotations

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp

from ... import compiler_options
from ...cells import GRU, Cell
from ...recurrent import Recurrent
from ._timing import Program

RATE = 1e-3


def compiled(function, donate=(), **options):
    """`jax.jit` with the options that all programs share."""
    return jax.jit(function, donate_argnums=donate, compiler_options=compiler_options(**options))


def _inputs(size: int, steps: int):
    return jax.random.normal(jax.random.key(1), (steps, size))


def _loss(y):
    return 0.5 * jnp.sum(y) ** 2 / y.shape[0]


def _descend(parameters, gradient):
    return jax.tree.map(lambda p, g: p - RATE * g, parameters, gradient)


def _fresh(tree):
    return jax.tree.map(jnp.copy, tree)


def forward(cell: Cell, steps: int) -> Program:
    """The recurrence alone."""
    xs = _inputs(cell.in_size, steps)
    run = compiled(lambda cell, state: jax.lax.scan(lambda s, x: (cell(s, x), None), state, xs)[0])
    return Program(run, lambda: (cell, cell.init_state()), steps)


def online(layer: Recurrent, steps: int) -> Program:
    """The online gradient and an SGD update at every step."""
    xs = _inputs(layer.cell.in_size, steps)
    parameters, static = eqx.partition(layer, eqx.is_inexact_array)

    def step(both, x):
        parameters, carry = both

        def loss(parameters):
            new, y = eqx.combine(parameters, static)(carry, x)
            return _loss(y), new

        gradient, carry = jax.grad(loss, has_aux=True)(parameters)
        return (_descend(parameters, gradient), carry), None

    run = compiled(lambda parameters, carry: jax.lax.scan(step, (parameters, carry), xs)[0], donate=(0, 1))
    return Program(run, lambda: (_fresh(parameters), layer.init(key=jax.random.key(0))), steps)


def streams(layer: Recurrent, count: int, steps: int) -> Program:
    """The program of `online` for a batch of streams with shared weights. Time for a step of all of them."""
    xs = jax.random.normal(jax.random.key(1), (steps, count, layer.cell.in_size))
    parameters, static = eqx.partition(layer, eqx.is_inexact_array)

    def step(both, x):
        parameters, carry = both

        def loss(parameters):
            one = eqx.combine(parameters, static)
            new, y = jax.vmap(lambda carry, x: one(carry, x))(carry, x)
            return jnp.mean(jax.vmap(_loss)(y)), new

        gradient, carry = jax.grad(loss, has_aux=True)(parameters)
        return (_descend(parameters, gradient), carry), None

    run = compiled(lambda p, carry: jax.lax.scan(step, (p, carry), xs)[0], donate=(0, 1), batched=True)
    keys = lambda: jax.random.split(jax.random.key(0), count)  # a carry may hold its key, and is donated
    return Program(run, lambda: (_fresh(parameters), jax.vmap(lambda k: layer.init(key=k))(keys())), steps)


def influence(layer: Recurrent, steps: int) -> Program:
    """The recurrence and its influence J: no loss, no gradient."""
    xs = _inputs(layer.cell.in_size, steps)
    core = layer.cell.core()
    layout = layer.algorithm.layout  # type: ignore[attr-defined]
    run = compiled(
        lambda core, trace, state: jax.lax.scan(
            lambda carry, x: (layout.advance(core, *carry, x)[::-1], None), (trace, state), xs
        )[0],
        donate=1,
    )
    return Program(run, lambda: (core, layout.init(core), layer.cell.init_state()), steps)


def bptt(cell: Cell, steps: int, window: int = 128, hoisted: bool = False) -> Program:
    """BPTT over windows, SGD after each: time a step. `hoisted` (a GRU only) takes the product with the
    inputs of the whole window out of the loop."""
    xs = _inputs(cell.in_size, steps).reshape(-1, window, cell.in_size)
    parameters, static = eqx.partition(cell, eqx.is_inexact_array)
    through = _hoisted if hoisted else _plain

    def one_window(both, xs):
        parameters, state = both

        def loss(parameters):
            state_, losses = through(eqx.combine(parameters, static), state, xs)
            return jnp.sum(losses), state_

        gradient, state = jax.grad(loss, has_aux=True)(parameters)
        return (_descend(parameters, gradient), state), None

    run = compiled(lambda parameters, state: jax.lax.scan(one_window, (parameters, state), xs)[0], donate=(0, 1))
    return Program(run, lambda: (_fresh(parameters), cell.init_state()), xs.shape[0] * window)


def _plain(cell, state, xs):
    def step(state, x):
        state = cell(state, x)
        return state, _loss(cell.output(state, x))

    return jax.lax.scan(step, state, xs)


def _hoisted(cell: GRU, state, xs):
    n = cell.units
    assert cell.weight_h is not None
    weight_h = cell.weight_h.reshape(n, -1)
    by_x = (xs @ cell.weight_x.reshape(cell.in_size, -1)).reshape(-1, 3, n) + cell.bias

    def step(h, by_x):
        by_h = (h @ weight_h).reshape(3, n)
        z, r = jax.nn.sigmoid(by_x[:2] + by_h[:2])
        h = (1 - z) * h + z * jnp.tanh(by_x[2] + r * by_h[2])
        return h, _loss(h)

    h, losses = jax.lax.scan(step, state[0], by_x)
    return h[None], losses


def in_place(count: int, steps: int) -> Program:
    """One read and one write of `count` numbers in place: the bandwidth that a loop reaches here."""
    run = compiled(lambda a: jax.lax.scan(lambda a, _: (a * 0.999 + 1.0, None), a, None, length=steps)[0], donate=0)
    return Program(run, lambda: (jnp.zeros(count),), steps)


def trace_and_update(fan_in: int, gates: int, units: int, steps: int) -> Program:
    """SnAp-1's core with its coefficients given: J <- d J + k q, W <- W - rate δ J."""
    q = _inputs(fan_in, steps)

    def step(carry, q):
        j, w, d, k, delta = carry
        j = d * j + k * q[:, None, None]
        return (j, w - RATE * delta * j, d * 0.999, k, delta), None

    zeros, ones = partial(jnp.zeros, (fan_in, gates, units)), jnp.ones
    run = compiled(lambda j, w, *small: jax.lax.scan(step, (j, w, *small), q)[0], donate=(0, 1))
    return Program(run, lambda: (zeros(), zeros(), ones(units), ones((gates, units)), ones(units)), steps)


def product(rows: int, parameters: int, steps: int) -> Program:
    """The bare product D J of RTRL, in the same scan."""
    run = compiled(lambda d, j: jax.lax.scan(lambda j, _: (d @ j, None), j, None, length=steps)[0], donate=1)
    return Program(run, lambda: (jnp.eye(rows), jnp.ones((rows, parameters))), steps)
