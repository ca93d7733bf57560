"""The names of a fleet's learners: strings, integers, bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np

Key = str | int | bytes


def canonical(key: Any) -> Key:
    """The key as a plain Python string, integer or bytes. Raises `TypeError` for another type, `ValueError` for one
    that has no place in a store."""
    kind = type(key)
    if kind is not str and kind is not int and kind is not bytes:
        if isinstance(key, np.generic):
            return canonical(key.item())
        if isinstance(key, bool) or not isinstance(key, str | int | bytes):
            raise TypeError(
                f"A fleet's key is a string, an integer or bytes, got {key!r} of type {kind.__name__}: convert it, for "
                "example by str(...)."
            )
        # Of a subclass, as an enumeration's, the plain value.
        key = str.__str__(key) if isinstance(key, str) else int(key) if isinstance(key, int) else bytes(key)
        kind = type(key)
    if kind is int and not -(2**63) <= key < 2**63:
        raise ValueError(f"A fleet's integer key has at most 64 bits, got {key}: use str(key) instead.")
    if kind is str and not key.isascii():
        try:
            key.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"A fleet's key must be valid Unicode, got {key!r}: use key.encode(...) instead."
            ) from None
    return key


def listed(keys: Any) -> list[Key]:
    """Keys of rows, a list, array or other iterable of them, one by one."""
    if isinstance(keys, str | bytes) or not isinstance(keys, Iterable):
        raise TypeError(f"Expected one key for each row, such as a list, got {keys!r}: for a single row write [key].")
    tolist = getattr(keys, "tolist", None)
    listed = tolist() if tolist is not None else list(keys)
    if not isinstance(listed, list):
        raise TypeError(f"Expected one key for each row, such as a list, got {keys!r}: for a single row write [key].")
    # Each key is looked at once, by its type and value: 1, True and "1" are three things.
    known: dict[tuple[type, Any], Key] = {}
    result = []
    for key in listed:
        try:
            found = known.get((type(key), key))
        except TypeError:
            found = None  # not hashable: refused by name
        if found is None:
            found = canonical(key)
            known[type(key), key] = found
        result.append(found)
    return result


def digest(key: Key) -> np.ndarray:
    """Four words that a learner's weights are drawn from, the same on every machine."""
    kind = type(key).__name__
    raw = key if isinstance(key, bytes) else str(key).encode()
    return np.frombuffer(hashlib.blake2b(f"{kind}:".encode() + raw, digest_size=16).digest(), "<u4").astype(np.uint32)
