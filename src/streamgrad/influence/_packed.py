"""What the layouts of SnAp-n, n >= 2, share: all parameters that enter a unit, side by side."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Inexact

from ..cells import Bank, Linear
from ._per_unit import gates


def per_unit(core: Bank) -> int:
    """The number of parameters that enter each unit."""
    return sum(weights.shape[0] * weights.shape[1] for weights in core.weights)


def immediate(core: Bank, step: Linear, dtype) -> Inexact[Array, "entries units parameters"]:
    """I: the effect of each unit's parameters on its own entries; elsewhere it is zero."""
    columns = []
    for link, weights, q in zip(core.links, core.weights, step.inputs, strict=True):
        zero = jnp.zeros((weights.shape[1], core.units), core.dtype)
        rows = [gates(by_drive, link) for by_drive in step.drive]
        k = jnp.stack([zero if row is None else row for row in rows]).astype(dtype)
        columns.append(jnp.moveaxis(k[:, None] * q.astype(dtype)[None], 3, 1).reshape(core.entries, core.units, -1))
    return jnp.concatenate(columns, axis=2)


def unpack(core: Bank, packed: Inexact[Array, "units parameters"]) -> Bank:
    """A gradient per unit and parameter, as weights."""
    sizes = [weights.shape[0] * weights.shape[1] for weights in core.weights]
    parts = jnp.split(packed, np.cumsum(sizes)[:-1].tolist(), axis=1)
    grads = tuple(p.T.reshape(w.shape).astype(w.dtype) for p, w in zip(parts, core.weights, strict=True))
    return eqx.tree_at(lambda bank: bank.weights, core, grads)
