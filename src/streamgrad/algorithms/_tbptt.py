"""Online truncated backpropagation through time."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.dtypes import real_dtype
from ._algorithm import Online, Traits
from ._unroll import by_state


class TBPTT(Online):
    r"""Truncated BPTT at every step: dL_t/ds_t goes back through the last `window` steps.

    $$g_t = \sum_{k=0}^{w-1} \delta_{t-k} \frac{\partial f}{\partial\theta}(\theta, s_{t-k-1}, x_{t-k}), \qquad
      \delta_{t-k-1} = \delta_{t-k} D_{t-k}$$

    A ring of the last w (state, input) pairs, linearised at the current weights. Equal to BPTT while
    t <= w; biased after. `TBPTT(1)` is the one-step gradient. Each step costs w backward steps.

    Reference: Williams & Peng, An efficient gradient-based algorithm for on-line training of recurrent
    network trajectories, 1990.
    """

    window: int = eqx.field(static=True)
    in_size: int | None = eqx.field(static=True, default=None, repr=False)

    def __check_init__(self):
        if isinstance(self.window, bool) or not isinstance(self.window, int) or self.window < 1:
            raise ValueError(f"TBPTT(window) needs an integer window >= 1, got {self.window!r}.")

    def bind(self, core, state, x):
        return dataclasses.replace(self, in_size=x.shape[0])

    def init(self, core, state, *, key):
        del key
        if self.in_size is None:
            raise ValueError("TBPTT was used before it knew its cell: give it to sg.Recurrent(cell, algorithm).")
        ring = lambda leaf: jnp.zeros((self.window, *leaf.shape), leaf.dtype)
        dtype = jnp.finfo(jax.tree.leaves(state)[0].dtype).dtype
        # `count` says how many pairs are real: padding must not earn gradient.
        return (
            jax.tree.map(ring, state),
            jnp.zeros((self.window, self.in_size), dtype),
            jnp.zeros((), jnp.int32),
        )

    def advance(self, core, trace, state, x, context):
        del context
        states, inputs, count = trace
        push = lambda ring, value: jnp.concatenate([ring[1:], value[None].astype(ring.dtype)])
        trace = jax.tree.map(push, states, state), push(inputs, x), jnp.minimum(count + 1, self.window)
        return core(state, x), trace, trace

    def pullback(self, core, residual, cotangent):
        states, inputs, count = residual
        parameters, fixed = eqx.partition(core, eqx.is_inexact_array)
        run = lambda parameters, state, x: eqx.combine(parameters, fixed)(state, x)

        def back(carry, past):
            delta, gradient, age = carry
            state, x = past
            by_core, before = jax.vjp(lambda p, s: run(p, s, x), parameters, state)[1](delta)
            alive = age < count
            gradient = jax.tree.map(lambda g, d: g + jnp.where(alive, d, 0), gradient, by_core)
            return (before, gradient, age + 1), None

        zero = jax.tree.map(jnp.zeros_like, parameters)
        start = (cotangent, zero, jnp.zeros((), jnp.int32))
        (_, gradient, _), _ = jax.lax.scan(back, start, (states, inputs), reverse=True)
        return None, eqx.combine(gradient, fixed)

    def backward_credit(self, core, before, xs, delta, starts):
        back = jax.vmap(by_state(core))

        def further(_, terms):
            total, term = terms  # of credit that comes from k steps later
            term = back((before, xs), term)
            if starts is not None:
                cut = lambda leaf, starts=starts: jnp.where(jnp.expand_dims(starts, range(1, leaf.ndim)), 0, leaf)
                term = jax.tree.map(cut, term)
            term = jax.tree.map(lambda leaf: jnp.concatenate([leaf[1:], jnp.zeros_like(leaf[:1])]), term)
            return jax.tree.map(jnp.add, total, term), term

        return jax.lax.fori_loop(1, self.window, further, (delta, delta))[0]

    def traits(self, core):
        structure = core.structure
        leaves = jax.tree.leaves(eqx.filter(core, eqx.is_inexact_array))
        size, dtype = sum(leaf.size for leaf in leaves), leaves[0].dtype
        return Traits(
            bias="biased",
            reason=f"what happened more than {self.window} step{'s'[: self.window != 1]} ago gets no credit",
            exact_at_one_step=True,
            zero_leaves=(),
            kept=0,
            full=structure.rows * structure.parameters,
            bytes=self.window * (structure.rows * dtype.itemsize + (self.in_size or 0) * real_dtype(dtype).itemsize),
            temporaries=4 * size,
            flops=4 * self.window * size,
            layout=f"a ring of {self.window} states and inputs",
            reference="Williams & Peng 1990",
        )
