"""The diagonal approximation with traces of inputs and outputs apart."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.dtypes import trace_dtype
from ..influence import own_dynamics
from ._algorithm import Online
from ._drives import drive_cotangent, require_bank, weigh
from ._jvp_vjp import traits, wide


class ESDRTRL(Online):
    r"""Exponentially smoothed diagonal RTRL (pp-prop): one trace for each input and one for each drive, not for each
    weight.

    $$\epsilon^x_t = \alpha\, \epsilon^x_{t-1} + x_t, \qquad
      \epsilon^f_t = \alpha\, \mathrm{diag}(D_t)\, \epsilon^f_{t-1} + (1-\alpha) K_t, \qquad
      g_t = (\delta_t\, \epsilon^f_t) \otimes \epsilon^x_t$$

    with K the derivative of the state by the drives, and diag(D) what a unit does to itself, its link to itself
    included. x is everything that a weight multiplies: input, other units, and 1.

    - `decay`: α in [0, 1); about 1/(1-α) steps count. The gradient of a first step is (1-α) times backprop's.

    Memory O(inputs + units), whatever the wiring. Raises `ValueError` for α outside [0, 1), `TypeError` when bound to a
    core that is not made of drives.

    Reference: Wang et al., Model-agnostic linear-memory online learning in spiking neural networks, 2026 (ES-D-RTRL,
    pp-prop).
    """

    decay: float = eqx.field(static=True, default=0.9)

    def __check_init__(self):
        if not 0 <= self.decay < 1:
            raise ValueError(f"ESDRTRL(decay=α) needs 0 <= α < 1, got {self.decay!r}.")

    def bind(self, core: Any, state, x):
        require_bank(self, core)
        return self

    def init(self, core: Any, state, *, key):
        del state, key
        state = jnp.zeros((core.entries, core.units), core.dtype)
        x = jnp.zeros(self._in_size(core))
        sources = jax.tree.map(jnp.zeros_like, wide(core.sources(state, x)))
        return sources, jnp.zeros((core.entries, core.gates, core.units), trace_dtype(core.dtype))

    @staticmethod
    def _in_size(core):
        return max((link.links.sources for link in core.links if link.source == "x"), default=1)

    def advance(self, core: Any, trace, state, x, context):
        del context
        sources, drives = trace
        step = core.linearise(state, x)
        smooth = lambda old, now: self.decay * old + now.astype(old.dtype)
        sources = jax.tree.map(smooth, sources, core.sources(state, x))
        rows = []
        for own, k in zip(own_dynamics(core, step), step.drive, strict=True):
            new = jnp.stack([jnp.zeros(core.units, drives.dtype) if d is None else d.astype(drives.dtype) for d in k])
            new = (1 - self.decay) * new
            for b, d in enumerate(own):
                if d is not None:
                    new = new + self.decay * d.astype(drives.dtype)[None] * drives[b]
            rows.append(new)
        trace = sources, jnp.stack(rows)
        return step.state, trace, trace

    def pullback(self, core: Any, residual, cotangent: Any):
        sources, drives = residual
        by_drive = drive_cotangent(core, drives, cotangent.astype(drives.dtype))
        inputs = [link.links.inputs(sources[link.source]) for link in core.links]
        return None, eqx.tree_at(lambda bank: bank.weights, core, weigh(core, by_drive, inputs))

    def traits(self, core: Any):
        sources, drives = eqx.filter_eval_shape(lambda core: self.init(core, None, key=jax.random.key(0)), core)
        sizes = drives.size + sum(source.size for source in sources.values())
        found = traits(
            core,
            bias="biased",
            reason="the past of inputs and of units is smoothed apart, and links between units are left out",
            exact_at_one_step=False,
            kept=sizes,
            flops=2 * sizes * core.entries + core.structure.parameters,
            layout="one trace per input and one per drive",
            reference="Wang et al. 2026",
        )
        of = lambda leaf: leaf.size * leaf.dtype.itemsize  # under a complex state the inputs stay real
        return dataclasses.replace(found, bytes=of(drives) + sum(map(of, sources.values())))
