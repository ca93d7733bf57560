"""Many steps as one compiled loop, whose length is known only when it runs."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

#: Lengths to which runs are padded, so that runs of other lengths need no program of their own; longer ones are not.
LENGTHS = (1, 16, 256, 4096)


def padded_length(length: int) -> int:
    """The length of the program that runs so many steps."""
    return next((room for room in LENGTHS if room >= length), length)


def padded(tree: PyTree, length: int) -> PyTree:
    """The arrays with their leading axis filled up to that length."""

    def one(leaf):
        extra = length - leaf.shape[0]
        if not extra:
            return leaf
        xp = jnp if isinstance(leaf, jax.Array) else np
        return xp.concatenate([leaf, xp.zeros((extra, *leaf.shape[1:]), leaf.dtype)])

    return jax.tree.map(one, tree)


def form_of_one(inputs: PyTree) -> PyTree:
    """Shapes and types of the inputs of one step."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), inputs)


def loop(step: Callable, state: PyTree, inputs: PyTree, count: Array | int) -> tuple[PyTree, PyTree]:
    """`step(state, *input) -> (state, output)` for the first `count` inputs; what is behind them in the outputs is 0.

    A count that is known only at run time makes one step and many the same program: of a step that stands alone XLA
    fuses other operations, and so rounds otherwise."""
    at = lambda k: jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, k, keepdims=False), inputs)
    room = len(jax.tree.leaves(inputs)[0])
    shapes = jax.eval_shape(lambda state: step(state, *at(0))[1], state)
    outputs = jax.tree.map(lambda leaf: jnp.zeros((room, *leaf.shape), leaf.dtype), shapes)

    def body(k, both):
        state, outputs = both
        state, now = step(state, *at(k))
        return state, jax.tree.map(lambda ring, value: put(ring, value, k), outputs, now)

    return jax.lax.fori_loop(0, count, body, (state, outputs))


def put(array: Array, value: Array, place: Array, *, axis: int = 0) -> Array:
    """The array with this value at a place of an axis: in place, and, unlike a scatter, within any kernel."""
    return jax.lax.dynamic_update_index_in_dim(array, value, place, axis)


@functools.partial(jax.jit, static_argnums=1)
def first(outputs: PyTree, count: int) -> PyTree:
    """The first outputs, without those of the padding."""
    return jax.tree.map(lambda leaf: leaf[:count], outputs)
