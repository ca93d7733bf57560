"""The layout of any SnAp-n on a cell given as a function."""

from __future__ import annotations

import dataclasses
import functools

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from .._base.dtypes import trace_dtype
from ..cells import FunctionCore
from ..cells._function_core import cotangent_rows, flat, unflat
from ..structure import Structure
from ._layout import Layout


@dataclasses.dataclass(frozen=True)
class Columnwise(Layout[FunctionCore]):
    """J as (m, parameters): for each parameter the m state rows that it reaches, padded to the most that any
    reaches. With m equal to the number of rows it is the full J and the update is one matrix product.
    """

    n: int

    def init(self, core):
        rows, _ = _kept(core.structure, self.n)
        dtype = flat(core.parameters).dtype
        return jnp.zeros((rows.shape[0], core.structure.parameters), trace_dtype(dtype))

    def advance(self, core, trace, state, x):
        new, by_parameter, by_row, colour = core.linearise(state, x)
        by_parameter, by_row = by_parameter.astype(trace.dtype), by_row.astype(trace.dtype)
        structure, group = core.structure, core.groups.value
        entry = structure.entry_unit.value
        touched = structure.reach(1)[entry]  # (rows, groups)
        d = jnp.where(structure.reads_matrix()[np.ix_(entry, entry)], by_row[colour], 0)
        rows, kept = _kept(structure, self.n)
        if len(rows) == structure.rows:
            i = jnp.where(touched[:, group], by_parameter[colour], 0)
            j = i + d @ trace
            return new, j if kept.all() else jnp.where(kept[:, group], j, 0)
        # Rows are the same for all parameters of a group; `inside` is False on padding.
        at, inside = rows[:, group], kept[:, group]
        j = jnp.where(inside & touched[at, group], by_parameter[colour[at], np.arange(len(group))], 0)
        for q in range(len(rows)):
            j = j + jnp.where(inside & inside[q : q + 1], d[at, at[q : q + 1]], 0) * trace[q : q + 1]
        return new, j

    def pullback(self, core, trace, cotangent):
        delta = cotangent_rows(cotangent).astype(trace.dtype)
        rows, kept = _kept(core.structure, self.n)
        group = core.groups.value
        if len(rows) == core.structure.rows:
            grad = delta @ trace
        else:
            grad = jnp.sum(jnp.where(kept[:, group], delta[rows[:, group]], 0) * trace, axis=0)
        parameters, fixed = eqx.partition(core.parameters, eqx.is_inexact_array)
        return eqx.tree_at(lambda c: c.parameters, core, eqx.combine(unflat(grad, parameters), fixed))

    def flops(self, core):
        rows, _ = _kept(core.structure, self.n)
        return 2 * len(rows) ** 2 * core.structure.parameters

    def describe(self):
        return "for each parameter, the state rows that it reaches"


@functools.lru_cache(maxsize=32)
def _kept(structure: Structure, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Kept rows of each group, (m, groups), and which of them are not padding. When some group reaches every
    row, or gathering would cost more than the full product, rows are all rows and `kept` is the pattern."""
    reach = structure.reach(n)[structure.entry_unit.value]  # (rows, groups)
    m = int(reach.sum(0).max())
    if 8 * m * m >= structure.rows**2 or m == structure.rows:
        return np.broadcast_to(np.arange(structure.rows)[:, None], reach.shape), reach
    first = np.argsort(~reach, axis=0, kind="stable")[:m]
    return first, np.take_along_axis(reach, first, axis=0)
