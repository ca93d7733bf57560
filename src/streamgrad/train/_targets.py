"""What of a target is missing: a NaN or an infinity among numbers, a negative one among labels."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree


def alike(prediction: PyTree, target: PyTree) -> bool:
    """Whether prediction and target are trees of one structure, leaf beside leaf."""
    return jax.tree.structure(prediction) == jax.tree.structure(target)


def typed(loss: Any, prediction: PyTree, target: PyTree) -> PyTree:
    """The target with a type that can say "missing": labels as signed integers, all else as inexact numbers.

    Labels are the integers of a loss that says so (`loss.labels`); for a loss of another's making those whose shape
    is not the prediction's. Any other integer is a number, a negative one too."""
    declared = getattr(loss, "labels", None)
    paired = alike(prediction, target)

    def one(target, prediction=None):
        if jnp.issubdtype(target.dtype, jnp.inexact):
            return target
        labels = declared if declared is not None else prediction is None or prediction.shape != target.shape
        if prediction is not None and not labels:
            return _cast(target, prediction.dtype)
        if jnp.issubdtype(target.dtype, jnp.signedinteger):
            return target
        return _cast(target, jnp.int32)

    return jax.tree.map(one, target, prediction) if paired else jax.tree.map(one, target)


def _cast(leaf, dtype):
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(leaf.shape, dtype)
    return leaf.astype(dtype)


def in_precision(prediction: PyTree, target: PyTree) -> PyTree:
    """The target with its inexact leaves in the precision of the predictions beside them."""
    if not alike(prediction, target):
        return target
    cast = lambda t, p: t.astype(p.dtype) if jnp.issubdtype(t.dtype, jnp.inexact) else t
    return jax.tree.map(cast, target, prediction)


def numbers(prediction: PyTree, target: PyTree) -> PyTree:
    """A typed target as numbers wherever its leaves have the shapes of predictions: a missing label becomes a NaN."""
    if not alike(prediction, target):
        return target

    def one(t, p):
        if not jnp.issubdtype(t.dtype, jnp.integer) or t.shape != p.shape:
            return t
        return jnp.where(t >= 0, t.astype(p.dtype), jnp.nan)

    return jax.tree.map(one, target, prediction)


def has_entry(leaf: Array) -> Bool[Array, " ..."]:
    """Whether each entry of a typed target was given."""
    return leaf >= 0 if jnp.issubdtype(leaf.dtype, jnp.integer) else jnp.isfinite(leaf)


def missing_value(dtype) -> Any:
    """What stands for a missing entry in a typed target."""
    return -1 if jnp.issubdtype(dtype, jnp.integer) else jnp.nan


def missing_where(flag: Bool[Array, "*lead"], target: PyTree) -> PyTree:
    """A typed target, missing in the streams where the flag is set."""

    def one(leaf):
        shape = flag.shape + (1,) * (leaf.ndim - flag.ndim)
        return jnp.where(flag.reshape(shape), jnp.asarray(missing_value(leaf.dtype), leaf.dtype), leaf)

    return jax.tree.map(one, target)


def check_target(prediction: PyTree, target: PyTree) -> None:
    """Raise `ValueError` for a typed target that does not go with the prediction, from shapes alone."""
    if not alike(prediction, target):
        return  # what such trees have to do with each other only the loss knows
    for (path, p), t in zip(jax.tree_util.tree_leaves_with_path(prediction), jax.tree.leaves(target), strict=True):
        where = jax.tree_util.keystr(path)
        if not jnp.issubdtype(t.dtype, jnp.integer) and p.shape != t.shape:
            raise ValueError(
                f"The model predicts shape {p.shape}, but the target{where} has shape {t.shape}: "
                "make them equal (a scalar target of a model with one output has shape (1,))."
            )
        if jnp.issubdtype(t.dtype, jnp.complexfloating) and not jnp.issubdtype(p.dtype, jnp.complexfloating):
            raise ValueError(f"The model predicts {p.dtype}, but the target{where} is complex: give its parts apart.")
