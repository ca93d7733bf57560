"""The layout of SnAp-n, n >= 2, on a sparse bank: only the rows that each unit's parameters reach."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from .._base.dtypes import real_factor, trace_dtype
from ..cells import Bank, Link
from ..cells._bank import unit_dependence
from ._layout import Layout
from ._packed import immediate, per_unit, unpack


@dataclasses.dataclass(frozen=True)
class GatheredRows(Layout[Bank]):
    """J as (kept rows, parameters of a unit): row (u, r) holds the effect of unit u's parameters on state
    row r. Rows are sorted by the number of non-zeros of D that feed them, and each class of equal count is
    one fused gather-sum.
    """

    n: int

    def init(self, core):
        plan = self.plan(core)
        return jnp.zeros((len(plan.unit), per_unit(core)), trace_dtype(core.dtype))

    def plan(self, core) -> Plan:
        return _plan(core.links, core.entries, core.emits, core.structure, self.n, _used(core))

    def advance(self, core, trace, state, x):
        state, d, own = self.factors(core, state, x, trace.dtype)
        return state, self.moved(core, trace, d, own)

    def factors(self, core, state, x, dtype):
        """The new state, the non-zeros of D in the plan's order, and I of each unit's own parameters."""
        plan = self.plan(core)
        step = core.linearise(state, x)
        d = self._values(core, step, plan).astype(dtype)
        # All factors in one gather, before the loops over rows.
        return step.state, *jax.lax.optimization_barrier((d[plan.slots], immediate(core, step, dtype)))

    def moved(self, core, trace, d, own):
        """M ∘ (I + D J); of some of each unit's parameters, where trace and I hold no more."""
        plan, own = self.plan(core), own.reshape(-1, trace.shape[1])
        parts, start = [], 0
        for rows in plan.classes:
            total = None
            for source in rows.source:
                term = d[start : start + rows.count][:, None] * trace[source]
                start += rows.count
                total = term if total is None else total + term
            if rows.immediate is not None:
                added = own[rows.immediate]
                total = added if total is None else total + added
            parts.append(jnp.zeros((rows.count, trace.shape[1]), trace.dtype) if total is None else total)
        return jnp.concatenate(parts)

    def _values(self, core, step, plan):
        """All non-zeros of D as one vector, in the order of the plan's slots."""
        values = [step.own[a][b] for a, b in plan.own]
        for link, a, gates in plan.linked:
            weights, k = core.weights[link], [step.drive[a][core.links[link].drives[g]] for g in gates]
            product = weights[:, np.array(gates)] * jnp.stack(k)[None]
            shared = core.links[link].links.index().shape[1] == 1
            values.append((product.sum(1) if shared else product).reshape(-1))
        return jnp.concatenate([*values, jnp.zeros(1, core.dtype)])

    def pullback(self, core, trace, cotangent):
        return unpack(core, self.pulled(core, trace, cotangent))

    def pulled(self, core, trace, cotangent):
        """The gradient of each unit's parameters, (units, parameters)."""
        plan = self.plan(core)
        weighted = cotangent.reshape(-1).astype(trace.dtype)[plan.row][:, None] * trace
        return jax.ops.segment_sum(weighted, plan.unit, core.units)

    def flops(self, core):
        plan = self.plan(core)
        return 2 * real_factor(core.dtype) * plan.terms * per_unit(core)

    def describe(self):
        return "the rows that each unit's parameters reach, gathered"


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """A class of `count` rows fed by the same number of non-zeros of D: `source[t]` is the row of J that the
    t-th one multiplies; `immediate` the row of I to add."""

    count: int
    source: list[np.ndarray]
    immediate: np.ndarray | None


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """Index arrays of a ragged J: `unit[k]`, `row[k]` say what row k of the trace holds; `slots` are the
    non-zeros of D in the order in which the classes use them; `terms` counts them without padding."""

    unit: np.ndarray
    row: np.ndarray
    slots: np.ndarray
    classes: list[Rows]
    own: list[tuple[int, int]]
    linked: list[tuple[int, int, tuple[int, ...]]]
    terms: int


