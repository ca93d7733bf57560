"""A layer that learns nothing any more."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray, PyTree

from ..algorithms import Carry, Frozen
from ..recurrent import Recurrent
from ._dropout import Dropout
from ._normalise import Normalise
from ._unroll import is_stateful


class Fixed(eqx.Module):
    """A layer as it is from now on: no optimiser moves its weights, its recurrent layers have no traces, its running
    statistics stand still, and dropout is left out. Its input gets the derivative of the present step."""

    layer: Any

    def __init__(self, layer: Any):
        self.layer = jax.tree.map(_fixed, layer, is_leaf=_is_changed)

    @staticmethod
    def carry(carry: PyTree) -> PyTree:
        """The carry of a layer that learned until now, without its traces."""
        is_carry = lambda node: isinstance(node, Carry)
        return jax.tree.map(lambda node: Carry(node.state, ()) if is_carry(node) else node, carry, is_leaf=is_carry)

    def init(self, *, key: PRNGKeyArray) -> PyTree:
        """The layer's carry before the first step."""
        return self.layer.init(key=key) if is_stateful(self.layer) else ()

    def __call__(self, carry, x):
        still = lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_array(leaf) else leaf
        layer = jax.tree.map(still, self.layer)
        return layer(carry, x) if is_stateful(layer) else (carry, layer(x))


def _is_changed(node) -> bool:
    return isinstance(node, Recurrent | Dropout | Normalise)


def _fixed(node):
    if isinstance(node, Recurrent):
        return Recurrent(node.cell, Frozen())
    if isinstance(node, Dropout):
        return Dropout(node.size, 0.0, dtype=node.dtype)
    if isinstance(node, Normalise):
        return dataclasses.replace(node, still=True)
    return node
