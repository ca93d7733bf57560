"""A tree of small arrays as one vector of 32-bit words, and back: on the device and in NumPy."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

WORD = np.dtype(np.uint32)


class Unfit(TypeError):
    """Numbers that no vector of words holds."""


class Words:
    """How the leaves of a tree lie in a vector of words. Numbers of 4 and 8 bytes lie as they are, booleans as 0 or 1.

    `tree`: shapes and types. Raises `Unfit` for leaves of another type.
    """

    def __init__(self, tree: PyTree):
        leaves, self.treedef = jax.tree.flatten(tree)
        self.shapes = [(tuple(leaf.shape), np.dtype(leaf.dtype)) for leaf in leaves]
        for _, dtype in self.shapes:
            if dtype.kind not in "fiub" or (dtype.kind != "b" and dtype.itemsize not in (4, 8)):
                raise Unfit(f"a row has numbers of 4 or 8 bytes, or booleans, got {dtype}")
        sizes = [int(np.prod(shape)) * max(1, dtype.itemsize // 4) for shape, dtype in self.shapes]
        ends = np.cumsum([0, *sizes]).tolist()
        self.places, self.size = list(itertools.pairwise(ends)), ends[-1]
        # Of booleans, which are words of 0 or 1, the lowest byte: a truth, as NumPy has it.
        truth = lambda shape: tuple(4 * int(np.prod(shape[k + 1 :])) for k in range(len(shape)))
        low = 0 if sys.byteorder == "little" else 3
        self._views = [
            (shape, dtype, 4 * start + low, truth(shape)) if dtype.kind == "b" else (shape, dtype, 4 * start, None)
            for (shape, dtype), (start, _) in zip(self.shapes, self.places, strict=True)
        ]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Words) and (self.treedef, self.shapes) == (other.treedef, other.shapes)

    def __hash__(self) -> int:
        return hash((self.treedef, *self.shapes))

    def of(self, tree: PyTree) -> Array:
        """The vector of a tree on the device."""
        leaves = [_words(jnp.asarray(leaf)) for leaf in self.treedef.flatten_up_to(tree)]
        return jnp.concatenate([jnp.zeros(0, WORD), *leaves])

    def tree(self, words: Array) -> PyTree:
        """The tree of a vector on the device."""
        leaves = [
            _restored(words[start:end], shape, dtype)
            for (start, end), (shape, dtype) in zip(self.places, self.shapes, strict=True)
        ]
        return jax.tree.unflatten(self.treedef, leaves)

    def views(self, words: np.ndarray) -> list[np.ndarray]:
        """The leaves within a vector of NumPy, which share its memory; of a boolean the lowest byte."""
        return [np.ndarray(shape, dtype, words, offset, strides) for shape, dtype, offset, strides in self._views]

    def read(self, views: list[np.ndarray]) -> PyTree:
        """The tree of such views, copied."""
        return self.treedef.unflatten([view.copy() for view in views])


@functools.partial(jax.tree_util.register_dataclass, data_fields=["words"], meta_fields=["form"])
@dataclasses.dataclass
class Answer:
    """What a compiled step returns as one array, so that one is read instead of several."""

    words: Array
    form: Words

    @classmethod
    def of(cls, tree: PyTree) -> Any:
        """The answer with these leaves; the tree itself where no vector of words holds them."""
        try:
            form = Words(tree)
        except Unfit:
            return tree
        return cls(form.of(tree), form)

    def read(self) -> PyTree:
        """The tree, in arrays of NumPy that cannot be written."""
        return self.form.treedef.unflatten(self.form.views(np.asarray(self.words)))


def _words(leaf):
    if leaf.dtype.kind == "b":
        return leaf.astype(WORD).reshape(-1)
    return jax.lax.bitcast_convert_type(leaf, WORD).reshape(-1)


def _restored(words, shape, dtype):
    if dtype.kind == "b":
        return (words != 0).reshape(shape)
    if dtype.itemsize == 8:
        words = words.reshape(-1, 2)
    return jax.lax.bitcast_convert_type(words, dtype).reshape(shape)