def _used(core: Bank):
    return unit_dependence(core.unit, core.entries, core.gates)


@functools.lru_cache(maxsize=32)
def _plan(links: tuple[Link, ...], entries: int, emits: int, structure, n: int, used) -> Plan:
    units = structure.units
    reach = structure.reach(n)  # (unit, group = entered unit)

    # The non-zeros of D as COO (row, column) with their slot in the vector of values.
    row_of, column_of, own, linked = [], [], [], []
    each = np.arange(units)
    for a in range(entries):
        for b in range(entries):
            if used[a][b]:
                own.append((a, b))
                row_of.append(a * units + each)
                column_of.append(b * units + each)
    for number, link in enumerate(links):
        if link.source != "h":
            continue
        for a in range(entries):
            gates = tuple(g for g, drive in enumerate(link.drives) if used[a][entries + drive])
            if gates:
                linked.append((number, a, gates))
                index = link.links.index()
                index = index[:, :1] if index.shape[1] == 1 else index[:, np.array(gates)]
                index = np.broadcast_to(index, (index.shape[0], index.shape[1], units))
                row_of.append(np.broadcast_to(a * units + each, index.shape).ravel())
                # Padding, no link, reads a row beyond the last, which is never kept.
                column_of.append(np.where(index < units, emits * units + index, entries * units).ravel())
    row_of, column_of = np.concatenate(row_of), np.concatenate(column_of)
    slots = np.arange(len(row_of))

    # Kept rows of J, as (state row, entered unit).
    kept = np.tile(reach, (entries, 1))
    position = np.full((len(kept) + 1, units), -1)
    row, unit = np.nonzero(kept)
    position[row, unit] = np.arange(len(row))

    # Terms: for every kept row (r, u) and every non-zero D[r, r'] with (r', u) kept.
    order = np.argsort(row_of, kind="stable")
    starts = np.searchsorted(row_of[order], np.arange(units * entries + 1))
    per_row = np.diff(starts)[row]
    term_row = np.repeat(np.arange(len(row)), per_row)
    offset = np.arange(len(term_row)) - np.repeat(np.cumsum(per_row) - per_row, per_row)
    slot = slots[order][starts[row[term_row]] + offset]
    source = position[column_of[slot], unit[term_row]]
    inside = source >= 0
    term_row, slot, source = term_row[inside], slot[inside], source[inside]

    counts = np.bincount(term_row, minlength=len(row))
    entered = row % units == unit
    padded = _round_up(counts)
    new_order = np.lexsort((np.arange(len(row)), padded, entered))
    rank = np.empty(len(row), int)
    rank[new_order] = np.arange(len(row))

    first = np.cumsum(counts) - counts
    as_index = lambda a: np.ascontiguousarray(a, np.int32)
    classes, slots_of = [], []
    for flag, count in sorted(set(zip(entered.tolist(), padded.tolist(), strict=True))):
        members = new_order[(entered[new_order] == flag) & (padded[new_order] == count)]
        slot_of = np.full((count, len(members)), len(row_of))  # the extra slot holds zero
        source_of = np.zeros((count, len(members)), int)
        for t in range(count):
            has = counts[members] > t
            at = first[members[has]] + t
            slot_of[t, has] = slot[at]
            source_of[t, has] = rank[source[at]]
        add = (row[members] // units) * units + unit[members] if flag else None
        slots_of.append(slot_of.ravel())
        classes.append(Rows(len(members), [*map(as_index, source_of)], add))
    slots = as_index(np.concatenate(slots_of))
    return Plan(as_index(unit[new_order]), as_index(row[new_order]), slots, classes, own, linked, len(slot))


def _round_up(counts: np.ndarray) -> np.ndarray:
    """Few classes: counts up to 8 as they are, larger ones up to the next of 8 steps an octave."""
    step = 2 ** np.maximum(0, np.floor(np.log2(np.maximum(counts, 1))).astype(int) - 2)
    return -(-counts // step) * step
