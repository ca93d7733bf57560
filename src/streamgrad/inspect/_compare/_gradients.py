"""The gradient of every algorithm beside BPTT's, on the same weights, inputs and losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ...algorithms import BPTT, Algorithm
from ...nn import Sequential
from ...recurrent import Recurrent
from ...train._scored import scored
from ._comparison import Gradient


def through_time(make: Callable, loss: Callable) -> Callable:
    """`run(key, xs, targets)`, compiled: BPTT's gradient of the summed loss, by the parameters of the cell."""

    def run(key, xs, targets):
        model = make(key, BPTT())

        def total(model):
            def body(carry, now):
                carry, y = model(carry, now[0])
                return carry, masked(loss, y, now[1])

            return jnp.sum(jax.lax.scan(body, model.init(key=key), (xs, targets))[1])

        return flat(of_cell(eqx.filter_grad(total)(model)))

    return jax.jit(run)


def online(make: Callable, algorithm: Algorithm, loss: Callable) -> Callable:
    """The same, of the sum of the online gradients, one step at a time."""

    def run(key, xs, targets):
        model = make(key, algorithm)

        def body(both, now):
            carry, total = both

            def objective(model):
                new, y = model(carry, now[0])
                return masked(loss, y, now[1]), new

            gradient, carry = eqx.filter_grad(objective, has_aux=True)(model)
            return (carry, jax.tree.map(jnp.add, total, of_cell(gradient))), None

        start = model.init(key=jax.random.fold_in(key, 1)), jax.tree.map(jnp.zeros_like, of_cell(model))
        return flat(jax.lax.scan(body, start, (xs, targets))[0][1])

    return jax.jit(run)


def masked(loss: Callable, prediction: Any, target: Any) -> Any:
    """The loss, 0 where there is no target."""
    each, there = scored(loss, prediction, target)
    return jnp.where(there, each, 0)


def beside(got: list[Any], want: list[Any]) -> Gradient:
    """Cosines and ratios of norms of two gradients, for each seed."""
    cosines, ratios = [], []
    for g, w in zip(got, want, strict=True):
        g, w = np.asarray(g, np.float64), np.asarray(w, np.float64)
        sizes = np.linalg.norm(g), np.linalg.norm(w)
        cosines.append(float(g @ w / max(sizes[0] * sizes[1], np.finfo(float).tiny)))
        ratios.append(float(sizes[0] / max(sizes[1], np.finfo(float).tiny)))
    return Gradient(tuple(cosines), tuple(ratios))


def of_cell(model: Sequential) -> Any:
    """The parameters of the cell, or their gradient."""
    layer = model.layers[0]
    assert isinstance(layer, Recurrent)
    return eqx.filter(layer.cell, eqx.is_inexact_array)


def flat(tree: Any) -> Any:
    """All parameters as one vector, in float32 at least."""
    dtype = np.result_type(*jax.tree.leaves(tree), np.float32)
    return jnp.concatenate([leaf.ravel().astype(dtype) for leaf in jax.tree.leaves(tree)])
