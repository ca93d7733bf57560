"""Several cells as one recurrence, for exact joint gradients."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base.static import Static
from ..structure import Structure
from ._cell import Cell
from ._function_core import FunctionCore, flat_groups


class Chain(Cell):
    r"""Cells one after another within a step: cell k reads the new output of cell k-1.

        s¹' = f¹(s¹, x)        s²' = f²(s², y¹(s¹', x))        ...        y = the last cell's output

    As *one* recurrence: an algorithm that is exact on it is exact for every parameter of every cell, at the
    price of the influence of early parameters on later states. In a stack of separate layers only the last
    one is exact. State: the tuple of the cells' states.

    Raises `ValueError` when there is no cell, or when one's output does not fit the next one's input.
    """

    cells: tuple[Cell, ...]
    in_size: int = eqx.field(static=True)
    pattern: Structure = eqx.field(static=True)
    groups: Static = eqx.field(static=True)

    def __init__(self, cells):
        self.cells = tuple(cells)
        if not self.cells:
            raise ValueError("Chain needs at least one cell, got none.")
        for k, (before, after) in enumerate(zip(self.cells, self.cells[1:], strict=False)):
            if before.out_size != after.in_size:
                raise ValueError(
                    f"Chain: cell {k} ({type(before).__name__}) outputs {before.out_size} values, but cell {k + 1} "
                    f"({type(after).__name__}) expects in_size={after.in_size}: make the two equal."
                )
        self.in_size = self.cells[0].in_size
        self.pattern, self.groups = _chain_pattern(self.cells)

    def core(self):
        *most, last = self.cells
        # What no state ever feels is not part of the recurrence: the output of the last cell.
        return FunctionCore((*most, _without_output(last, last)), _step, self.pattern, self.groups)

    def init_state(self):
        return tuple(cell.init_state() for cell in self.cells)

    def output(self, state, x):
        for cell, own in zip(self.cells, state, strict=True):
            x = cell.output(own, x)
        return x

    def parameter_unit(self):
        # The states of early cells are felt by all later ones, and the group of a parameter says which.
        parameters = eqx.filter(
            (*self.cells[:-1], _without_output(self.cells[-1], self.cells[-1])), eqx.is_inexact_array
        )
        leaves, treedef = jax.tree.flatten(parameters)
        ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
        parts = np.split(self.groups.value, ends)
        inside = jax.tree.unflatten(treedef, [p.reshape(leaf.shape) for p, leaf in zip(parts, leaves, strict=True)])
        outside = jax.tree.map(lambda leaf: np.array(-1), eqx.filter(self, eqx.is_inexact_array))
        return eqx.combine(eqx.tree_at(lambda c: c.cells, outside, inside), outside)


def _step(cells, state, x):
    new = []
    for k, (cell, own) in enumerate(zip(cells, state, strict=True)):
        own = cell(own, x)
        new.append(own)
        if k + 1 < len(cells):
            x = cell.output(own, x)
    return tuple(new)


def _without_output(cell: Cell, tree: Any) -> Any:
    """`tree`, shaped like the cell, with None for the parameters of the cell's output."""
    parameters, rest = eqx.partition(tree, lambda leaf: eqx.is_array(leaf) or isinstance(leaf, np.ndarray))
    kept = jax.tree.map(lambda unit, leaf: None if np.all(unit == -1) else leaf, cell.parameter_unit(), parameters)
    return eqx.combine(kept, rest)


def _chain_pattern(cells: tuple[Cell, ...]) -> tuple[Structure, Static]:
    """The structure of the whole step, and the group of each flat parameter."""
    cores = [cell.core() for cell in cells]
    structures = [core.structure for core in cores]
    units = np.cumsum([0, *(s.units for s in structures)])
    # Every stage has its own groups and one more, of the parameters of its output.
    groups = np.cumsum([0, *(s.groups + 1 for s in structures)])

    reads = np.zeros((units[-1], units[-1]), bool)  # new unit <- old unit
    touches = np.zeros((units[-1], groups[-1]), bool)  # new unit <- group
    shown = np.zeros((cells[0].in_size, units[-1]), bool)  # signal between cells <- new unit
    signal = np.zeros((cells[0].in_size, groups[-1]), bool)  # signal between cells <- group, by outputs
    entry_unit, group_of = [], []
    for k, (cell, core, structure) in enumerate(zip(cells, cores, structures, strict=True)):
        hears, shows, passes = cell.sees()
        rows, output = slice(units[k], units[k + 1]), groups[k + 1] - 1
        through = hears @ shown
        reads[rows] = through @ reads
        reads[rows, rows] |= structure.reads_matrix()
        touches[rows] = (through @ touches) | (hears @ signal)
        touches[rows, groups[k] : output] |= structure.reach(1)
        shown, signal = passes @ shown, passes @ signal
        shown[:, rows] |= shows
        signal[:, output] = True

        is_complex = not isinstance(core, FunctionCore) and jnp.iscomplexobj(cell.init_state())
        entry_unit.append(np.tile(structure.entry_unit.value, 2 if is_complex else 1) + units[k])
        place = lambda group, at=groups[k], output=output: np.where(group < 0, output, group + at)
        group_of.append(jax.tree.map(place, cell.parameter_unit()))

    last = _without_output(cells[-1], cells[-1])
    group_of[-1] = _without_output(cells[-1], group_of[-1])
    flat = flat_groups((*cells[:-1], last), tuple(group_of))
    structure = Structure(
        entry_unit=Static(np.concatenate(entry_unit)),
        reads=None if reads.all() else Static(np.stack(np.nonzero(reads))),
        touches=Static(np.stack(np.nonzero(touches))),
        group_sizes=Static(np.bincount(flat.value, minlength=groups[-1])),
    )
    return structure, flat
