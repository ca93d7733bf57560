"""Whether what a step has computed is finite, its squares included."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from .._base.persistent import Persistent


def finite(tree) -> Bool[Array, ""]:
    """Whether all is finite, and no sum over rows so large that its square would overflow in an optimiser.

    Summed by a matrix product: XLA's own sums take one number after another on a CPU."""
    ok = jnp.array(True)
    for leaf in jax.tree.leaves(tree):
        rows = leaf.reshape(-1, leaf.shape[-1]) if leaf.ndim > 1 else leaf.reshape(1, -1)
        largest = float(jnp.finfo(leaf.dtype).max) ** 0.5
        ok &= (jnp.abs(jnp.ones((1, len(rows)), leaf.dtype) @ rows) < largest).all()
    return ok


def finite_by_stream(tree, streams):
    """Whether what a restart would begin anew is finite, its squares included: a number like 1e30 is there for ever."""
    is_kept = lambda node: isinstance(node, Persistent)
    leaves = [leaf for leaf in jax.tree.leaves(tree, is_leaf=is_kept) if not is_kept(leaf)]
    ok = jnp.ones(() if streams is None else (streams,), bool)
    for leaf in leaves:
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            largest = float(jnp.finfo(leaf.dtype).max) ** 0.5
            ok &= (jnp.abs(leaf) < largest).all(axis=tuple(range(ok.ndim, leaf.ndim)))
    return ok
