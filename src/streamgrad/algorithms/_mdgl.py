"""Multidigraph learning: eligibility traces, and error that neighbours send back."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.ranks import in_rank
from ..influence import StateTraces
from ._algorithm import Online
from ._drives import drive_cotangent, heard_back, require_bank
from ._jvp_vjp import traits
from ._types import checked_types, said_back


class MDGL(Online):
    r"""Multidigraph learning: e-prop, plus how a unit acted one step ago on the error of the units that hear it.

    $$\epsilon_t = \left.\frac{\partial s_t}{\partial s_{t-1}}\right|_{\text{drives}} \epsilon_{t-1} + I_t, \qquad
      g_{t} = \delta_t\, \epsilon_t + \Big(\sum_j \delta_j K_j \bar W_{ji}\Big) \epsilon_{t-1}$$

    with K the derivative of a unit's state by its drives, and $\bar W$ the recurrent weights, averaged over all pairs
    of units of two *types*: a unit broadcasts its error to whole types, not along single synapses. `types`:

    - None: every unit is a type of its own, and $\bar W = W$;
    - an integer C: unit i has type i mod C;
    - a tuple of integers, one for each unit.

    Raises `TypeError` when bound to a core that is not made of drives or whose units do not hear each other,
    `ValueError` for types that do not fit.

    Reference: Liu et al., Cell-type-specific neuromodulation guides synaptic credit assignment in a spiking neural
    network, 2021.
    """

    types: int | tuple[int, ...] | None = eqx.field(static=True, default=None)

    def bind(self, core: Any, state, x):
        heard = any(link.source == "h" for link in getattr(core, "links", ()))
        need = "a cell made of drives whose units hear each other"
        require_bank(self, core, fits=heard, need=need, instead="sg.cells.Vanilla, GRU, LSTM, LeakyRNN, LIF or ALIF")
        checked_types("MDGL", self.types, core.units)
        return self

    def init(self, core: Any, state, *, key):
        del state, key
        return StateTraces().init(core)

    def advance(self, core: Any, trace, state, x, context):
        del context
        drive = core.linearise(state, x).drive
        new, now = StateTraces().advance(core, trace, state, x)
        before = tuple(rows[core.emits] for rows in trace)
        return new, now, (now, before, drive)

    def pullback(self, core: Any, residual, cotangent: Any):
        now, before, drive = residual
        by_drive = drive_cotangent(core, drive, cotangent)
        if self.types is None:
            heard = heard_back(core, by_drive)
        else:
            heard = said_back(core, checked_types("MDGL", self.types, core.units), by_drive)
        own = StateTraces().pullback(core, now, cotangent)
        hop = tuple(
            (in_rank(heard, j.ndim).astype(j.dtype) * j).astype(w.dtype)
            for j, w in zip(before, core.weights, strict=True)
        )
        return None, eqx.tree_at(lambda bank: bank.weights, own, jax.tree.map(jnp.add, own.weights, hop))

    def traits(self, core: Any):
        size = core.entries * core.structure.parameters
        whose = "their own weights" if self.types is None else "weights averaged over types"
        return traits(
            core,
            bias="biased",
            reason=f"of what passes through other units one hop is kept, by {whose}",
            kept=size,
            flops=(2 * core.entries + 3) * size,
            layout="each parameter's effect along its unit's own state, shaped like the weights",
            reference="Liu et al. 2021",
        )
