"""Arrays of the caller, and states whose arrays are gone."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.core
import jax.numpy as jnp

T = TypeVar("T")


def owned(tree: T) -> T:
    """The tree with copies of its arrays, valid after a state with the same arrays is consumed."""
    copied = lambda leaf: jnp.array(leaf, copy=True) if _is_concrete(leaf) else leaf
    return jax.tree.map(copied, tree)


def consumed(call: str) -> str:
    """What is said of a state that was used already; `call`: how a step is written."""
    return (
        "This state was consumed: an earlier step, run or grow reused its memory, and its arrays are deleted. Go on "
        f"with the state that the call returned, {call}; to keep one, copy its arrays before: "
        "jax.tree.map(jnp.copy, st)."
    )


def refuse_consumed(state: Any, call: str) -> None:
    """Raise `RuntimeError` where a state was given to a step before: say what to do instead."""
    if any(leaf.is_deleted() for leaf in jax.tree.leaves(state) if _is_concrete(leaf)):
        raise RuntimeError(consumed(call)) from None


def _is_concrete(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer)
