"""Cells that go by an action: weights of their own for each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from .._base.static import Static
from ._cell import Cell, check_sizes
from ._function_core import FunctionCore, flat_groups


class ByAction(Cell):
    r"""A cell with weights of its own for each action; a step uses those of the action taken: $s_t = f(\sum_k a_k
    \theta_k,\, s_{t-1}, o_t)$.

    The multiplicative encoding of actions: an action changes what is made of the observation *and* of the past, where
    an action among the inputs (the additive one) only shifts it. Input: the observation and then the action, [o, a],
    one-hot as a rule; any mixture is allowed.

    - `make(key)`: builds the cell for one action, of observations: `lambda key: sg.cells.GRU(4, 16, key=key)`;
    - `actions`: how many there are.

    Parameters: those of the cell, with a leading axis of actions, in `cells`. State and output are the cell's; what
    reaches what, and so what is exact, too.

    Raises `ValueError` for no actions; `TypeError` for a cell whose output has weights of its own (`LRU`).

    Reference: Schlegel, Tkachuk, White & White, Investigating action encodings in recurrent neural networks in
    reinforcement learning, 2023.
    """

    cells: Cell
    actions: int = eqx.field(static=True)
    in_size: int = eqx.field(static=True)

    def __init__(self, make: Callable[[PRNGKeyArray], Cell], actions: int, *, key: PRNGKeyArray):
        check_sizes(actions=actions)
        one = make(key)
        if not isinstance(one, Cell):
            raise TypeError(f"make(key) must give a cell such as sg.cells.GRU(4, 16, key=key), got {one!r}.")
        if any((np.asarray(unit) < 0).any() for unit in jax.tree.leaves(one.parameter_unit())):
            raise TypeError(
                f"{type(one).__name__} shows its state through weights of its own, which no action could choose: use a "
                "cell that shows its state, sg.cells.RTU or GRU, say."
            )
        self.cells = eqx.filter_vmap(make)(jax.random.split(key, actions))
        self.actions, self.in_size = actions, one.in_size + actions

    def _first(self) -> Cell:
        return _mixed(self, jnp.eye(self.actions)[0])

    def core(self):
        one = self._first()
        groups = flat_groups(self, self.parameter_unit())
        base, (state,) = one.core().structure, jax.tree.leaves(one.init_state())
        entry = base.entry_unit.value
        if jnp.iscomplexobj(state):  # real parts, then imaginary ones
            entry = np.tile(entry, 2)
        # A cell may make the arrays of its recurrence from others (RTU): what counts are its parameters.
        sizes = Static(np.bincount(groups.value, minlength=base.groups))
        return FunctionCore(self, _step, dataclasses.replace(base, entry_unit=Static(entry), group_sizes=sizes), groups)

    def parameter_unit(self):
        like = jax.tree.structure(eqx.filter(self, eqx.is_inexact_array))
        return jax.tree.unflatten(like, jax.tree.leaves(self._first().parameter_unit()))

    def init_state(self):
        return self._first().init_state()

    def output(self, state, x):
        return _mixed(self, x[-self.actions :]).output(state, x[: -self.actions])


def _mixed(cell: ByAction, action) -> Cell:
    """The cell of one action, or the mixture of several."""
    mix = lambda leaf: jnp.tensordot(action.astype(leaf.dtype), leaf, 1) if eqx.is_inexact_array(leaf) else leaf
    return jax.tree.map(mix, cell.cells)


def _step(cell: ByAction, state, x):
    return _mixed(cell, x[-cell.actions :])(state, x[: -cell.actions])
