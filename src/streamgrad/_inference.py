"""A model for serving: state only, no influence."""

from __future__ import annotations

from typing import TypeVar

import jax

from .algorithms import Frozen
from .nn import Dropout
from .recurrent import Recurrent

M = TypeVar("M")


def inference(model: M) -> M:
    """The same model for serving: every recurrent layer keeps its state alone, and dropout is left out.

    Its carries are those of `init(key=...)`, or a learner's with every trace replaced by ().
    """
    return jax.tree.map(_serving, model, is_leaf=lambda node: isinstance(node, Recurrent | Dropout))


def _serving(node):
    if isinstance(node, Recurrent):
        return Recurrent(node.cell, Frozen())
    return Dropout(node.size, 0.0, dtype=node.dtype) if isinstance(node, Dropout) else node
