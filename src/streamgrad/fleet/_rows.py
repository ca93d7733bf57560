"""A pytree of arrays as one row of 32-bit words: what a slot, a file and a message hold."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree, UInt32

WORDS = np.dtype(np.uint32)


class Rows:
    """How the leaves of a pytree lie in a row, in the order of the tree.

    - `like`: the tree, of arrays, as they are or traced; typed keys included.

    A leaf of 8 bytes an entry takes two words, one of 4 a word; narrower ones and booleans are widened to one.
    """

    def __init__(self, like: PyTree):
        flat, self.treedef = jax.tree_util.tree_flatten_with_path(like)
        self.names = tuple(jax.tree_util.keystr(path) for path, _ in flat)
        leaves = [leaf for _, leaf in flat]
        self.keys = tuple(str(jax.random.key_impl(leaf)) if _is_key(leaf) else None for leaf in leaves)
        raw = [jax.random.key_data(leaf) if _is_key(leaf) else leaf for leaf in leaves]
        self.forms = tuple((tuple(leaf.shape), np.dtype(leaf.dtype)) for leaf in raw)
        self.sizes = tuple(int(np.prod(shape)) * _words(dtype) for shape, dtype in self.forms)
        self.words = sum(self.sizes)

    def pack(self, tree: PyTree[Array]) -> UInt32[Array, " words"]:
        """The row of a tree."""
        leaves = self.treedef.flatten_up_to(tree)
        raw = [jax.random.key_data(leaf) if _is_key(leaf) else leaf for leaf in leaves]
        return jnp.concatenate([_carried(leaf).reshape(-1) for leaf in raw])

    def unpack(self, row: UInt32[Array, " words"]) -> PyTree[Array]:
        """The inverse of `pack`, bit for bit."""
        leaves, start = [], 0
        for (shape, dtype), size, impl in zip(self.forms, self.sizes, self.keys, strict=True):
            leaf = _restored(row[start : start + size], shape, dtype)
            leaves.append(leaf if impl is None else jax.random.wrap_key_data(leaf, impl=impl))
            start += size
        return jax.tree.unflatten(self.treedef, leaves)

    def described(self) -> dict[str, str]:
        """Each leaf's type and shape, by its name."""
        of = lambda form, impl: f"{impl or form[1]} {list(form[0])}"
        return {name: of(form, impl) for name, form, impl in zip(self.names, self.forms, self.keys, strict=True)}


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _words(dtype: np.dtype) -> int:
    return max(dtype.itemsize // WORDS.itemsize, 1)


def _carried(leaf):
    if leaf.dtype.kind == "c":
        leaf = jnp.stack([leaf.real, leaf.imag], axis=-1)
    if leaf.dtype.kind == "b":
        return leaf.astype(WORDS)
    if leaf.dtype.itemsize < WORDS.itemsize:
        return jax.lax.bitcast_convert_type(leaf, f"uint{8 * leaf.dtype.itemsize}").astype(WORDS)
    return jax.lax.bitcast_convert_type(leaf, WORDS)


def _restored(words, shape, dtype):
    if dtype.kind == "b":
        return (words != 0).reshape(shape)
    if dtype.kind == "c":
        parts = _restored(words, (*shape, 2), np.empty(0, dtype).real.dtype)
        return jax.lax.complex(parts[..., 0], parts[..., 1])
    if dtype.itemsize < WORDS.itemsize:
        narrow = words.astype(f"uint{8 * dtype.itemsize}").reshape(shape)
        return jax.lax.bitcast_convert_type(narrow, dtype)
    pairs = (*shape, 2) if dtype.itemsize > WORDS.itemsize else shape
    return jax.lax.bitcast_convert_type(words.reshape(pairs), dtype)
