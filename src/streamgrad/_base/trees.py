"""Inputs and targets: arrays, or trees of them."""

from __future__ import annotations

from typing import Any

import jax
import jax.core
import numpy as np
from jaxtyping import PyTree


def as_arrays(value: Any) -> PyTree:
    """Numbers, and lists and tuples of numbers, as one array; dicts and tuples that hold arrays, as trees of arrays.
    What has a shape and a type stays as it is."""
    if hasattr(value, "dtype"):
        return value
    if isinstance(value, dict):
        return {name: as_arrays(each) for name, each in value.items()}
    if isinstance(value, tuple) and any(_holds_arrays(each) for each in value):
        parts = [as_arrays(each) for each in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, list | tuple | int | float | complex | bool):
        return np.asarray(value)
    leaves, treedef = jax.tree.flatten(value)
    if len(leaves) == 1 and leaves[0] is value:
        return np.asarray(value)
    return jax.tree.unflatten(treedef, [as_arrays(leaf) for leaf in leaves])


def _holds_arrays(value: Any) -> bool:
    """Whether it is an array with axes, or a tree of arrays."""
    if hasattr(value, "dtype"):
        return np.ndim(value) > 0
    return not isinstance(value, list | int | float | complex | bool) and (
        not isinstance(value, tuple) or any(map(_holds_arrays, value))
    )


def signature(tree: Any) -> Any:
    """Shapes and types, hashable."""
    if hasattr(tree, "dtype"):
        return tree.shape, tree.dtype
    leaves, treedef = jax.tree.flatten(tree)
    return treedef, tuple((leaf.shape, leaf.dtype) for leaf in leaves)


def shapes(tree: PyTree, drop: int = 0) -> PyTree:
    """The tree as shapes and the types that JAX gives them, without the first `drop` axes."""

    def one(leaf):
        return jax.ShapeDtypeStruct(leaf.shape[drop:], jax.dtypes.canonicalize_dtype(leaf.dtype))

    return jax.tree.map(one, tree)


def lengths(tree: PyTree) -> set[int | None]:
    """How long the leading axes of the leaves are; None for a leaf without axes."""
    return {leaf.shape[0] if leaf.shape else None for leaf in jax.tree.leaves(tree)}


def described(tree: PyTree) -> str:
    """Shapes and types in words."""
    if hasattr(tree, "dtype"):
        return f"{tree.shape} {tree.dtype}"
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return ", ".join(f"{jax.tree_util.keystr(path)}: {leaf.shape} {leaf.dtype}" for path, leaf in leaves) or "nothing"


def is_traced(tree: PyTree) -> bool:
    """Whether a transformation of JAX is looking at the leaves."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))
