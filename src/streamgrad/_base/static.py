"""NumPy arrays as static (compile-time) data."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np


class Static:
    """A NumPy array that may be a static field: hashed by content, compared by value.

    JAX compares static fields with `==` and hashes them; a bare `np.ndarray` can do neither.
    The content hash is computed once, so that flattening a module costs nothing.
    """

    __slots__ = ("_hash", "value")

    def __init__(self, value: Any):
        array = np.array(value, order="C")  # a copy: the caller's own may change, and a number keeps its shape ()
        array.setflags(write=False)
        digest = hashlib.blake2b(array.tobytes(), digest_size=8).digest()
        self.value = array
        self._hash = hash((array.shape, array.dtype.str, digest))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Static) or self._hash != other._hash:
            return False
        return self.value.dtype == other.value.dtype and np.array_equal(self.value, other.value)

    def __repr__(self) -> str:
        return f"Static({self.value.dtype}{list(self.value.shape)})"
