r"""A bank of units: the structure behind most cells.

Unit i sees its own state and a few *drives*, affine in the input, in the other units' outputs and in the
constant 1:

    drive[g, i] = sum_k weights[k, g, i] * source[index[k, g, i]]
    s'[:, i]    = unit(s[:, i], drives[:, i])

From the derivatives of `unit` alone (a function of scalars) follow the dynamics D, block by wiring, and the
immediate Jacobian I = K (x) input, rank one per unit and drive. No trace is derived by hand for any cell.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Inexact, Num

from .._base.dependence import dependence
from .._base.dtypes import real_dtype
from .._base.static import Static
from ..structure import Structure
from ..wiring import Links
from ._cell import Core, cast_input

Coefficients = tuple[tuple[Array | None, ...], ...]


@dataclasses.dataclass(frozen=True)
class Link:
    """Links from one source to some of a unit's drives.

    - `source`: `"x"` the input, `"h"` the units' outputs one step ago, `"1"` the constant.
    - `drives`: which drive each gate of the weights feeds.
    - `name`: of the parameters, in the field's terms.
    - `acts_on_state`: whether the weights act on the past alone (recurrent weights; IndRNN's u, LRU's λ).
    """

    source: Literal["x", "h", "1"]
    drives: tuple[int, ...]
    links: Links
    name: str
    acts_on_state: bool = False


class Linear(NamedTuple):
    """One step of a bank, linearised. `None` stands for a structural zero.

    - `state`: the new state, (entries, units).
    - `own[a][b]`: (units,), d(new entry a)/d(old entry b) within a unit, its drives held fixed.
    - `drive[a][g]`: (units,), K, d(new entry a)/d(drive g).
    - `inputs[l]`: what each weight of link l multiplies, broadcastable to its weights.
    """

    state: Inexact[Array, "entries units"]
    own: Coefficients
    drive: Coefficients
    inputs: tuple[Array, ...]


class Bank(Core):
    """A bank of units: `weights[l]`, (fan_in, gates, units), are the parameters of `links[l]`.

    `unit(state, drives)` maps tuples of scalars (`entries` of state, one value a drive) to the tuple of new
    entries; it must be hashable. Other units see entry `emits`; the cell's output reads the entries `shown`.
    """

    weights: tuple[Inexact[Array, "_ _ units"], ...]
    links: tuple[Link, ...] = eqx.field(static=True)
    unit: Callable = eqx.field(static=True)
    entries: int = eqx.field(static=True)
    emits: int = eqx.field(static=True)
    shown: tuple[int, ...] = eqx.field(static=True)

    @property
    def units(self) -> int:
        return self.links[0].links.units

    @property
    def dtype(self):
        return self.weights[0].dtype

    @property
    def gates(self) -> int:
        """The number of drives of a unit."""
        return 1 + max(g for link in self.links for g in link.drives)

    def sources(self, state, x) -> dict[str, Array]:
        real = real_dtype(self.dtype)
        return {
            "x": cast_input(x, real),
            "h": state[self.emits],
            "1": jnp.ones(1, self.dtype),
        }

    def drives(self, state, x) -> tuple[Array, ...]:
        """Every drive of every unit: `gates` arrays (units,)."""
        sources = self.sources(state, x)
        return self._sum((None,) * self.gates, sources)

    def _sum(self, total, sources) -> tuple[Any, ...]:
        """`total`, a value or None for each drive, plus the part of the drives that comes from `sources`."""
        total = list(total)
        for link, weights in zip(self.links, self.weights, strict=True):
            if link.source in sources:
                for g, drive in zip(link.drives, link.links.drive(weights, sources[link.source]), strict=True):
                    total[g] = drive if (so_far := total[g]) is None else so_far + drive
        return tuple(total)

    def __call__(self, state, x):
        return jnp.stack(jax.vmap(self.unit)(tuple(state), self.drives(state, x)))

    def seen(self, state, x):
        return state[self.emits]

    def apart(self, state, x, seen):
        drives = list(self._sum((None,) * self.gates, self.sources(state, x) | {"h": seen}))
        for link, weights in zip(self.links, self.weights, strict=True):
            if link.source == "h" and (own := link.links.own(weights)) is not None:
                for g, weight in zip(link.drives, own, strict=True):
                    drives[g] = drives[g] + weight * (state[self.emits] - seen)
        return jnp.stack(jax.vmap(self.unit)(tuple(state), tuple(drives)))

    def unroll(self, state, xs, starts=None):
        # What the units do not feed back is one matrix product over all steps.
        def outside(x):
            sources = self.sources(state, x)
            del sources["h"]
            return self._sum((None,) * self.gates, sources)

        def step(state, drives):
            drives = self._sum(drives, {"h": state[self.emits]})
            return jnp.stack(jax.vmap(self.unit)(tuple(state), drives))

        return self._unroll(step, state, jax.vmap(outside)(xs), starts)

    def linearise(self, state: Inexact[Array, "entries units"], x: Num[Array, " in_size"]) -> Linear:
        """The step and its coefficients, by one vjp with ones per state entry over all units at once."""
        sources = self.sources(state, x)
        new, pull = jax.vjp(jax.vmap(self.unit), tuple(state), self.drives(state, x))
        depends = unit_dependence(self.unit, self.entries, self.gates)
        own, drive = [], []
        for a in range(self.entries):
            ones = tuple(jnp.ones_like(entry) if b == a else jnp.zeros_like(entry) for b, entry in enumerate(new))
            by_state, by_drive = pull(ones)
            both = [d if used else None for d, used in zip((*by_state, *by_drive), depends[a], strict=True)]
            own.append(tuple(both[: self.entries]))
            drive.append(tuple(both[self.entries :]))
        inputs = tuple(link.links.inputs(sources[link.source]) for link in self.links)
        return Linear(jnp.stack(new), tuple(own), tuple(drive), inputs)

    @property
    def structure(self) -> Structure:
        return _bank_structure(self.links, self.entries)

    def acts_on_state(self):
        marks = tuple(link.acts_on_state for link in self.links)
        return eqx.tree_at(lambda bank: bank.weights, self, marks)


@functools.lru_cache(maxsize=256)
def unit_dependence(unit: Callable, entries: int, gates: int) -> tuple[tuple[bool, ...], ...]:
    """Which of (old entries, drives) each new entry depends on, structurally."""
    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    jaxpr = jax.make_jaxpr(unit)((scalar,) * entries, (scalar,) * gates)
    table = dependence(jaxpr.jaxpr)
    if len(table) != entries:
        raise ValueError(
            f"The unit function returned {len(table)} entries for a state of {entries}: "
            "it must return the new state as a tuple of the same length."
        )
    return tuple(tuple(bool(value) for value in row) for row in table)


@functools.lru_cache(maxsize=256)
def _bank_structure(links: tuple[Link, ...], entries: int) -> Structure:
    units = links[0].links.units
    edges: list[np.ndarray] = [np.tile(np.arange(units), (2, 1))]
    complete = False
    for link in links:
        if link.source == "h":
            found = link.links.edges()
            complete |= found is None
            if found is not None:
                edges.append(found)
    per_unit = sum(link.links.fan_in * len(link.drives) for link in links)
    return Structure(
        entry_unit=Static(np.tile(np.arange(units), entries)),
        reads=None if complete else Static(np.unique(np.concatenate(edges, axis=1), axis=1)),
        touches=None,
        group_sizes=Static(np.full(units, per_unit)),
    )
