"""Parts of a model: what fits itself, what no optimiser moves, what belongs to an algorithm."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base.dependence import dependence
from ..algorithms import Algorithm
from ..cells import UnitCell
from ..nn import Fixed, Normalise, Sequential
from ..readout import Fitted, Readout
from ..recurrent import Recurrent


def is_algorithm(node) -> bool:
    return isinstance(node, Algorithm)


def fitted(model):
    """A mask over the model's arrays: whether each fits itself."""
    is_fitted = lambda node: isinstance(node, Fitted)
    mark = lambda node: jax.tree.map(lambda _: is_fitted(node), eqx.filter(node, eqx.is_array))
    return jax.tree.map(mark, model, is_leaf=is_fitted)


def untrained(model):
    """A mask over the model's arrays: whether no optimiser moves each: it fits itself, is fixed, belongs to an
    algorithm that learns nothing itself, or gets no gradient (a frozen recurrence, fixed feedback)."""
    is_own = lambda node: isinstance(node, Fitted | Fixed) or (is_algorithm(node) and not node.learns)
    is_part = lambda node: is_own(node) or isinstance(node, Recurrent | Readout)
    arrays = lambda node: eqx.filter(node, eqx.is_array)

    def mark(node):
        if is_own(node) or not is_part(node):
            return jax.tree.map(lambda _: is_own(node), arrays(node))
        marks = jax.tree.map(lambda _: False, arrays(node))
        if isinstance(node, Readout):
            fixed = node.feedback == "random" and eqx.is_array(node.feedback_weight)
            return eqx.tree_at(lambda m: m.feedback_weight, marks, True) if fixed else marks
        marks = eqx.tree_at(lambda m: m.algorithm, marks, mark(node.algorithm), is_leaf=lambda leaf: leaf is None)
        frozen = frozen_leaves(node)
        return marks if frozen is None else eqx.tree_at(lambda m: m.cell, marks, frozen)

    return jax.tree.map(mark, model, is_leaf=is_part)


def frozen_leaves(layer: Recurrent):
    """A mask over the cell's arrays: whether neither the algorithm nor the cell's output gives each a gradient. None
    when there is no such algorithm."""
    cell, algorithm = layer.cell, layer.algorithm
    if type(algorithm).gradient_source is Algorithm.gradient_source:
        return None
    parameters, static = eqx.partition(cell, eqx.is_inexact_array)
    leaves, treedef = jax.tree.flatten(parameters)
    learns: list[bool] = []

    def parts(leaves, state, x):
        cell = eqx.combine(jax.tree.unflatten(treedef, leaves), static)
        core = cell.core()
        learns[:] = [kind != "nothing" for kind in jax.tree.leaves(algorithm.gradient_source(core))]
        return jax.tree.leaves(eqx.filter(core, eqx.is_inexact_array)), cell.output(state, x)

    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    state = jax.eval_shape(lambda leaves: eqx.combine(jax.tree.unflatten(treedef, leaves), static).init_state(), shapes)
    x = jax.ShapeDtypeStruct((cell.in_size,), jnp.float32)
    with jax.numpy_dtype_promotion("standard"):
        program = jax.make_jaxpr(parts)(shapes, state, x).jaxpr
    if all(learns):
        return None
    reads = dependence(program)[:, : len(leaves)]
    use = np.array([*learns, *[True] * (len(reads) - len(learns))])
    frozen = jax.tree.unflatten(treedef, [not flag for flag in np.logical_or.reduce(reads[use])])
    return jax.tree.map(lambda _, own: own is True, eqx.filter(cell, eqx.is_array), frozen, is_leaf=lambda v: v is None)


#: Below this many entries a gradient is looked at whole.
WORTH_A_ROW = 4096
#: What is clipped to this may be multiplied four times in float32.
MODERATE = 1e9


def told_by_row(model):
    """A mask over the model's arrays: whether the first row of each gradient tells that all of it is finite, by its
    layer's algorithm. None where no large one is so.

    Only of layers that see the model's input, the states of layers before them, or what `Normalise` clips: what else
    one may see, a driver does not look at. A leaf that other code may read, outside a `Sequential`, is not marked
    either."""
    marks = jax.tree.map(lambda _: False, eqx.filter(model, eqx.is_array))
    layers, seen = model.layers if isinstance(model, Sequential) else (model,), True
    for k, layer in enumerate(layers):
        if isinstance(layer, Recurrent):
            place = (lambda m, k=k: m.layers[k]) if isinstance(model, Sequential) else lambda m: m
            marks = eqx.tree_at(place, marks, _told_by_row(layer)) if seen else marks
            seen = seen and type(layer.cell).output is UnitCell.output
        else:
            seen = isinstance(layer, Normalise) and layer.clip < MODERATE
    return marks if any(jax.tree.leaves(marks)) else None


def _told_by_row(layer: Recurrent):
    arrays, static = eqx.partition(layer, eqx.is_array)
    large = lambda leaf: leaf.size >= WORTH_A_ROW
    marks = jax.tree.map(lambda _: False, arrays)
    if not any(map(large, jax.tree.leaves(arrays))):
        return marks

    def note(arrays):
        nonlocal marks
        layer = eqx.combine(arrays, static)
        told = layer.algorithm.told_by_row(layer.cell.core())
        # Only what the core takes as it is: what it makes of other parameters has another gradient.
        marks = jax.tree.map(lambda leaf: large(leaf) and any(leaf is weights for weights in told), arrays)

    jax.eval_shape(note, arrays)
    return marks


def of_algorithms(model):
    """A mask over the model's arrays: whether each is a leaf of an algorithm."""
    mark = lambda node: jax.tree.map(lambda _: is_algorithm(node), eqx.filter(node, eqx.is_array))
    return jax.tree.map(mark, model, is_leaf=is_algorithm)
