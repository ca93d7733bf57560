"""Signs that a run is about to go wrong, while it still can be saved."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ._memory import is_carry
from .train import Memory

# Far beyond what a healthy run shows, and far below where float32 overflows.
LARGE_STATE, LARGE_TRACE, LARGE_WEIGHT = 1e6, 1e12, 1e4


def warnings(memory: Memory, trained: Any) -> list[str]:
    """What is growing out of bounds, with the likely cause and what to change; empty when all is well."""
    found = []
    if skipped := int(jnp.sum(memory.skipped)):
        found.append(
            f"{skipped} updates were skipped since the loss or a gradient was not finite: look for extreme inputs or "
            "targets, clip gradients (optax.clip_by_global_norm) or lower the learning rate."
        )
    carries = jax.tree_util.tree_leaves_with_path(memory.carry, is_leaf=is_carry)
    for path, carry in carries:
        if not is_carry(carry):
            continue
        where = f"carry{jax.tree_util.keystr(path)}"
        if (size := _largest(carry.state)) > LARGE_STATE:
            found.append(
                f"the state of {where} has grown to {size:.1e}: its recurrence expands. Normalise the inputs "
                "(sg.nn.Normalise) or use a cell with a bounded state (GRU, LSTM, LRU)."
            )
        if (size := _largest(carry.trace)) > LARGE_TRACE:
            found.append(
                f"the influence of {where} has grown to {size:.1e}: its recurrence amplifies the past. Clip gradients "
                "(optax.clip_by_global_norm), lower the learning rate or use a stable cell (LRU, RTU)."
            )
    weights = eqx.filter(memory.model, trained)
    if (size := _largest(weights)) > LARGE_WEIGHT:
        found.append(
            f"a weight has grown to {size:.1e}: lower the learning rate, clip gradients or add weight decay "
            "(optax.adamw)."
        )
    return found


def _largest(tree: Any) -> float:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if eqx.is_inexact_array(leaf) and leaf.size]
    sizes = [float(jnp.max(jnp.abs(leaf))) for leaf in leaves]
    return max((float("inf") if math.isnan(size) else size for size in sizes), default=0.0)
