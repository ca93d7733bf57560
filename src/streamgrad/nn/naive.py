"""A chunk of steps as it is written: one after another, each with its own online gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ._unroll import Resets, restarted


def unroll(
    model: Any, carry: PyTree, xs: Array, targets: Array, loss: Callable, resets: Resets = None
) -> tuple[PyTree, Array, Any]:
    """The carry after the chunk, all outputs, and the sum over its steps of the gradient of `loss(y, target)`.

    `sg.nn.unroll` gives the same to one differentiation of the whole loss, without traces."""

    @eqx.filter_jit
    def step(model, carry, x, target):
        def objective(model):
            new, y = model(carry, x)
            return loss(y, target), (new, y)

        return eqx.filter_grad(objective, has_aux=True)(model)

    total, ys = jax.tree.map(jnp.zeros_like, eqx.filter(model, eqx.is_inexact_array)), []
    for t, (x, target) in enumerate(zip(xs, targets, strict=True)):
        if resets is not None:
            carry = restarted(carry, model.init(key=resets[1][t]), resets[0][t])
        gradient, (carry, y) = step(model, carry, x, target)
        total, ys = jax.tree.map(jnp.add, total, gradient), [*ys, y]
    return carry, jnp.stack(ys), total
