"""A recurrence given as any JAX step, with its structure known from outside."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._base.static import Static
from ..structure import Structure
from ._cell import Core


@dataclasses.dataclass(frozen=True)
class Seeing:
    """A step of units that see each other only through `seen`: `step(parameters, state, x, seen)` in which, `seen`
    held fixed, each unit depends on itself alone; `seen(parameters, state, x)`. Units are the last axis of every
    array of parameters and state."""

    step: Callable
    seen: Callable

    def __call__(self, parameters, state, x):
        return self.step(parameters, state, x, self.seen(parameters, state, x))


class FunctionCore(Core):
    """`step(parameters, state, x) -> state`, over flat real rows (state) and flat real parameters.

    - `parameters`: any pytree; its inexact leaves, all real, are what is learned.
    - `pattern`: the structure; a complex state entry counts as two rows, real part first.
    - `groups`: int (parameters,), the group of `pattern` that each flat parameter belongs to;
    - `mode`: in which mode the step can be differentiated, "forward" (a `jax.lax.while_loop`), "reverse" (a
      `jax.custom_vjp`) or "both".
    """

    parameters: PyTree
    step: Callable = eqx.field(static=True)
    pattern: Structure = eqx.field(static=True)
    groups: Static = eqx.field(static=True)
    mode: Literal["forward", "reverse", "both"] = eqx.field(static=True, default="both")

    def __call__(self, state, x):
        return self.step(self.parameters, state, x)

    def seen(self, state, x):
        return self.step.seen(self.parameters, state, x) if isinstance(self.step, Seeing) else super().seen(state, x)

    def apart(self, state, x, seen):
        if not isinstance(self.step, Seeing):
            return super().apart(state, x, seen)
        return self.step.step(self.parameters, state, x, seen)

    @property
    def structure(self) -> Structure:
        return self.pattern

    def linearise_apart(
        self, state: PyTree[Array], x: Array
    ) -> tuple[PyTree[Array], PyTree[Array], Float[Array, "entries entries units"]]:
        """The new state, and its derivatives with what units see of each other held fixed: by the parameters, each
        with a leading axis of state entries, and by the old entries of the unit."""
        parameters, fixed = eqx.partition(self.parameters, eqx.is_inexact_array)
        seen = jax.lax.stop_gradient(self.seen(state, x))

        def run(parameters, entries):
            whole = eqx.combine(parameters, fixed)
            return to_units(self.step.step(whole, from_units(entries, state), x, seen))  # type: ignore[attr-defined]

        new, pull = jax.vjp(run, parameters, to_units(state))
        each = jnp.eye(len(new), dtype=new.dtype)[:, :, None] * jnp.ones_like(new)
        by_parameter, by_entry = jax.vmap(pull)(each)
        return from_units(new, state), by_parameter, by_entry

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
        pattern is set, and likewise row r of D. In forward mode all rows are there."""
        parameters, fixed = eqx.partition(self.parameters, eqx.is_inexact_array)

        def run(parameters, rows):
            new = self.step(eqx.combine(parameters, fixed), from_rows(rows, state), x)
            return to_rows(new), new

        if self.mode == "forward":
            return self._pushed(run, parameters, state)
        colour, seeds = _colouring(self.pattern)
        rows, pull, new = jax.vjp(run, parameters, to_rows(state), has_aux=True)
        by_parameter, by_row = jax.vmap(pull)(jnp.asarray(seeds, rows.dtype))
        return new, jax.vmap(flat)(by_parameter), by_row, colour

    def _pushed(self, run, parameters, state):
        """As `linearise`, in forward mode: columns that share no structural non-zero are pushed together."""
        of_parameter, of_row = _column_colouring(self.pattern, self.groups)
        vector, rows = flat(parameters), to_rows(state)
        both = jnp.concatenate([vector, rows.astype(vector.dtype)])
        split = lambda both: (unflat(both[: len(vector)], parameters), both[len(vector) :].astype(rows.dtype))
        push = lambda seed: jax.jvp(lambda both: run(*split(both))[0], (both,), (seed,))[1]
        colour = np.concatenate([of_parameter, of_row])
        seeds = jnp.asarray(np.eye(colour.max() + 1)[:, colour], both.dtype)
        columns = jax.vmap(push)(seeds)[colour].T  # (rows, parameters and rows)
        return run(parameters, rows)[1], columns[:, : len(vector)], columns[:, len(vector) :], np.arange(len(rows))

    def by_input(self, state, x, cotangent):
        if self.mode != "forward":
            return super().by_input(state, x, cotangent)
        by_x = jax.jacfwd(lambda x: to_rows(self(state, x)))(x)
        return (cotangent_rows(cotangent).astype(by_x.dtype) @ by_x).astype(x.dtype)


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
        rows += [leaf.real.ravel(), leaf.imag.ravel()] if _is_complex(leaf) else [leaf.ravel()]
    dtype = functools.reduce(np.promote_types, [row.dtype for row in rows])
    return jnp.concatenate([row.astype(dtype) for row in rows])


