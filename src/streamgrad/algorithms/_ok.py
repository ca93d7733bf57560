"""Optimal Kronecker-sum approximation of real-time recurrent learning."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.dtypes import trace_dtype
from ._algorithm import Online
from ._decompositions import qr, svd
from ._drives import dynamics, require_bank
from ._jvp_vjp import traits
from ._kronecker import by_drives, gradient, groups, heard, size


class OK(Online):
    r"""Optimal Kronecker-sum RTRL: $J_t \approx \sum_{q \le r} u_q \otimes A_q$, with the least variance for its rank.

    A step makes r+1 pairs, $\{u_q, D_t A_q\}$ and $(a_t, K_t)$. Both sides are orthogonalised (QR), the small matrix
    between them split (SVD), and its r+1 singular values are brought to r: the largest m are kept as they are, m being
    the smallest with $(r-m)\, s_{m+1} \le \sum_{i>m} s_i$, the others mixed by random signs so that the mean stays
    exact. The gradient, $g_t = \sum_q u_q \otimes (\delta_t A_q)$, is unbiased for frozen weights, and exact when
    `rank` is the number of inputs of a drive. One sum for all drives that hear the same.

    - `rank`: r >= 1. Memory r times that of `KFRTRL`, a step likewise.

    Raises `ValueError` for a rank below 1, `TypeError` when bound to a core that is not made of drives.

    Reference: Benzing et al., Optimal Kronecker-sum approximation of real time recurrent learning, 2019 (1902.03993).
    """

    rank: int = eqx.field(static=True, default=2)

    def __check_init__(self):
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise ValueError(f"OK(rank) needs an integer rank >= 1, got {self.rank!r}.")

    def bind(self, core: Any, state, x):
        require_bank(self, core)
        return self

    def init(self, core: Any, state, *, key):
        dtype, rows = trace_dtype(core.dtype), core.entries * core.units
        sums = lambda group: (
            jnp.zeros((size(core, group), self.rank), dtype),
            jnp.zeros((rows, len(group.drives), core.units, self.rank), dtype),
        )
        return tuple(sums(group) for group in groups(core.links)), key

    def advance(self, core: Any, trace, state, x, context):
        del context
        sums, key = trace
        key, fresh = jax.random.split(key)
        step, sources = core.linearise(state, x), core.sources(state, x)
        d = dynamics(core, step).astype(trace_dtype(core.dtype))
        new, kinds = [], groups(core.links)
        for group, (u, a), key_signs in zip(kinds, sums, jax.random.split(fresh, len(kinds)), strict=True):
            inputs = jnp.concatenate([u, heard(core, group, sources)[:, None]], axis=1)
            effects = jnp.concatenate([jnp.tensordot(d, a, 1), by_drives(core, group, step)[..., None]], axis=-1)
            u, flat = _reduced(inputs, effects.reshape(-1, self.rank + 1), key_signs)
            new.append((u, flat.reshape(a.shape)))
        return step.state, (tuple(new), key), tuple(new)

    def pullback(self, core: Any, residual, cotangent: Any):
        delta = cotangent.reshape(-1).astype(trace_dtype(core.dtype))
        parts = {}
        for group, (u, a) in zip(groups(core.links), residual, strict=True):
            by_drive = jnp.tensordot(delta, a, 1)
            parts[group] = [(u[:, q], by_drive[..., q]) for q in range(self.rank)]
        return None, gradient(core, parts)

    def traits(self, core: Any):
        rows, kinds = core.entries * core.units, groups(core.links)
        drives = sum(len(group.drives) for group in kinds)
        inputs = max(size(core, group) for group in kinds)
        exact = self.rank >= inputs
        one = sum(size(core, group) for group in kinds) + rows * drives * core.units
        return traits(
            core,
            bias="exact" if exact else "unbiased",
            reason=f"a sum of {self.rank} Kronecker products "
            + (f"holds all of J: a drive has {inputs} inputs" if exact else "whose mean is J"),
            exact_at_one_step=True,
            kept=self.rank * one,
            flops=2 * self.rank * rows * drives * core.units * (rows + 2 * self.rank),
            temporaries=2 * self.rank * one,
            layout=f"{self.rank} inputs and matrices from drives to states",
            reference="Benzing et al. 2019, arXiv 1902.03993",
        )


def _reduced(u, a, key):
    """Two factors of r columns for two of r+1, with u aᵀ the same in the mean and the least variance."""
    q_u, r_u = qr(u)
    q_a, r_a = qr(a)
    left, s, right = svd(r_a @ r_u.T)
    more = u.shape[1] - len(s)  # fewer inputs than columns: the other singular values are zero
    mixed = _mixed(jnp.pad(s, (0, more)), key)[: len(s)].astype(u.dtype)
    return q_u @ (right.T @ mixed), q_a @ (left @ mixed)


def _mixed(s, key):
    """(r+1, r), F with the mean of F Fᵀ the diagonal of s: the largest kept, the others mixed.

    The columns that are orthogonal to z, with z_i² = 1 - s_i k / Σ s over the k+1 mixed ones, are those of a
    Householder reflection that maps the last axis to z."""
    r = len(s) - 1
    place = jnp.arange(r + 1)
    rest = jnp.cumsum(s[::-1])[::-1]  # of s_i and all after it
    m = jnp.argmax((r - place).astype(s.dtype) * s <= rest)  # kept exactly; at most r - 1
    k, total = r - m, jnp.maximum(rest[m], jnp.finfo(s.dtype).tiny)
    tail = place >= m
    z = jnp.where(tail, jnp.sqrt(jnp.maximum(1 - s * k.astype(s.dtype) / total, 0)), 0)
    z = z / jnp.linalg.norm(z)
    axis = z.at[r].add(1)  # z_r >= 0, so that nothing cancels
    reflection = jnp.eye(r + 1, dtype=s.dtype) - 2 * jnp.outer(axis, axis) / (axis @ axis)
    coins = jax.random.rademacher(key, (r + 1,)).astype(s.dtype)
    size = jnp.where(tail, coins * jnp.sqrt(total / k.astype(s.dtype)), jnp.sqrt(jnp.maximum(s, 0)))
    return size[:, None] * reflection[:, :r]
