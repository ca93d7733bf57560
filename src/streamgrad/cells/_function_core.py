"""A recurrence given as any JAX step, with its structure known from outside."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._static import Static
from ..structure import Structure
from ._cell import Core


class FunctionCore(Core):
    """`step(parameters, state, x) -> state`, over flat real rows (state) and flat real parameters.

    - `parameters`: any pytree; its inexact leaves, all real, are what is learned.
    - `pattern`: the structure; a complex state entry counts as two rows, real part first.
    - `groups`: int (parameters,), the group of `pattern` that each flat parameter belongs to.
    """

    parameters: PyTree
    step: Callable = eqx.field(static=True)
    pattern: Structure = eqx.field(static=True)
    groups: Static = eqx.field(static=True)

    def __call__(self, state, x):
        return self.step(self.parameters, state, x)

    @property
    def structure(self) -> Structure:
        return self.pattern

    def acts_on_state(self):
        raise TypeError(
            "Spatial needs to know which parameters act on the past alone, and a function cannot tell: "
            "use TBPTT(window=1), or a cell made of drives (sg.cells.GRU, LRU, ...)."
        )

    def linearise(
        self, state: PyTree[Array], x: Array
    ) -> tuple[PyTree[Array], Float[Array, "colours parameters"], Float[Array, "colours rows"], np.ndarray]:
        """The new state and its derivatives, compressed: rows of [I | D] that share no structural non-zero
        share a colour and are pulled back together. Row r of I is `by_parameter[colour[r]]` where its
        pattern is set, and likewise row r of D."""
        parameters, fixed = eqx.partition(self.parameters, eqx.is_inexact_array)
        colour, seeds = _colouring(self.pattern)

        def run(parameters, rows):
            new = self.step(eqx.combine(parameters, fixed), from_rows(rows, state), x)
            return to_rows(new), new

        rows, pull, new = jax.vjp(run, parameters, to_rows(state), has_aux=True)
        by_parameter, by_row = jax.vmap(pull)(jnp.asarray(seeds, rows.dtype))
        return new, jax.vmap(flat)(by_parameter), by_row, colour


def flat(tree: PyTree) -> Float[Array, " n"]:
    """The inexact leaves of a pytree, ravelled one after another."""
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))])


def unflat(vector: Float[Array, " n"], like: PyTree) -> PyTree:
    """The inverse of `flat`, with None in place of every other leaf of `like`."""
    like = eqx.filter(like, eqx.is_inexact_array)
    leaves, treedef = jax.tree.flatten(like)
    ends = np.cumsum([leaf.size for leaf in leaves])
    parts = jnp.split(vector, ends[:-1].tolist())
    shaped = [part.reshape(leaf.shape).astype(leaf.dtype) for part, leaf in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(treedef, shaped)


def flat_groups(parameters: PyTree, groups: PyTree) -> Static:
    """Group numbers, broadcast leaf by leaf to the parameters and ravelled in the order of `flat`."""
    kept = eqx.filter(parameters, eqx.is_inexact_array)
    each = jax.tree.map(lambda leaf, group: np.broadcast_to(group, leaf.shape).ravel(), kept, groups)
    return Static(np.concatenate(jax.tree.leaves(each)))


def to_rows(state: PyTree[Array]) -> Float[Array, " rows"]:
    """The state as one real vector: a complex leaf gives its real parts, then its imaginary parts. Leaves of
    several precisions take the highest."""
    rows = []
    for leaf in jax.tree.leaves(state):
        rows += [leaf.real.ravel(), leaf.imag.ravel()] if jnp.iscomplexobj(leaf) else [leaf.ravel()]
    dtype = functools.reduce(np.promote_types, [row.dtype for row in rows])
    return jnp.concatenate([row.astype(dtype) for row in rows])


def from_rows(rows: Float[Array, " rows"], like: PyTree[Array]) -> PyTree[Array]:
    """The inverse of `to_rows`."""
    leaves, treedef = jax.tree.flatten(like)
    new, start = [], 0
    for leaf in leaves:
        take = lambda k, start=start, leaf=leaf: rows[start + k * leaf.size : start + (k + 1) * leaf.size]
        value = jax.lax.complex(take(0), take(1)) if jnp.iscomplexobj(leaf) else take(0)
        start += leaf.size * (2 if jnp.iscomplexobj(leaf) else 1)
        new.append(value.reshape(leaf.shape).astype(leaf.dtype))
    return jax.tree.unflatten(treedef, new)


def cotangent_rows(cotangent: PyTree[Array]) -> Float[Array, " rows"]:
    """`to_rows` for a cotangent: JAX pairs c with z as Re(c z), so imaginary parts change sign."""
    return to_rows(jax.tree.map(jnp.conj, cotangent))


@functools.lru_cache(maxsize=64)
def _colouring(structure: Structure) -> tuple[np.ndarray, np.ndarray]:
    """Greedy row colouring of [I | D]: colour (rows,) and seeds (colours, rows)."""
    entry = structure.entry_unit.value
    uses = np.concatenate([structure.reach(1), structure.reads_matrix()], axis=1)[entry]
    colour = np.full(len(entry), -1)
    taken: list[Any] = []  # for each colour, the columns that its rows use
    for row in np.argsort(-uses.sum(1), kind="stable"):
        free = next((c for c, columns in enumerate(taken) if not (columns & uses[row]).any()), len(taken))
        if free == len(taken):
            taken.append(np.zeros(uses.shape[1], bool))
        taken[free] |= uses[row]
        colour[row] = free
    return colour, np.eye(len(taken))[:, colour]
