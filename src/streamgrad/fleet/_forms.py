"""Shapes and types of inputs and targets, as JSON."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree


def to_json(form: PyTree) -> Any:
    """A tree of dicts, tuples and lists of shapes; None for a tree of another kind, which JSON could not give back."""
    if hasattr(form, "dtype"):
        return {"dtype": np.dtype(form.dtype).name, "shape": list(form.shape)}
    if type(form) is dict and all(isinstance(name, str) for name in form):
        children = {name: to_json(child) for name, child in form.items()}
        return None if None in children.values() else {"dict": children}
    if type(form) in (tuple, list):
        children = [to_json(child) for child in form]
        return None if None in children else {type(form).__name__: children}
    return None


def from_json(text: Any) -> PyTree:
    """The inverse of `to_json`."""
    if "dtype" in text:
        return jax.ShapeDtypeStruct(tuple(text["shape"]), np.dtype(text["dtype"]))
    if "dict" in text:
        return {name: from_json(child) for name, child in text["dict"].items()}
    return tuple(map(from_json, text["tuple"])) if "tuple" in text else list(map(from_json, text["list"]))
