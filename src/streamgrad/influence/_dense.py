"""The layout of exact RTRL on a bank: all of J, one matrix product a step."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from .._base.dtypes import real_factor, trace_dtype
from .._base.static import Static
from ..cells import Bank
from ._layout import Layout
from ._packed import immediate, per_unit, unpack


@dataclasses.dataclass(frozen=True)
class DenseRows(Layout[Bank]):
    """J as (blocks, rows, units, parameters): rows first, so that D J is one matrix product (a batch of
    them when the units form unconnected blocks). Rows of a block are ordered (entry, unit).

    `mask`, bool (units, units), keeps J inside an open pattern; None when the pattern is full.
    """

    blocks: int
    mask: Static | None

    def init(self, core):
        m = core.units // self.blocks
        return jnp.zeros((self.blocks, core.entries * m, m, per_unit(core)), trace_dtype(core.dtype))

    def advance(self, core, trace, state, x):
        state, d, own = self.factors(core, state, x, trace.dtype)
        return state, self.moved(core, trace, d, own)

    def factors(self, core, state, x, dtype):
        """The new state, D, and I of each unit's own parameters."""
        step = core.linearise(state, x)
        d = jax.lax.optimization_barrier(self.dynamics(core, step).astype(dtype))
        return step.state, d, immediate(core, step, dtype)

    def moved(self, core, trace, d, own):
        """I + D J; of some of each unit's parameters, where trace and I hold no more."""
        c, rows, m, p = trace.shape
        new = (d @ trace.reshape(c, rows, m * p)).reshape(c, core.entries, m, m, p)
        if self.mask is not None:
            new = jnp.where(self.mask.value[None, None, :, :, None], new, 0)
        own = own.reshape(core.entries, c, m, p)
        each = np.arange(m)
        new = new.at[:, :, each, each].add(jnp.moveaxis(own, 0, 1))
        return new.reshape(trace.shape)

    def dynamics(self, core, step):
        """D as (blocks, rows, rows)."""
        c, s, n = self.blocks, core.entries, core.units
        m = n // c
        d = jnp.zeros((c, s, m, s, m), core.dtype)
        each = np.arange(m)
        for a in range(s):
            for b in range(s):
                if (own := step.own[a][b]) is not None:
                    d = d.at[:, a, each, b, each].add(own.reshape(c, m))
        for link, weights in zip(core.links, core.weights, strict=True):
            if link.source == "h":
                index = np.broadcast_to(link.links.index(), weights.shape)
                unit = np.broadcast_to(np.arange(n), weights.shape)
                for a in range(s):
                    d = d.at[:, a, :, core.emits, :].add(self._linked(step, link, weights, a, index, unit, core))
        return d.reshape(c, s * m, s * m)

    def _linked(self, step, link, weights, a, index, unit, core):
        """The part of D through one recurrent link, for new entry a: (blocks, unit, source)."""
        c, m = self.blocks, core.units // self.blocks
        k = [step.drive[a][g] for g in link.drives]
        used = [row for row, value in enumerate(k) if value is not None]
        if not used:
            return jnp.zeros((c, m, m), core.dtype)
        product = jnp.stack([k[row] for row in used])[None] * weights[:, np.array(used)]  # (fan_in, gates, units)
        full = all((index[:, g] == index[:, 0]).all() for g in used) and weights.shape[0] == m
        if full and (np.sort(index[:, 0] % m, axis=0) == np.arange(m)[:, None]).all() and (index[0] % m == 0).all():
            # Every unit of the block in order: no scatter.
            return jnp.moveaxis(product.sum(1).reshape(m, c, m), 0, 2)
        product = jnp.where(index[:, np.array(used)] < core.units, product, 0)  # padding is no link
        at = unit[:, np.array(used)] // m, unit[:, np.array(used)] % m, index[:, np.array(used)] % m
        return jnp.zeros((c, m, m), core.dtype).at[at].add(product)

    def pullback(self, core, trace, cotangent):
        return unpack(core, self.pulled(core, trace, cotangent))

    def pulled(self, core, trace, cotangent):
        """The gradient of each unit's parameters, (units, parameters)."""
        c, rows, m, p = trace.shape
        delta = jnp.moveaxis(cotangent.reshape(core.entries, c, m), 0, 1).reshape(c, 1, rows).astype(trace.dtype)
        grad = delta @ trace.reshape(c, rows, m * p)
        return grad.reshape(c * m, p)

    def flops(self, core):
        m = core.units // self.blocks
        return 2 * real_factor(core.dtype) * self.blocks * (core.entries * m) ** 2 * m * per_unit(core)

    def describe(self):
        shape = "one dense matrix" if self.blocks == 1 else f"{self.blocks} dense blocks"
        return shape if self.mask is None else f"{shape}, masked to the pattern"
