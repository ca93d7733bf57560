"""Signs that a run is about to go wrong, while it still can be saved."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base.persistent import Persistent
from ._carries import is_carry
from ._kalman import KalmanState
from ._memory import Memory

# Far beyond what a healthy run shows, and far below where float32 overflows.
LARGE_STATE, LARGE_TRACE, LARGE_WEIGHT, LARGE_MOMENT = 1e6, 1e12, 1e4, 1e6


def warnings(memory: Memory, trained: Any) -> list[str]:
    """What is growing out of bounds, with the likely cause and what to change; empty when all is well."""
    found = []
    if skipped := int(jnp.sum(memory.skipped)):
        found.append(
            f"{skipped} updates were skipped since the loss or a gradient was not finite: look for extreme inputs or "
            "targets, clip gradients (optax.clip_by_global_norm) or lower the learning rate."
        )
    if restarts := int(np.sum(memory.restarts)):
        found.append(
            f"a carry was begun anew {restarts} times since its state or its loss was not finite, or so large that its "
            "square is not: look for extreme inputs or targets, or normalise the inputs (sg.nn.Normalise)."
        )
    is_whole = lambda node: is_carry(node) or isinstance(node, Persistent)
    carries = jax.tree_util.tree_leaves_with_path(memory.carry, is_leaf=is_whole)
    for path, carry in carries:
        where = f"carry{jax.tree_util.keystr(path)}"
        if isinstance(carry, Persistent):
            continue
        if not is_carry(carry):
            if (size := largest(carry)) > LARGE_STATE:
                found.append(
                    f"{where} holds {size:.1e}: a layer without an influence (a running mean, lags, features) "
                    "remembers an extreme input. Normalise before it (sg.nn.Normalise), or reset it."
                )
            continue
        if (size := largest(carry.state)) > LARGE_STATE:
            found.append(
                f"the state of {where} has grown to {size:.1e}: its recurrence expands. Normalise the inputs "
                "(sg.nn.Normalise) or use a cell with a bounded state (GRU, LSTM, LRU)."
            )
        if (size := largest(carry.trace)) > LARGE_TRACE:
            found.append(
                f"the influence of {where} has grown to {size:.1e}: its recurrence amplifies the past. Clip gradients "
                "(optax.clip_by_global_norm), lower the learning rate or use a stable cell (LRU, RTU)."
            )
    if (size := largest(_moments(memory.optimiser))) > LARGE_MOMENT:
        found.append(
            f"the optimiser remembers {size:.1e}, of an extreme gradient, and takes next to no steps until it has "
            "forgotten it: normalise the inputs (sg.nn.Normalise) and clip gradients before it "
            "(optax.clip_by_global_norm)."
        )
    if (size := largest(getattr(memory.update, "trace", ()))) > LARGE_TRACE:
        found.append(
            f"an eligibility trace has grown to {size:.1e}: normalise the inputs (sg.nn.Normalise), or lower γ or λ."
        )
    weights = eqx.filter(memory.model, trained)
    if (size := largest(weights)) > LARGE_WEIGHT:
        found.append(
            f"a weight has grown to {size:.1e}: lower the learning rate, clip gradients or add weight decay "
            "(optax.adamw)."
        )
    return found


def _moments(optimiser: Any) -> Any:
    """The state of an Optax optimiser: the bounds of a filter's variances are large by choice."""
    is_filter = lambda node: isinstance(node, KalmanState)
    return jax.tree.map(lambda node: None if is_filter(node) else node, optimiser, is_leaf=is_filter)


def largest(tree: Any) -> float:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if eqx.is_inexact_array(leaf) and leaf.size]
    sizes = [float(jnp.max(jnp.abs(leaf))) for leaf in leaves]
    return max((float("inf") if math.isnan(size) else size for size in sizes), default=0.0)
