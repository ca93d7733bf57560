"""What RFLO, e-prop and OTPE share: a trace along each unit's own state, and what a leak above makes of it."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

import jax

from ..influence import StateTraces
from ._algorithm import Traits
from ._drives import require_bank
from ._structured import Structured


class NoLinkTraces(Structured):
    """Keeps each parameter's effect along its unit's own state, what links say held fixed."""

    @property
    def order(self):
        return 1

    def bind(self, core: Any, state, x):
        require_bank(self, core)
        return dataclasses.replace(self, layout=StateTraces())


class Filtered(NoLinkTraces):
    r"""Traces like those of `NoLinkTraces`, then filtered, $\bar\epsilon_t = \kappa\,\bar\epsilon_{t-1} + \epsilon_t$:
    through a leak above the layer, what it showed in the past still acts on the present. A subclass says which κ; at 0
    there is no second trace."""

    @property
    @abc.abstractmethod
    def kappa(self) -> float:
        """κ, in [0, 1)."""

    def told_by_row(self, core):
        return ()  # of filtered traces it is not shown

    def init(self, core: Any, state, *, key):
        trace = lambda: super(Filtered, self).init(core, state, key=key)
        return (trace(), trace()) if self.kappa else trace()

    def advance(self, core: Any, trace, state, x, context):
        if not self.kappa:
            return super().advance(core, trace, state, x, context)
        trace, filtered = trace
        new, trace, _ = super().advance(core, trace, state, x, context)
        filtered = jax.tree.map(lambda old, now: self.kappa * old + now, filtered, trace)
        return new, (trace, filtered), filtered

    def check_unroll(self, core: Any):
        if self.kappa:
            raise self._no_chunk()
        super().check_unroll(core)

    def _filtered_traits(self, core: Any, reference: str, above: str) -> Traits:
        """`above`: what filters, in words."""
        traits = self._traits(core, reference)
        if not self.kappa:
            return traits
        reason = f"each spike's effect is filtered as by {above}, " + traits.reason
        twice = {name: 2 * getattr(traits, name) for name in ("kept", "bytes", "temporaries")}
        flops = traits.flops + 2 * traits.kept
        return dataclasses.replace(traits, bias="biased", reason=reason, flops=flops, **twice)
