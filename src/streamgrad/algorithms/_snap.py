"""SnAp-n: the sparse n-step approximation to real-time recurrent learning."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.dtypes import real_factor
from ..cells import Bank
from ..influence import INPUTS_A_STEP, Deferred, PerUnit, plan
from ..wiring import DenseLinks
from ._algorithm import instantaneous
from ._structured import Structured

PRESENT = ("kept", "full")


class SnAp(Structured):
    r"""Sparse n-step approximation: keep the entries of J that a parameter reaches within n steps.

    $$J_t = M_n \circ (I_t + D_t J_{t-1}), \qquad M_n = \bigvee_{k<n} A^k\, \mathrm{pattern}(I), \qquad
      g_t = \frac{\partial L_t}{\partial s_t} J_t$$

    The pattern is structural, never taken from values. The gradient is exact when $M_{n+1} = M_n$: for
    diagonal cells and columns at n = 1, for dense cells at n = 2. SnAp-1 keeps each parameter's effect on its
    own unit, at the cost of a few passes over the weights; a reached unit keeps all its state entries.

    - `n`: how many steps, at least 1;
    - `only`: names of the parameters of the recurrence that have a trace, None for all; the others get the gradient
      of the present step alone. `SnAp(1, only=("lambda", "gamma"))` on an LRU keeps two numbers a unit. With n = 1,
      or a cell whose units do not read each other;
    - `present`: `"kept"`, as above; or `"full"`: the trace is the same, and the present step counts with all of D,

      $$g_t = \left( \frac{\partial L_t}{\partial s_t} D_t \right) J_{t-1} + \frac{\partial L_t}{\partial s_t} I_t,$$

      at the price of one step's backward pass and of the old trace, which stays until then: what a parameter did to its
      own units one step ago now counts for all units that read them.
    - `defer`: None, or a number of steps, 16 say: the traces of dense weights are written once in so many steps, and
      what came since is kept apart. The gradient is the same up to rounding. For rare targets, or none: a gradient
      costs more, and one at every step more than is saved. With n = 1 and a cell made of drives that has at least 4
      inputs a deferred step; it pays on large layers of `LRU` and `RTU`, and `sg.explain` counts what it saves.

    Raises `ValueError` for n < 1, another `present`, `defer` where it saves nothing and, when bound, for names that the
    core does not have; `TypeError` for a core that cannot be linearised or, with `only` or `defer`, is not made of
    drives.

    Reference: Menick et al., A practical sparse approximation for real time recurrent learning, 2020
    (2006.07232).
    """

    n: int = eqx.field(static=True, default=1)
    only: tuple[str, ...] | None = eqx.field(static=True, default=None)
    present: str = eqx.field(static=True, default="kept")
    defer: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if isinstance(self.n, bool) or not isinstance(self.n, int) or self.n < 1:
            raise ValueError(f"SnAp(n) needs an integer n >= 1, got {self.n!r}: SnAp(1) is the cheapest.")
        named = isinstance(self.only, tuple) and all(isinstance(name, str) for name in self.only) and self.only
        if self.only is not None and not named:
            raise ValueError(f'SnAp(only=...) is a tuple of names such as ("lambda", "gamma"), got {self.only!r}.')
        if self.present not in PRESENT:
            raise ValueError(f"SnAp(present=...) is one of {PRESENT}, got {self.present!r}.")
        if self.defer is None:
            return
        if isinstance(self.defer, bool) or not isinstance(self.defer, int) or self.defer < 2:
            raise ValueError(f"SnAp(defer=...) is a number of steps, at least 2, or None, got {self.defer!r}.")
        if self.present == "full":
            raise ValueError(
                'SnAp(defer=..., present="full") would keep the old trace beside the new one at every step: leave one '
                "of them out."
            )

    @property
    def order(self):
        return self.n

    @property
    def defers(self):
        return self.defer is not None

    def bind(self, core, state, x):
        layout = plan(core, self.n) if self.defer is None else self._deferred(core, self.defer)
        if self.only is None:
            return dataclasses.replace(self, layout=layout)
        if not isinstance(core, Bank) or not isinstance(layout, PerUnit):
            raise TypeError(
                f"SnAp(n={self.n}, only=...) leaves out traces that belong to one unit each: it needs n=1 and a cell "
                f"made of drives, got n={self.n} and {type(core).__name__}. Use SnAp(1, only=...), or leave only out."
            )
        names = list(dict.fromkeys(link.name for link in core.links))
        if unknown := [name for name in self.only if name not in names]:
            raise ValueError(f"SnAp(only=...): this cell has no {unknown[0]!r}; its recurrence has {', '.join(names)}.")
        return dataclasses.replace(self, layout=dataclasses.replace(layout, only=self.only))

    def _deferred(self, core, steps: int) -> Deferred:
        """Refuses cores for which deferred traces would be wrong, or save nothing."""
        if not isinstance(core, Bank) or self.n != 1:
            raise TypeError(
                f"SnAp(n={self.n}, defer=...) defers traces that belong to one unit each: it needs n=1 and a cell made "
                f"of drives, got n={self.n} and {type(core).__name__}. Use SnAp(1, defer=...), or leave defer out."
            )
        layout = Deferred(self.only, steps)
        if not any(layout.deferred(core)):
            sizes = [link.links.fan_in for link in core.links if isinstance(link.links, DenseLinks)]
            raise ValueError(
                f"SnAp(1, defer={steps}) saves nothing here: it needs dense weights of at least "
                f"{INPUTS_A_STEP * steps} inputs, this cell's have {max(sizes, default='none')}. Defer fewer steps, or "
                "leave defer out."
            )
        return layout

    def advance(self, core, trace, state, x, context):
        old = trace
        new, trace, residual = super().advance(core, trace, state, x, context)
        if self._looks_back(core):
            return new, trace, (old, state, x)
        return new, trace, residual if self.only is None else (residual, state, x)

    def _looks_back(self, core) -> bool:
        """Whether the present step is taken apart from the trace: where nothing is dropped it makes no difference."""
        return self.present == "full" and not self._closed(core)

    def pullback(self, core, residual, cotangent):
        if self._looks_back(core):
            trace, state, x = residual
            parameters, fixed = eqx.partition(core, eqx.is_inexact_array)
            _, pull = jax.vjp(lambda p, state: eqx.combine(p, fixed)(state, x), parameters, state)
            now, before = pull(cotangent)
            past = super().pullback(core, trace, before)[1]
            return None, jax.tree.map(jnp.add, now, eqx.filter(past, eqx.is_inexact_array))
        if self.only is None:
            return super().pullback(core, residual, cotangent)
        trace, state, x = residual
        through_time = super().pullback(core, trace, cotangent)[1]
        now = instantaneous(core, state, x, cotangent)
        choose = lambda kind, t, n: t if kind == "time" else n
        return None, jax.tree.map(choose, self.gradient_source(core), through_time, now)

    def told_by_row(self, core):
        alone = self.only is None and not self._looks_back(core)  # else the gradient is not of the traces alone
        return super().told_by_row(core) if alone else ()

    def check_unroll(self, core):
        if self._looks_back(core):
            raise self._no_chunk()
        super().check_unroll(core)

    def _traced(self, core: Any) -> tuple[bool, ...]:
        return tuple(self.only is None or link.name in self.only for link in core.links)

    def gradient_source(self, core: Any):
        if self.only is None:
            return super().gradient_source(core)
        kinds = tuple("time" if traced else "now" for traced in self._traced(core))
        return eqx.tree_at(lambda bank: bank.weights, eqx.filter(core, eqx.is_inexact_array), kinds)

    def traits(self, core: Any):
        traits = self._traits(core, "Menick et al. 2020, arXiv 2006.07232")
        if isinstance(layout := self._bound(), Deferred):
            traits = dataclasses.replace(traits, layout=f"{traits.layout}: {layout.price(core)}")
        if self._looks_back(core):
            structure = core.structure
            numbers = jax.tree.leaves(eqx.filter_eval_shape(self._bound().init, core))
            each = real_factor(numbers[0].dtype) * 2 * (structure.slopes() + structure.parameters)
            traits = dataclasses.replace(
                traits,
                reason=f"{traits.reason}, from the step before the last on; the present step is full",
                flops=traits.flops + each,
                temporaries=traits.temporaries + traits.bytes,
            )
        if self.only is None or all(self._traced(core)):
            return traits
        sizes = zip(core.weights, self._traced(core), strict=True)
        kept = core.entries * sum(weights.size for weights, traced in sizes if traced)
        reason = f"only {' and '.join(self.only)} have traces; the past of the others gets no credit"
        return dataclasses.replace(traits, bias="biased", reason=reason, kept=kept)
