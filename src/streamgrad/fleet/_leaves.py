"""A tree of NumPy and JAX arrays as bytes, on the host."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._rows import WORDS


class Leaves:
    """How the leaves of a tree lie in a row of words, one after the other.

    - `like`: the tree; each leaf comes back as what it was, a NumPy or a JAX array (typed keys included).
    """

    def __init__(self, like: Any):
        flat, self._treedef = jax.tree_util.tree_flatten_with_path(like)
        self._names = [jax.tree_util.keystr(path) for path, _ in flat]
        leaves = [leaf for _, leaf in flat]
        self._on_device = [isinstance(leaf, jax.Array) for leaf in leaves]
        self._keys = [_implementation(leaf) for leaf in leaves]
        raw = [_raw(leaf) for leaf in leaves]
        self._forms = [(leaf.shape, leaf.dtype, leaf.nbytes) for leaf in raw]
        self.words = -(-sum(size for *_, size in self._forms) // WORDS.itemsize)

    def pack(self, tree: Any) -> np.ndarray:
        """The words of a tree."""
        leaves = [np.ascontiguousarray(_raw(leaf)) for leaf in self._treedef.flatten_up_to(tree)]
        if forms := [name for name, leaf, form in zip(self._names, leaves, self._forms) if leaf.nbytes != form[2]]:
            raise ValueError(f"The state's {forms[0]} has changed its size: a fleet's states keep theirs.")
        raw = b"".join(leaf.tobytes() for leaf in leaves)
        return np.frombuffer(raw.ljust(self.words * WORDS.itemsize, b"\0"), WORDS)

    def unpack(self, row: np.ndarray) -> Any:
        """The inverse of `pack`, bit for bit; shares no memory with the row."""
        raw, leaves, start = row.view(np.uint8), [], 0
        for (shape, dtype, size), key, on_device in zip(self._forms, self._keys, self._on_device):
            leaf = np.frombuffer(raw[start : start + size].tobytes(), dtype).reshape(shape)
            if key is not None:
                leaves.append(jax.random.wrap_key_data(jnp.array(leaf), impl=key))
            else:
                leaves.append(jnp.array(leaf, copy=True) if on_device else leaf.copy())
            start += size
        return jax.tree.unflatten(self._treedef, leaves)

    def described(self) -> dict[str, str]:
        """Each leaf's type and shape, by its name."""
        forms = zip(self._names, self._forms, self._keys)
        return {name: f"{key or dtype} {list(shape)}" for name, (shape, dtype, _), key in forms}


def _implementation(leaf: Any) -> str | None:
    """Of a typed key its generator, else None."""
    return str(jax.random.key_impl(leaf)) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else None


def _raw(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)
