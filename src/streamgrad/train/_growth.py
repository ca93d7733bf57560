"""A model that grows within the state of its learner."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray, PyTree


def grown(model: Any, carry: PyTree, streams: int | None, key: PRNGKeyArray) -> tuple[Any, PyTree]:
    """The model with one more stage, and its carry (of every stream; the weights are drawn once).

    Raises `TypeError` for a model that cannot grow."""
    if not callable(getattr(model, "grow", None)):
        raise TypeError(
            f"{type(model).__name__} cannot grow: put sg.nn.Constructive in sg.nn.Sequential, or give the model "
            "grow(carry, key=...) -> (model, carry)."
        )
    if streams is None:
        return model.grow(carry, key=key)
    larger = model.grow(jax.tree.map(lambda leaf: leaf[0], carry), key=key)[0]
    return larger, jax.vmap(lambda own: model.grow(own, key=key)[1])(carry)


def overlaid(fresh: PyTree, old: PyTree) -> PyTree:
    """The tree `fresh` with the values of `old` at the same paths, in the leading entries of larger leaves."""
    by_path = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(old)}

    def lay(path, new):
        kept = by_path.get(jax.tree_util.keystr(path))
        if kept is None or not eqx.is_array(new):
            return new
        return kept if kept.shape == new.shape else new.at[tuple(slice(n) for n in kept.shape)].set(kept)

    return jax.tree_util.tree_map_with_path(lay, fresh)
