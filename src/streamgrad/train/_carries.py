"""Parts of a carry: states, and traces."""

from __future__ import annotations

import jax

from ..algorithms import Carry


def is_carry(node) -> bool:
    return isinstance(node, Carry)


def states(carry):
    """The carry without traces: what is small enough to be looked through at every step."""
    return jax.tree.map(lambda node: node.state if is_carry(node) else node, carry, is_leaf=is_carry)


def states_only(carry):
    """The carry of the serving copy: states, and no trace."""
    return jax.tree.map(lambda node: Carry(node.state, ()) if is_carry(node) else node, carry, is_leaf=is_carry)
