"""Whether what a step has computed is finite, its squares included."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from .._base.persistent import Persistent
from ._carries import states


def finite(tree) -> Bool[Array, ""]:
    """Whether all is finite, and no sum over rows so large that its square would overflow in an optimiser.

    Summed by a matrix product: XLA's own sums take one number after another on a CPU."""
    ok = jnp.array(True)
    for leaf in jax.tree.leaves(tree):
        rows = leaf.reshape(-1, leaf.shape[-1]) if leaf.ndim > 1 else leaf.reshape(1, -1)
        largest = float(jnp.finfo(leaf.dtype).max) ** 0.5
        ok &= (jnp.abs(jnp.ones((1, len(rows)), leaf.dtype) @ rows) < largest).all()
    return ok


#: Steps from one look at all of a gradient to the next, where its first row tells of the others.
BETWEEN_LOOKS = 16


def closely(steps, x, before, after) -> Bool[Array, ""]:
    """Whether a step is to be looked at whole: once in `BETWEEN_LOOKS` steps, within which no trace grows from what
    passes a look to infinity (by 10¹⁹) while states stay moderate; and where the input or a state, before the step or
    after it, is so large that a product of four such numbers might overflow."""
    ok = steps % BETWEEN_LOOKS != 0
    for leaf in _begun_anew((x, states(before), states(after))):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            ok &= (jnp.abs(leaf) < float(jnp.finfo(leaf.dtype).max) ** 0.25).all()
    return ~ok


def finite_by_stream(tree, streams):
    """Whether what a restart would begin anew is finite, its squares included: a number like 1e30 is there for ever."""
    leaves = _begun_anew(tree)
    ok = jnp.ones(() if streams is None else (streams,), bool)
    for leaf in leaves:
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            largest = float(jnp.finfo(leaf.dtype).max) ** 0.5
            ok &= (jnp.abs(leaf) < largest).all(axis=tuple(range(ok.ndim, leaf.ndim)))
    return ok


def _begun_anew(tree) -> list[Array]:
    """The arrays without running statistics, which survive a restart."""
    is_kept = lambda node: isinstance(node, Persistent)
    return [leaf for leaf in jax.tree.leaves(tree, is_leaf=is_kept) if not is_kept(leaf)]
