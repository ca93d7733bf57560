"""SnAp-1 with a low-rank sketch of what it drops."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.dtypes import real_factor, trace_dtype
from ..influence import immediate, own_dynamics, per_unit, unpack
from ._algorithm import Online
from ._decompositions import qr
from ._drives import dynamics, require_bank
from ._jvp_vjp import traits


class Sketched(Online):
    r"""Sketched RTRL: SnAp-1, and a low-rank sketch of the influence that it drops, $J_t \approx P_t + L R_t$.

    $$P_t = I_t + D^{\text{own}}_t P_{t-1}, \qquad
      R_t = L^\top \left( (D_t - D^{\text{own}}_t) P_{t-1} + D_t L R_{t-1} \right), \qquad
      g_t = \delta_t (P_t + L R_t)$$

    P keeps each parameter's effect on its own unit; the rest is projected on r directions in the space of states,
    the orthonormal columns of L, drawn at random for each stream and sequence. r = 0 is `SnAp(1)`, r = the number of
    state rows is `RTRL`.

    - `rank`: r >= 0; more than there are rows counts as all. Memory r times the parameters, beside SnAp-1's.

    Raises `ValueError` for a negative rank, `TypeError` when bound to a core that is not made of drives.

    Reference: the sparse part is Menick et al., 2020; a sketch of the remainder by random projection is our form of
    low-rank RTRL.
    """

    rank: int = eqx.field(static=True, default=4)

    def __check_init__(self):
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 0:
            raise ValueError(f"Sketched(rank) needs an integer rank >= 0, got {self.rank!r}.")

    def bind(self, core: Any, state, x):
        require_bank(self, core)
        return dataclasses.replace(self, rank=min(self.rank, core.entries * core.units))

    def init(self, core: Any, state, *, key):
        dtype, rows, p = trace_dtype(core.dtype), core.entries * core.units, per_unit(core)
        basis, _ = qr(jax.random.normal(key, (rows, self.rank), dtype))
        return jnp.zeros((core.entries, core.units, p), dtype), jnp.zeros((self.rank, core.units, p), dtype), basis

    def advance(self, core: Any, trace, state, x, context):
        del context
        own, sketch, basis = trace
        step, dtype = core.linearise(state, x), own.dtype
        d = dynamics(core, step).astype(dtype)
        within = _within(core, step, dtype)
        # Lᵀ (D - D_own) P: unit i's parameters act through the columns of unit i alone.
        projected = basis.conj().T @ d
        by_unit = basis.conj().reshape(core.entries, core.units, -1)
        across = projected.reshape(-1, core.entries, core.units) - jnp.einsum("aur,abu->rbu", by_unit, within)
        remainder = jnp.einsum("rbu,bup->rup", across, own) + jnp.tensordot(projected @ basis, sketch, 1)
        own = jnp.einsum("abu,bup->aup", within, own) + immediate(core, step, dtype)
        return step.state, (own, remainder, basis), (own, remainder, basis)

    def pullback(self, core: Any, residual, cotangent: Any):
        own, sketch, basis = residual
        delta = cotangent.astype(own.dtype)
        gradient = jnp.einsum("au,aup->up", delta, own) + jnp.tensordot(delta.reshape(-1) @ basis, sketch, 1)
        return None, unpack(core, gradient)

    def traits(self, core: Any):
        structure = core.structure
        rows = core.entries * core.units
        exact = self.rank >= rows or structure.diagonal()
        return traits(
            core,
            bias="exact" if exact else "biased",
            reason="no unit reads another one: nothing is left to sketch"
            if structure.diagonal()
            else f"what reaches other units is kept along {self.rank} of {rows} directions",
            kept=(core.entries + self.rank) * structure.parameters + rows * self.rank,
            flops=2
            * real_factor(core.dtype)
            * (core.entries**2 + self.rank * (core.entries + self.rank))
            * structure.parameters,
            temporaries=(core.entries + self.rank) * structure.parameters,
            layout=f"each parameter's effect on its own unit, and {self.rank} directions for the others",
            reference="Menick et al. 2020; random projection",
        )


def _within(core, step, dtype):
    """D within each unit, (entry, old entry, units)."""
    rows = own_dynamics(core, step)
    zero = jnp.zeros(core.units, dtype)
    return jnp.stack([jnp.stack([zero if d is None else d.astype(dtype) for d in row]) for row in rows])
