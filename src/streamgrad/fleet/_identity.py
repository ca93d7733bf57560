"""What makes a state another learner's: described in words, so that it can be refused by name."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from typing import Any

import jax
import numpy as np

from .._base.static import Static

Description = dict[str, dict[str, str]]


def described(node: Any, path: str = "") -> dict[str, str]:
    """All that a model holds beside its arrays, by path: types, numbers, names, wirings by their content."""
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        found = {path or ".": type(node).__name__}
        for field in dataclasses.fields(node):
            found |= described(getattr(node, field.name, None), f"{path}.{field.name}")
        return found
    if isinstance(node, Static):
        return described(node.value, path)
    if isinstance(node, np.ndarray | np.generic):
        content = hashlib.blake2b(np.ascontiguousarray(node).tobytes(), digest_size=8).hexdigest()
        return {path: f"{node.dtype} {list(node.shape)} {content}"}
    if isinstance(node, dict):
        children = [(f"[{name!r}]", child) for name, child in node.items()]
    elif isinstance(node, tuple | list):
        children = [(f"[{k}]", child) for k, child in enumerate(node)]
    elif isinstance(node, str | int | float | complex | bytes | None):
        return {path: repr(node)} if node is not None else {}
    else:
        return {path: named(node)}
    return {name: text for step, child in children for name, text in described(child, path + step).items()}


def named(function: Any) -> str:
    """A function's name; of a partial one, of its function and arguments."""
    if isinstance(function, functools.partial):
        return f"{named(function.func)}{function.args}{function.keywords}"
    name = getattr(function, "__qualname__", None)
    return f"{function.__module__}.{name}" if name else type(function).__qualname__


def shapes(tree: Any) -> dict[str, str]:
    """Types and shapes of a tree's leaves, by name."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path) or ".": f"{leaf.dtype} {list(leaf.shape)}" for path, leaf in leaves}


def difference(was: Description, now: Description) -> str | None:
    """The first difference, in words; None where all is the same."""
    for part in now:
        old, new = was.get(part, {}), now[part]
        for name in [*new, *(name for name in old if name not in new)]:
            if old.get(name) != new.get(name):
                return f"{part} {name} was {old.get(name, 'absent')} and is now {new.get(name, 'absent')}"
    return None


def marks(description: Description) -> bytes:
    """Four bytes for each part of a description."""
    digest = lambda part: hashlib.blake2b(repr(sorted(part.items())).encode(), digest_size=4).digest()
    return b"".join(digest(description[part]) for part in description)
