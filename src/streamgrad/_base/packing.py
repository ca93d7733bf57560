"""A pytree as few arrays: calling a compiled step costs about a microsecond a leaf."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

#: Leaves of at most this many elements are copied into a vector; larger ones stay in place and are donated.
SMALL = 256
#: The vector of all small leaves of four bytes an element, and of booleans; other types have their own.
WORDS = np.dtype(np.uint32)


class Packing:
    """How the leaves of a pytree are packed: static, compared by content, hashed once.

    A tree whose leaves all have more leading axes (made under `jax.vmap`) is packed with them.

    - `label`: a number that equal packings share beside the form of their trees."""

    def __init__(self, tree: PyTree[Array], label: int = 0):
        leaves, self.treedef = jax.tree.flatten(tree)
        # Typed keys travel as their raw words.
        self.keys = tuple(str(jax.random.key_impl(leaf)) if _is_key(leaf) else None for leaf in leaves)
        raw = [_raw(leaf) for leaf in leaves]
        self.shapes = tuple((leaf.shape, np.dtype(leaf.dtype)) for leaf in raw)
        small = [k for k, leaf in enumerate(raw) if leaf.size <= SMALL]
        carriers = {k: _carrier(self.shapes[k][1]) for k in small}
        self.small = tuple(tuple(k for k in small if carriers[k] == c) for c in dict.fromkeys(carriers.values()))
        self.large = tuple(k for k in range(len(raw)) if k not in carriers)
        self.label = label
        self._hash = hash((self.treedef, self.keys, self.shapes, label))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Packing)
            and (self._hash, self.label, self.treedef, self.keys, self.shapes)
            == (other._hash, other.label, other.treedef, other.keys, other.shapes)
        )

    def pack(self, tree: PyTree[Array]) -> tuple[Array, ...]:
        """The arrays: vectors of small leaves, then the large leaves."""
        raw = [_raw(leaf) for leaf in self.treedef.flatten_up_to(tree)]
        lead = raw[0].shape[: raw[0].ndim - len(self.shapes[0][0])]  # of a tree made under `jax.vmap`
        flat = lambda leaf: _carried(leaf).reshape(*lead, -1)
        vectors = [jnp.concatenate([flat(raw[k]) for k in group], axis=-1) for group in self.small]
        return (*vectors, *(raw[k] for k in self.large))

    def unpack(self, arrays: tuple[Array, ...]) -> PyTree[Array]:
        """The inverse of `pack`."""
        leaves: list[Any] = [None] * len(self.shapes)
        vectors, large = arrays[: len(self.small)], arrays[len(self.small) :]
        for vector, group in zip(vectors, self.small, strict=True):
            start = 0
            for k in group:
                shape, dtype = self.shapes[k]
                size = int(np.prod(shape))
                leaves[k] = _restored(vector[..., start : start + size], dtype).reshape(*vector.shape[:-1], *shape)
                start += size
        for k, leaf in zip(self.large, large, strict=True):
            leaves[k] = leaf
        typed = [
            leaf if impl is None else jax.random.wrap_key_data(leaf, impl=impl)
            for leaf, impl in zip(leaves, self.keys, strict=True)
        ]
        return jax.tree.unflatten(self.treedef, typed)


def _is_key(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _raw(leaf):
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _carrier(dtype: np.dtype) -> np.dtype:
    """The element type of the vector that carries leaves of this type."""
    return WORDS if dtype.kind == "b" or (dtype.itemsize == 4 and dtype.kind in "fiu") else dtype


def _carried(leaf):
    if leaf.dtype.kind == "b":
        return leaf.astype(WORDS)
    return jax.lax.bitcast_convert_type(leaf, WORDS) if _carrier(leaf.dtype) == WORDS else leaf


def _restored(words, dtype):
    if dtype.kind == "b":
        return words != 0
    return jax.lax.bitcast_convert_type(words, dtype) if words.dtype != dtype else words
