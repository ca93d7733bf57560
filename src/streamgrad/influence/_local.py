"""The layout of SnAp-1 on a bank: each parameter's effect on its own unit."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp

from .._dtypes import trace_dtype
from ..cells import Bank
from ._layout import Layout


@dataclasses.dataclass(frozen=True)
class Local(Layout[Bank]):
    r"""One trace per state entry, shaped like the weights: no index arrays, no gather.

    For a weight of gate g of unit i with input q, over the entries a, b of unit i,

        J[a] <- sum_b D[a, b] J[b] + K[a, g] q

    with D the unit's own block of the dynamics, its link to itself included. Exact when no unit reads
    another one. `trace[l][a]` belongs to link l and entry a.
    """

    def init(self, core):
        zero = lambda weights: jnp.zeros(weights.shape, trace_dtype(weights.dtype))
        return tuple(tuple(zero(weights) for _ in range(core.entries)) for weights in core.weights)

    def advance(self, core, trace, state, x):
        step = core.linearise(state, x)
        dtype = trace[0][0].dtype
        cast = lambda tree: jax.tree.map(lambda leaf: leaf.astype(dtype), tree)
        # The coefficients are small and shared by all parameters of a unit: computed once, not per parameter.
        within, by_drive, inputs = jax.lax.optimization_barrier(
            (cast(own_dynamics(core, step)), cast(gate_coefficients(core, step)), cast(step.inputs))
        )
        new = []
        for old, coefficients, q in zip(trace, by_drive, inputs, strict=True):
            rows = []
            for a in range(core.entries):
                terms = [d * j for d, j in zip(within[a], old, strict=True) if d is not None]
                if coefficients[a] is not None:
                    terms.append(coefficients[a] * q)
                rows.append(sum(terms[1:], terms[0]) if terms else jnp.zeros_like(old[a]))
            new.append(tuple(rows))
        return step.state, tuple(new)

    def pullback(self, core, trace, cotangent):
        grads = []
        for weights, rows in zip(core.weights, trace, strict=True):
            grad = sum(delta.astype(row.dtype) * row for delta, row in zip(cotangent, rows, strict=True))
            grads.append(grad.astype(weights.dtype))
        return eqx.tree_at(lambda bank: bank.weights, core, tuple(grads))

    def flops(self, core):
        per_entry = 2 * core.entries + 1
        real = 4 if jnp.issubdtype(core.dtype, jnp.complexfloating) else 1
        return real * per_entry * core.entries * sum(weights.size for weights in core.weights)

    def describe(self):
        return "each parameter's effect on its own unit, shaped like the weights"


def own_dynamics(core: Bank, step):
    """D within each unit, `[a][b]` -> (units,) or None: its own state, and its link to itself."""
    within = [list(row) for row in step.own]
    for link, weights in zip(core.links, core.weights, strict=True):
        if link.source != "h" or (itself := link.links.own(weights)) is None:
            continue
        for a in range(core.entries):
            for g, weight in zip(link.drives, itself, strict=True):
                if (k := step.drive[a][g]) is not None:
                    so_far = within[a][core.emits]
                    within[a][core.emits] = k * weight if so_far is None else so_far + k * weight
    return within


def gate_coefficients(core: Bank, step):
    """K as `[l][a]` -> (gates, units), for the gates of link l; None where a whole row is zero."""
    table = []
    for link in core.links:
        rows = []
        for a in range(core.entries):
            gates = [step.drive[a][g] for g in link.drives]
            zero = jnp.zeros(core.units, core.dtype)
            stacked = jnp.stack([zero if k is None else k for k in gates])
            rows.append(None if all(k is None for k in gates) else stacked)
        table.append(rows)
    return table
