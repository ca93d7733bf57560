"""A model for serving: state only, no influence."""

from __future__ import annotations

from typing import TypeVar

import jax

from .algorithms import Frozen
from .recurrent import Recurrent

M = TypeVar("M")


def inference(model: M) -> M:
    """The same model with every recurrent layer keeping its state alone: same predictions, no traces.

    Its carries are those of `init(key=...)`, or a learner's with every trace replaced by ().
    """
    is_layer = lambda node: isinstance(node, Recurrent)
    freeze = lambda node: Recurrent(node.cell, Frozen()) if is_layer(node) else node
    return jax.tree.map(freeze, model, is_leaf=is_layer)
