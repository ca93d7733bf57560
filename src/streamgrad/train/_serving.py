"""A model for serving: state only, no influence."""

from __future__ import annotations

from typing import TypeVar

import jax

from .._base.owned import owned
from ..algorithms import Frozen
from ..nn import Dropout
from ..recurrent import Recurrent

M = TypeVar("M")


def inference(model: M) -> M:
    """The same model for serving: every recurrent layer keeps its state alone, and dropout is left out.

    Its carries are those of `init(key=...)`, or a learner's with every trace replaced by (). Its arrays are copies: it
    lives on when the learner whose weights it has goes on.
    """
    return owned(serving(model))


def serving(model: M) -> M:
    """The model of `inference`, with the very arrays of the model given."""
    return jax.tree.map(_serving, model, is_leaf=lambda node: isinstance(node, Recurrent | Dropout))


def _serving(node):
    return Dropout(node.size, 0.0, dtype=node.dtype) if isinstance(node, Dropout) else _untraced(node)


def without_traces(model: M) -> M:
    """The same model with every recurrent layer keeping its state alone, and all else as in training."""
    return jax.tree.map(_untraced, model, is_leaf=lambda node: isinstance(node, Recurrent))


def _untraced(node):
    return Recurrent(node.cell, Frozen()) if isinstance(node, Recurrent) else node
