"""Which parameters share a block of a covariance."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey, keystr, tree_leaves_with_path
from jaxtyping import Array, PyTree

from .._base.static import Static
from ..algorithms import Algorithm
from ..readout import Readout
from ..recurrent import Recurrent

FORMS = ("full", "layer", "unit", "diagonal")


@dataclasses.dataclass(frozen=True)
class Blocks:
    """How parameters are divided into blocks, static and hashable.

    - `paths`, `shapes`: of the trained leaves, in the order of the pytree;
    - `block`: int (parameters,), the block of each entry of these leaves.

    Parameters are *packed* by the size of their blocks: all blocks of one size are rows of one matrix of indices.
    """

    paths: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    block: Static

    @property
    def parameters(self) -> int:
        return len(self.block.value)

    @functools.cached_property
    def classes(self) -> tuple[np.ndarray, ...]:
        """The parameters of the blocks, grouped by the size of a block: int (blocks, size)."""
        order = np.argsort(self.block.value, kind="stable")
        blocks = np.split(order, np.flatnonzero(np.diff(self.block.value[order])) + 1)
        sizes = sorted({len(block) for block in blocks})
        return tuple(np.stack([block for block in blocks if len(block) == size]) for size in sizes)

    @functools.cached_property
    def order(self) -> np.ndarray:
        """The parameter at each packed place."""
        return np.concatenate([members.ravel() for members in self.classes])

    @functools.cached_property
    def place(self) -> np.ndarray:
        """The packed place of each parameter."""
        return np.argsort(self.order)

    def pack(self, rows: PyTree[Array], dtype: Any) -> Array:
        """Leaves with a leading axis to (rows, parameters), packed."""
        leaves = jax.tree.leaves(rows)
        return jnp.concatenate([leaf.astype(dtype).reshape(len(leaf), -1) for leaf in leaves], axis=1)[:, self.order]

    def added(self, trained: PyTree[Array], change: Array) -> PyTree[Array]:
        """The trained leaves, moved by a packed change."""
        leaves, treedef = jax.tree.flatten(trained)
        ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
        parts = jnp.split(change[self.place], ends)
        moved = [(x.astype(d.dtype) + d.reshape(x.shape)).astype(x.dtype) for x, d in zip(leaves, parts, strict=True)]
        return jax.tree.unflatten(treedef, moved)

    def numbers(self, values: PyTree, name: str, dtype: Any) -> Array:
        """A number for each parameter, packed, from a pytree of numbers with the trained leaves' paths."""
        given = {keystr(path): value for path, value in tree_leaves_with_path(values)}
        if missing := [path for path in self.paths if path not in given]:
            raise ValueError(
                f"Kalman: {name}(model) must give a number for every trained leaf, and there is none for "
                f"{', '.join(missing[:3])}. Build it with jax.tree.map over the trained leaves of the model."
            )
        spread = lambda path, shape: jnp.broadcast_to(jnp.asarray(given[path], dtype), shape).ravel()
        leaves = [spread(path, shape) for path, shape in zip(self.paths, self.shapes, strict=True)]
        return jnp.concatenate(leaves)[self.order]

    def check(self, trained: PyTree[Array]) -> None:
        """Raise `ValueError` when leaves are not those that these blocks were made for."""
        got = {keystr(path): leaf.shape for path, leaf in tree_leaves_with_path(trained)}
        want = dict(zip(self.paths, self.shapes, strict=True))
        if different := [
            f"{k}: got {got.get(k)}, expected {want.get(k)}" for k in want | got if got.get(k) != want.get(k)
        ]:
            raise ValueError(
                f"Kalman: the trained leaves are not those that its state was made for: {'; '.join(different[:3])}. "
                "Make the state by init(trained, model); when a model has grown, by grow(state, trained, model)."
            )

    def before(self, old: Blocks) -> np.ndarray:
        """The old number of each parameter; -1 for a new one.

        Parameters are the same where path and index are; of a leaf that has grown, the leading entries are old."""
        known = np.full(self.parameters, -1)
        starts = dict(zip(old.paths, np.cumsum([0, *(int(np.prod(s)) for s in old.shapes)]), strict=False))
        shapes = dict(zip(old.paths, old.shapes, strict=True))
        start = 0
        for path, shape in zip(self.paths, self.shapes, strict=True):
            before = shapes.get(path)
            if before is not None and len(before) == len(shape):
                common = tuple(slice(min(pair)) for pair in zip(before, shape, strict=True))
                numbered = lambda s, first: first + np.arange(int(np.prod(s))).reshape(s)
                known[numbered(shape, start)[common]] = numbered(before, starts[path])[common]
            start += int(np.prod(shape))
        return known

    def sources(self, old: Blocks) -> tuple[np.ndarray, ...]:
        """The old place of each entry of the new blocks; -1 for a new one."""
        known = self.before(old)
        block, column, row, first = (np.empty(old.parameters, int) for _ in range(4))
        offset = total = 0
        for members in old.classes:
            n, size = members.shape
            block[members] = offset + np.arange(n)[:, None]
            column[members] = np.arange(size)
            first[members] = total + size * size * np.arange(n)[:, None]
            row[members] = size
            offset, total = offset + n, total + n * size * size
        found = []
        for members in self.classes:
            i, j = known[members][:, :, None], known[members][:, None, :]
            same = (i >= 0) & (j >= 0) & (block[i] == block[j])
            found.append(np.where(same, first[i] + column[i] * row[i] + column[j], -1))
        return tuple(found)


