"""A model over a whole chunk of steps, layer by layer."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Key, PyTree

from .._base.persistent import Persistent
from .._base.select import select
from ..recurrent import Recurrent

#: Where a sequence begins anew, and the keys of fresh carries; None: nowhere.
Resets = tuple[Bool[Array, " time"], Key[Array, " time"]] | None


def is_stateful(layer: Any) -> bool:
    """Whether a layer has a carry of its own; any other callable is `y = layer(x)`."""
    return callable(getattr(layer, "init", None))


def unroll(layer: Any, carry: PyTree, xs: Array, resets: Any = None) -> tuple[PyTree, Array]:
    r"""Many steps of a model at once, with weights frozen: the carry after them and all outputs, (time, ...).

    The same outputs as step after step. The gradient of a loss of them is the sum of the *online* gradients of
    every step from the chunk's start on (each layer's algorithm decides how its credit goes back in time; between
    layers it goes through the present step alone), computed without traces, in one pass backwards: the fast way
    when weights need not change at every step. Memory grows with the chunk.

    - `carry`: as from `model.init(key=...)`; credit starts anew with each chunk, whatever its traces held;
    - `resets`: None, or a pair: where a sequence begins anew, bool (time,), and a key for each step, (time,), as
      `jax.random.split(key, time)` gives them: the carry then is that of `model.init(key=keys[t])`.

    Layers run as a whole when they have a method `unroll(carry, xs, resets)` (`sg.Recurrent` and what `sg.nn` holds),
    other callables are mapped over time, and other stateful layers are scanned; these get credit for the present step
    alone, as in a learner that takes single steps.

    Raises `ValueError` for resets of another length; `TypeError` for a module of your own that holds recurrent layers
    without such a method, and for an algorithm whose gradient is not one pass backwards in time.

    Reference: the frozen-weights view of Zucchet et al., 2023 (2305.15947).
    """
    if resets is not None:
        _check_resets(resets, xs)
    if hasattr(layer, "unroll"):
        return layer.unroll(carry, xs, resets)
    if not is_stateful(layer):
        return carry, jax.vmap(layer)(xs)
    if _recurrent(layer):
        raise TypeError(
            f"{type(layer).__name__} holds recurrent layers and cannot run a chunk at once: compose it of "
            "sg.nn.Sequential, Parallel and Residual, give it a method unroll(carry, xs, resets), or run it one step "
            "at a time."
        )

    def body(carry, now):
        x, reset = now
        if reset is not None:
            carry = restarted(carry, layer.init(key=reset[1]), reset[0])
        carry, y = layer(jax.lax.stop_gradient(carry), x)
        return carry, y

    return jax.lax.scan(body, carry, (xs, resets))


def split_resets(resets: Resets, count: int) -> list[Resets]:
    """The same places for each of `count` parts, with the keys that a part gets when a key is split for its init."""
    if resets is None:
        return [None] * count
    where, keys = resets
    parts = jax.vmap(lambda key: jax.random.split(key, count))(keys)
    return [(where, parts[:, k]) for k in range(count)]


def _check_resets(resets: Any, xs: Array) -> None:
    if not (isinstance(resets, tuple) and len(resets) == 2 and jnp.shape(resets[0]) == jnp.shape(resets[1])):
        raise ValueError(
            "unroll expects resets as None or a pair (where, keys), a flag and a key for every step: "
            "(where, jax.random.split(key, time))."
        )
    if jnp.shape(resets[0]) != (len(xs),):
        raise ValueError(f"unroll expects resets of {len(xs)} steps, as many as inputs, got {jnp.shape(resets[0])}.")


def check_unroll(model: Any) -> None:
    """Raise `TypeError` if a recurrent layer of the model has an algorithm without a chunked gradient."""
    for layer in _recurrent(model):
        layer.algorithm.check_unroll(layer.cell.core())


def restarted(carry: PyTree, fresh: PyTree, reset: Bool[Array, "*streams"], by=select) -> PyTree:
    """`fresh` where `reset` says so, for each stream, running statistics kept; `by`: how each array is chosen."""
    is_persistent = lambda node: isinstance(node, Persistent)
    choose = lambda new, old: old if is_persistent(old) else by(reset)(new, old)
    return jax.tree.map(choose, fresh, carry, is_leaf=is_persistent)


def _recurrent(model: Any) -> list[Recurrent]:
    is_layer = lambda node: isinstance(node, Recurrent)
    return [node for node in jax.tree.leaves(model, is_leaf=is_layer) if is_layer(node)]