def _is_complex(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.complexfloating)


def from_rows(rows: Float[Array, " rows"], like: PyTree) -> PyTree[Array]:
    """The inverse of `to_rows`."""
    leaves, treedef = jax.tree.flatten(like)
    new, start = [], 0
    for leaf in leaves:
        take = lambda k, start=start, leaf=leaf: rows[start + k * leaf.size : start + (k + 1) * leaf.size]
        value = jax.lax.complex(take(0), take(1)) if _is_complex(leaf) else take(0)
        start += leaf.size * (2 if _is_complex(leaf) else 1)
        new.append(value.reshape(leaf.shape).astype(leaf.dtype))
    return jax.tree.unflatten(treedef, new)


def to_units(state: PyTree[Array]) -> Float[Array, "entries units"]:
    """The state of units, real arrays whose last axis are the units, as one matrix."""
    return jnp.concatenate([leaf.reshape(-1, leaf.shape[-1]) for leaf in jax.tree.leaves(state)])


def from_units(entries: Float[Array, "entries units"], like: PyTree) -> PyTree[Array]:
    """The inverse of `to_units`."""
    leaves, treedef = jax.tree.flatten(like)
    ends = np.cumsum([leaf.size // leaf.shape[-1] for leaf in leaves])
    parts = jnp.split(entries, ends[:-1].tolist())
    return jax.tree.unflatten(treedef, [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)])


def cotangent_rows(cotangent: PyTree[Array]) -> Float[Array, " rows"]:
    """`to_rows` for a cotangent: JAX pairs c with z as Re(c z), so imaginary parts change sign."""
    return to_rows(jax.tree.map(jnp.conj, cotangent))


@functools.lru_cache(maxsize=64)
def _colouring(structure: Structure) -> tuple[np.ndarray, np.ndarray]:
    """Greedy row colouring of [I | D]: colour (rows,) and seeds (colours, rows)."""
    entry = structure.entry_unit.value
    uses = np.concatenate([structure.reach(1), structure.reads_matrix()], axis=1)[entry]
    colour = _coloured(uses)
    return colour, np.eye(colour.max() + 1)[:, colour]


@functools.lru_cache(maxsize=64)
def _column_colouring(structure: Structure, groups: Static) -> tuple[np.ndarray, np.ndarray]:
    """Greedy colouring of the columns of [I | D]: of each parameter and of each row of the state."""
    entry = structure.entry_unit.value
    by_parameter, by_row = structure.reach(1)[entry][:, groups.value], structure.reads_matrix()[np.ix_(entry, entry)]
    reaches = np.concatenate([by_parameter, by_row], axis=1)
    colour = _coloured(reaches.T)
    return colour[: groups.value.size], colour[groups.value.size :]


def _coloured(uses: np.ndarray) -> np.ndarray:
    """A colour for each row, such that no two of one colour use the same column."""
    colour = np.full(len(uses), -1)
    taken: list[Any] = []  # for each colour, the columns that its rows use
    for row in np.argsort(-uses.sum(1), kind="stable"):
        free = next((c for c, columns in enumerate(taken) if not (columns & uses[row]).any()), len(taken))
        if free == len(taken):
            taken.append(np.zeros(uses.shape[1], bool))
        taken[free] |= uses[row]
        colour[row] = free
    return colour
