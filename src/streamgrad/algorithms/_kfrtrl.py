"""Kronecker-factored real-time recurrent learning."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from .._base.dtypes import trace_dtype
from ._algorithm import Online
from ._drives import dynamics, require_bank
from ._jvp_vjp import TINY, norm, scaled, traits
from ._kronecker import by_drives, gradient, groups, heard, size


class KFRTRL(Online):
    r"""Kronecker-factored RTRL: the influence as one random Kronecker product, $J_t \approx A_t \otimes B_t$.

    For drives that hear the same input a, $I = a \otimes K$ is one already. With signs $c_0, c_1 = \pm 1$,

    $$A_t = c_0 p_0 A_{t-1} + c_1 p_1 a_t, \qquad B_t = c_0 D_t B_{t-1} / p_0 + c_1 K_t / p_1, \qquad
      g_t = A_t \otimes (\delta_t B_t)$$

    $p_0 = \sqrt{|D B| / |A|}$, $p_1 = \sqrt{|K| / |a|}$. The mean over the signs is the exact gradient for frozen
    weights, with far less variance than UORO. One pair for all drives that hear the same (all gates of an LSTM; z
    and r of a GRU). B is state x drives: memory O(units²), a step O(units³).

    Raises `TypeError` when bound to a core that is not made of drives.

    Reference: Mujika et al., Approximating real-time recurrent learning with random Kronecker factors, 2018
    (1805.10842).
    """

    def bind(self, core: Any, state, x):
        require_bank(self, core)
        return self

    def init(self, core: Any, state, *, key):
        dtype, rows = trace_dtype(core.dtype), core.entries * core.units
        pair = lambda group: (
            jnp.zeros(size(core, group), dtype),
            jnp.zeros((rows, len(group.drives), core.units), dtype),
        )
        return tuple(pair(group) for group in groups(core.links)), key

    def advance(self, core: Any, trace, state, x, context):
        del context
        pairs, key = trace
        key, fresh = jax.random.split(key)
        step, sources = core.linearise(state, x), core.sources(state, x)
        d = dynamics(core, step).astype(trace_dtype(core.dtype))
        kinds = groups(core.links)
        coins = jax.random.rademacher(fresh, (len(kinds), 2)).astype(jnp.finfo(d.dtype).dtype)
        new = []
        for group, (a, b), (c_0, c_1) in zip(kinds, pairs, coins, strict=True):
            now, k = heard(core, group, sources), by_drives(core, group, step)
            moved = jnp.tensordot(d, b, 1)
            p_0 = jnp.sqrt((norm(moved) + TINY) / (norm(a) + TINY))
            p_1 = jnp.sqrt((norm(k) + TINY) / (norm(now) + TINY))
            mix = lambda f_0, old, f_1, now: scaled(f_0, old) + scaled(f_1, now)
            new.append((mix(c_0 * p_0, a, c_1 * p_1, now), mix(c_0 / p_0, moved, c_1 / p_1, k)))
        return step.state, (tuple(new), key), tuple(new)

    def pullback(self, core: Any, residual, cotangent: Any):
        delta = cotangent.reshape(-1).astype(trace_dtype(core.dtype))
        kinds = groups(core.links)
        parts = {group: [(a, jnp.tensordot(delta, b, 1))] for group, (a, b) in zip(kinds, residual, strict=True)}
        return None, gradient(core, parts)

    def traits(self, core: Any):
        rows, kinds = core.entries * core.units, groups(core.links)
        drives = sum(len(group.drives) for group in kinds)
        kept = sum(size(core, group) for group in kinds) + rows * drives * core.units
        return traits(
            core,
            bias="unbiased",
            reason="one random Kronecker product for all drives that hear the same, whose mean is J",
            exact_at_one_step=True,
            kept=kept,
            flops=2 * rows * rows * drives * core.units,
            temporaries=rows * drives * core.units,
            layout="an input and a matrix from drives to states",
            reference="Mujika et al. 2018, arXiv 1805.10842",
        )
