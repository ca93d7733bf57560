"""RTRL along few random paths."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base.dtypes import real_factor, trace_dtype
from ..influence import immediate, per_unit, unpack
from ._algorithm import Online
from ._drives import dynamics, require_bank
from ._jvp_vjp import traits


class RandomK(Online):
    r"""Sparse RTRL along random paths: into each unit, of all units only k carry their influence on.

    $$J_t = I_t + (R \circ D_t)\, J_{t-1}, \qquad g_t = \delta_t J_t$$

    R keeps k units for each row of D, the unit itself and others drawn at random without repetition for each stream
    and sequence; all state entries of a unit together. k = 1 is `SnAp(1)`, k = the number of units `RTRL`; between
    them it is biased. Memory is that of `RTRL`, a step k/units of its product.

    - `k`: at least 1; more than the number of units counts as all.

    Raises `ValueError` for k below 1, `TypeError` when bound to a core that is not made of drives.

    Reference: Shalev-Merin, Massive redundancy in gradient transport enables sparse online learning, 2026
    (2603.15195). Which paths, and that they stay, is our choice.
    """

    k: int = eqx.field(static=True, default=4)

    def __check_init__(self):
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise ValueError(f"RandomK(k) needs an integer k >= 1, got {self.k!r}.")

    def bind(self, core: Any, state, x):
        require_bank(self, core)
        return dataclasses.replace(self, k=min(self.k, core.units))

    def init(self, core: Any, state, *, key):
        del state
        shape = (core.entries, core.units, core.units, per_unit(core))  # entry, unit; entered unit, its parameters
        steps = jax.vmap(lambda key: jax.random.permutation(key, core.units - 1)[: self.k - 1])
        others = 1 + steps(jax.random.split(key, core.units)).T.astype(jnp.int32)  # further round than the unit itself
        own = jnp.zeros((1, core.units), others.dtype)
        paths = (jnp.concatenate([own, others]) + jnp.arange(core.units, dtype=others.dtype)[None]) % core.units
        return jnp.zeros(shape, trace_dtype(core.dtype)), paths

    def advance(self, core: Any, trace, state, x, context):
        del context
        influence, paths = trace
        step, each = core.linearise(state, x), np.arange(core.units)
        d = dynamics(core, step).astype(influence.dtype)
        d = d.reshape(core.entries, core.units, core.entries, core.units)

        def one_path(total, chosen):  # into each unit
            through = d[:, each, :, chosen]  # unit, entry, old entry
            return total + jnp.einsum("uab,bu...->au...", through, influence[:, chosen]), None

        new = jax.lax.scan(one_path, jnp.zeros_like(influence), paths, unroll=8)[0]
        new = new.at[:, each, each].add(immediate(core, step, influence.dtype))
        return step.state, (new, paths), new

    def pullback(self, core: Any, residual, cotangent: Any):
        gradient = jnp.tensordot(cotangent.astype(residual.dtype), residual, 2)
        return None, unpack(core, gradient)

    def traits(self, core: Any):
        structure, all_ = core.structure, self.k >= core.units or core.structure.diagonal()
        size = structure.rows * structure.parameters
        found = traits(
            core,
            bias="exact" if all_ else "biased",
            reason=f"{self.k} of {core.units} units carry influence into each unit"
            + (", all that do" if all_ else ", the others of them drawn at random"),
            kept=size,
            flops=2 * real_factor(core.dtype) * self.k * core.entries * size,
            temporaries=size,
            layout="all of J, updated along random paths",
            reference="Shalev-Merin 2026, arXiv 2603.15195",
        )
        return dataclasses.replace(found, bytes=found.bytes + 4 * self.k * core.units)  # the paths
