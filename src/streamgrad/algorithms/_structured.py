"""What SnAp and RTRL share: an algorithm that keeps a structured influence."""

from __future__ import annotations

import abc
import dataclasses
import functools
from typing import Any

import equinox as eqx

from ..influence import Layout, PerUnit, plan
from ._algorithm import Online, Traits
from ._unroll import backwards, by_state


class Structured(Online):
    r"""Keeps $J_t = M \circ (I_t + D_t J_{t-1})$; a subclass says which pattern M."""

    layout: Layout | None = eqx.field(static=True, default=None, kw_only=True, repr=False)

    @property
    @abc.abstractmethod
    def order(self) -> int | None:
        """n of the pattern `M_n`; None for the closed one."""

    def bind(self, core, state, x):
        del state, x
        return dataclasses.replace(self, layout=plan(core, self.order))

    def _bound(self) -> Layout:
        if self.layout is None:
            raise ValueError(
                f"{type(self).__name__} was used before it knew its cell: give it to sg.Recurrent(cell, algorithm), "
                "or call algorithm.bind(core, state, x) first."
            )
        return self.layout

    def init(self, core, state, *, key):
        del state, key
        return self._bound().init(core)

    def advance(self, core, trace, state, x, context):
        del context
        state, trace = self._bound().advance(core, trace, state, x)
        return state, trace, trace

    def pullback(self, core, residual, cotangent):
        return None, self._bound().pullback(core, residual, cotangent)

    def told_by_row(self, core):
        return self._bound().told_by_row(core)

    def check_unroll(self, core):
        if not (isinstance(self._bound(), PerUnit) or self._closed(core)):
            raise TypeError(
                f"{type(self).__name__}(n={self.order}) on this cell has no chunked gradient: its open pattern is not "
                "one pass backwards in time. Run it one step at a time, or choose RTRL(), or SnAp(1) on a cell made of "
                "drives."
            )

    def backward_credit(self, core: Any, before, xs, delta, starts):
        if isinstance(layout := self._bound(), PerUnit):
            return backwards(layout.back, functools.partial(layout.dynamics, core), before, xs, delta, starts)
        return backwards(by_state(core), lambda s, x: (s, x), before, xs, delta, starts)

    def _closed(self, core) -> bool:
        if self.order is None:
            return True
        return core.structure.closed(self.order) and self._bound().whole(core, self.order)

    def _traits(self, core, reference: str) -> Traits:
        structure, layout = core.structure, self._bound()
        n = structure.horizon() if self.order is None else self.order
        whole = layout.whole(core, n)
        exact = structure.closed(n) and whole
        reached, all_ = structure.kept(n), structure.rows * structure.parameters
        if not whole:
            reached = structure.rows // structure.units * structure.parameters
            reason = (
                "what a unit sees of the others is held fixed: each parameter keeps its effect on its own unit alone"
            )
        elif exact:
            reason = f"no parameter reaches a new unit after {n} step{'s'[: n != 1]}: M_{n + 1} = M_{n}"
        else:
            missing = structure.kept(structure.horizon()) - reached
            reason = (
                f"M_{n + 1} is larger than M_{n}: parameters reach further units after {n} step{'s'[: n != 1]}, and "
                f"{missing:,} entries of J that exact RTRL keeps are dropped"
            )
        return Traits(
            bias="exact" if exact else "biased",
            reason=reason,
            exact_at_one_step=True,
            zero_leaves=(),
            kept=reached,
            full=all_,
            bytes=layout.nbytes(core),
            temporaries=layout.temporaries(core),
            flops=layout.flops(core),
            layout=layout.describe(),
            reference=reference,
        )
