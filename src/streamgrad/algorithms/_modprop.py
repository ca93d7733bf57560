"""ModProp: error that units send back over many hops, filtered."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.dtypes import trace_dtype
from ..influence import StateTraces
from ._algorithm import Online
from ._drives import drive_cotangent, require_bank
from ._jvp_vjp import traits
from ._types import averaged, checked_types, members


class ModProp(Online):
    r"""ModProp: e-prop, plus how a unit acted on the error of all others over any number of hops, by types.

    $$m^\alpha_t = \bar W_{\alpha\beta}\, \epsilon_{t-1}
      + \mu \sum_\gamma N_\gamma \bar W_{\alpha\gamma} m^\gamma_{t-1}, \qquad
      g_t = \delta_t\, \epsilon_t + \sum_\alpha \Big(\sum_{j \in \alpha} \delta_j K_j\Big) m^\alpha_t$$

    for a parameter that enters a unit of type β. $\epsilon$ is e-prop's trace, K the derivative of a unit's state by
    its drive, $\bar W$ the mean recurrent weight between units of two types over all pairs, $N_\gamma$ the number of
    units of a type. $m^\alpha$ sums over hops s the filter $\mu^{s-1} \overline{W^s}$: every hop after the first
    counts for $\mu$, in place of the derivative of the unit that it passes.

    - `types`: as of `MDGL`; memory is one trace for each type (None: one for each unit);
    - `decay`: μ >= 0; with 0 it is MDGL.

    It stays bounded while $\mu$ times the largest eigenvalue of $N_\gamma \bar W_{\alpha\gamma}$ is below 1: nothing
    else holds the hops together, since the derivatives of the units are left out.

    Raises `TypeError` when bound to anything but a cell made of drives, one of which hears the other units;
    `ValueError` for types or a decay that do not fit.

    Reference: Liu et al., Biologically-plausible backpropagation through arbitrary timespans via local
    neuromodulators, 2022 (2206.01338).
    """

    types: int | tuple[int, ...] | None = eqx.field(static=True, default=1)
    decay: float = eqx.field(static=True, default=0.5)

    def __check_init__(self):
        if not self.decay >= 0:
            raise ValueError(f"ModProp(decay=μ) needs μ >= 0, got {self.decay!r}.")

    def bind(self, core: Any, state, x):
        hears = [g for link in getattr(core, "links", ()) if link.source == "h" for g in link.drives]
        need = "a cell made of drives, one of which hears the other units"
        fits = len(hears) == 1
        require_bank(self, core, fits=fits, need=need, instead="sg.cells.Vanilla, LeakyRNN, LIF or ALIF")
        self._types(core)
        return self

    def _types(self, core) -> tuple[int, ...]:
        return checked_types("ModProp", self.types, core.units)

    def init(self, core: Any, state, *, key):
        del state, key
        count = max(self._types(core)) + 1
        zero = lambda weights: jnp.zeros((count, *weights.shape), trace_dtype(weights.dtype))
        return StateTraces().init(core), tuple(zero(weights) for weights in core.weights)

    def advance(self, core: Any, trace, state, x, context):
        del context
        eligibility, hops = trace
        of = members(self._types(core))
        (mean,) = averaged(core, self._types(core))[0]
        mean = mean.astype(hops[0].dtype)
        to_unit = (mean @ jnp.asarray(of, mean.dtype))[:, None, None]  # (α, 1, 1, units): W̄ from each unit's type
        onward = self.decay * mean * jnp.asarray(of.sum(1), mean.dtype)[None]
        drive = core.linearise(state, x).drive
        pairs = zip(eligibility, hops, strict=True)
        hops = tuple(to_unit * rows[core.emits][None] + jnp.tensordot(onward, m, 1) for rows, m in pairs)
        new, eligibility = StateTraces().advance(core, eligibility, state, x)
        return new, (eligibility, hops), (eligibility, hops, drive)

    def pullback(self, core: Any, residual, cotangent: Any):
        eligibility, hops, drive = residual
        (heard,) = [g for link in core.links if link.source == "h" for g in link.drives]
        error = jnp.asarray(members(self._types(core)), core.dtype) @ drive_cotangent(core, drive, cotangent)[heard]
        own = StateTraces().pullback(core, eligibility, cotangent)
        far = tuple(
            jnp.tensordot(error.astype(m.dtype), m, 1).astype(w.dtype) for m, w in zip(hops, core.weights, strict=True)
        )
        return None, eqx.tree_at(lambda bank: bank.weights, own, jax.tree.map(jnp.add, own.weights, far))

    def traits(self, core: Any):
        count, size = max(self._types(core)) + 1, core.structure.parameters
        return traits(
            core,
            bias="biased",
            reason="what passes through other units is kept by averages over types, their derivatives by a constant",
            kept=(core.entries + count) * size,
            flops=(2 * core.entries**2 + 2 * count**2 + 4 * count) * size,
            temporaries=count * size,
            layout=f"each parameter's effect along its unit's own state, and on {count} types",
            reference="Liu et al. 2022, arXiv 2206.01338",
        )
