"""The layout of SnAp-1 on units given by a function: each parameter's effect on its own unit."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.dtypes import trace_dtype
from ..cells import FunctionCore
from ..cells._function_core import to_units
from ._layout import Layout


@dataclasses.dataclass(frozen=True)
class PerUnitFunction(Layout[FunctionCore]):
    r"""One trace per state entry of a unit, shaped like the parameters (units last). What a unit sees of the others is
    held fixed, also what they show within the step:

        J[a] <- sum_b D[a, b] J[b] + I[a]

    with D and I of the unit's step alone, by one pull-back of ones for each entry: linear in the units. Exact when
    no unit sees another one.
    """

    def init(self, core):
        parameters = eqx.filter(core.parameters, eqx.is_inexact_array)
        entries = core.structure.rows // core.structure.units
        return jax.tree.map(lambda leaf: jnp.zeros((entries, *leaf.shape), trace_dtype(leaf.dtype)), parameters)

    def advance(self, core, trace, state, x):
        new, immediate, own = core.linearise_apart(state, x)
        back = lambda j, row: sum(d.astype(j.dtype) * j[b] for b, d in enumerate(row))
        advanced = lambda j, i: jnp.stack([back(j, row) + i[a].astype(j.dtype) for a, row in enumerate(own)])
        return new, jax.tree.map(advanced, trace, immediate)

    def pullback(self, core, trace, cotangent):
        delta = to_units(cotangent)
        parameters, fixed = eqx.partition(core.parameters, eqx.is_inexact_array)

        def contract(j, p):
            terms = [d.astype(j.dtype) * row for d, row in zip(delta, j, strict=True)]
            return sum(terms[1:], terms[0]).astype(p.dtype)

        gradient = jax.tree.map(contract, trace, parameters)
        return eqx.tree_at(lambda c: c.parameters, core, eqx.combine(gradient, fixed))

    def whole(self, core, n):
        del n
        return core.structure.diagonal()

    def flops(self, core):
        entries = core.structure.rows // core.structure.units
        return (2 * entries + 1) * entries * core.structure.parameters

    def describe(self):
        return "one trace per parameter and state entry, of its own unit"