def blocks(trained: PyTree[Array], model: Any, form: str) -> Blocks:
    """The blocks of one of the forms: `"full"`, `"layer"`, `"unit"`, `"diagonal"`.

    Raises `TypeError` for leaves that have no sensitivities: those that an algorithm learns itself, complex ones."""
    leaves = tree_leaves_with_path(trained)
    if not leaves:
        raise ValueError("Kalman: nothing is trained: the model has no trained leaves.")
    own = _own_leaves(model)
    for path, leaf in leaves:
        if (name := keystr(path)) in own:
            raise TypeError(
                f"Kalman: {name} is learned by {own[name]} itself, by a regression that is no part of the prediction: "
                f"it has no sensitivities. Choose an algorithm without leaves of its own, or another optimiser."
            )
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(f"Kalman: {name} is {leaf.dtype}; a filter needs real parameters.")
    units = _units(model) if form == "unit" else {}
    labels = [_label(form, path, leaf, units) for path, leaf in leaves]
    numbered: dict[tuple[str, int], int] = {}
    parts = []
    for group, within in labels:
        values, inverse = np.unique(within, return_inverse=True)
        numbers = [numbered.setdefault((group, int(value)), len(numbered)) for value in values]
        parts.append(np.array(numbers)[inverse.ravel()])
    paths, shapes = tuple(keystr(path) for path, _ in leaves), tuple(leaf.shape for _, leaf in leaves)
    return Blocks(paths, shapes, Static(np.concatenate(parts)))


def _label(form, path, leaf, units) -> tuple[str, np.ndarray]:
    """The group of a leaf, and for each entry the block within the group."""
    zeros = np.zeros(leaf.shape, int)
    if form == "full":
        return "", zeros
    if form == "layer":
        count = 1
        while count < len(path) and isinstance(path[count], SequenceKey | DictKey | FlattenedIndexKey):
            count += 1
        return keystr(path[:count]), zeros
    name = keystr(path)
    if form == "diagonal":
        return name, np.arange(leaf.size).reshape(leaf.shape)
    if name in units:
        group, unit = units[name]
        return group, np.broadcast_to(unit, leaf.shape)
    return name, zeros if leaf.ndim < 2 else zeros + np.arange(leaf.shape[0]).reshape(-1, *(1,) * (leaf.ndim - 1))


def _units(model) -> dict[str, tuple[str, np.ndarray]]:
    """By path, the layer of a parameter and the units that its entries enter, or the outputs that they make."""
    found = {}
    is_layer = lambda node: isinstance(node, Recurrent | Readout | eqx.nn.Linear)
    for path, node in tree_leaves_with_path(model, is_leaf=is_layer):
        if isinstance(node, Recurrent):
            inside = (*path, GetAttrKey("cell"))
            for leaf, unit in tree_leaves_with_path(node.cell.parameter_unit()):
                if not np.any(unit == -1):
                    found[keystr((*inside, *leaf))] = keystr(path), np.asarray(unit)
        elif is_layer(node) and node.weight.ndim == 2:
            outputs = np.arange(node.weight.shape[0])
            axes = {"weight": outputs[:, None], "bias": outputs, "feedback_weight": outputs}
            found |= {keystr((*path, GetAttrKey(leaf))): (keystr(path), unit) for leaf, unit in axes.items()}
    return found


def _own_leaves(model) -> dict[str, str]:
    """By path, the leaves that an algorithm learns itself, and its name."""
    is_algorithm = lambda node: isinstance(node, Algorithm)
    return {
        keystr((*path, *leaf)): type(node).__name__
        for path, node in tree_leaves_with_path(model, is_leaf=is_algorithm)
        if is_algorithm(node) and node.learns
        for leaf, _ in tree_leaves_with_path(node)
    }
