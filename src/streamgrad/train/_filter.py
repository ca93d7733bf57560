r"""One step of a Kalman filter whose covariance is made of blocks: arithmetic on arrays alone.

Let H be the sensitivities of r outputs to p parameters, e their errors, R the variances of their noise. With a
covariance P of blocks, each on its own parameters:

    S = R + H P Hᵀ = L Lᵀ      V = L⁻¹ H P      θ ← θ + Vᵀ L⁻¹ e      P ← C (P - Vᵀ V) C      within each block
    C = diag(c),  c_i² = min(1 / λ_i, cap_i / (P - Vᵀ V)_ii)

P - Vᵀ V is written as products v_i v_j, which are symmetric to the bit. Rounding would still make it indefinite where
the rows stay constant for long: one direction becomes tiny while forgetting lets all others grow. Each step therefore
enlarges the diagonal by a relative ε √b (b: parameters of the block, ε: the unit of rounding), which outweighs the
rounding of that step, and does nothing else that could be measured.

With a covariance of low rank (`_low_rank.py`) the errors, S and the gain are the same; what is kept of P is not.

Blocks of equal size are one array (blocks, size, size), and parameters follow the order of these arrays.
"""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ._elimination import whiten
from ._low_rank import LowRank, informed, low_rank_times

#: Products v_i v_j that one pass over P takes together.
TOGETHER = 8
#: Entries on a side of a block up to which its diagonal is chosen in the same pass: no scatter, which no piece holds.
SMALL_BLOCK = 256

Covariance = tuple[Float[Array, "_ _ _"], ...]


def correct(
    covariance: Covariance | LowRank,
    sensitivity: Float[Array, "rows parameters"],
    error: Float[Array, " rows"],
    given: Bool[Array, " rows"],
    noise: Float[Array, " rows"],
    forgetting: Float[Array, " parameters"],
    cap: Float[Array, " parameters"],
    *,
    clip: Array,
    root: Float[Array, "rows rows"] | None = None,
    reach: Float[Array, " rows"] | None = None,
) -> tuple[Any, Float[Array, " parameters"], Bool[Array, " rows"]]:
    r"""The covariance after a step, the change of the parameters, and which rows were used.

    Rows that are not given or not finite count as if they were not there; without any row nothing changes. `error` is
    clipped at `clip` √S_jj. `root`: None, or B of the Fisher matrix F = B Bᵀ of an exponential family whose natural
    parameters are the outputs; then `error` is T(y) - E[T], and `noise` is not used:

        θ ← θ + P Hᵀ (I + F H P Hᵀ)⁻¹ e      P ← P - P Hᵀ (I + F H P Hᵀ)⁻¹ F H P

    An error is then no number of standard deviations (a rare event is always many). `reach`: None, or how far each
    output may move in a step: the change is shortened to that.
    """
    used = given & jnp.isfinite(error) & jnp.isfinite(sensitivity).all(-1)
    sensitivity = jnp.where(used[:, None], sensitivity, 0)
    product, inner = times(covariance, sensitivity)
    variance = jnp.maximum(jnp.diagonal(inner), 0) + noise
    used &= jnp.isfinite(variance)  # finite rows may still be too large to be squared
    error = jnp.where(used, error, 0)
    product = jnp.where(used[:, None], product, 0)
    inner = jnp.where(used[:, None] & used[None, :], inner, 0)
    if root is None:
        limit = clip * jnp.sqrt(jnp.where(used, variance, 1))
        error = jnp.clip(error, -limit, limit)
        white = whiten(inner + jnp.diag(noise), jnp.c_[product, error], noise)
        change = white[:, -1] @ white[:, :-1]
    else:
        # (I + F G)⁻¹ = I - B (I + Bᵀ G B)⁻¹ Bᵀ G, where F may be singular.
        identity = jnp.ones_like(error)
        both = root.T @ jnp.c_[product, inner @ error]
        white = whiten(root.T @ inner @ root + jnp.diag(identity), both, identity)
        change = error @ product - white[:, -1] @ white[:, :-1]
    if reach is not None:
        moves = jnp.where(used, jnp.abs(sensitivity @ change), 0)
        change = change * jnp.min(reach / jnp.maximum(moves, reach))
    learned = used.any()
    if isinstance(covariance, LowRank):
        sensitivity = jnp.where(used[:, None], sensitivity, 0)
        seen = sensitivity / jnp.sqrt(noise)[:, None] if root is None else root.T @ sensitivity
        return informed(covariance, seen, forgetting, cap, learned), change, used
    columns = (split(covariance, each) for each in (white[:, :-1], forgetting[None], cap[None]))
    parts = zip(covariance, *columns, strict=True)
    covariance = tuple(_reduced(p, v, lam[0], top[0], learned) for p, v, lam, top in parts)
    return covariance, change, used


def times(
    covariance: Covariance | LowRank, sensitivity: Float[Array, "rows parameters"]
) -> tuple[Float[Array, "rows parameters"], Float[Array, "rows rows"]]:
    """H P and H P Hᵀ."""
    if isinstance(covariance, LowRank):
        return low_rank_times(covariance, sensitivity)
    product = joined([_times(h, p) for p, h in zip(covariance, split(covariance, sensitivity), strict=True)])
    return product, product @ sensitivity.T


def _times(sensitivity, covariance):
    """H P, with the axes in an order for which nothing is transposed or copied."""
    by_block = jax.lax.dot_general(sensitivity, covariance, (((2,), (1,)), ((1,), (0,))))
    return jnp.swapaxes(by_block, 0, 1)


def _reduced(covariance, white, forgetting, cap, learned):
    """C (P - Vᵀ V) C of blocks of one size."""
    floor = jnp.finfo(covariance.dtype)
    size = covariance.shape[-1]
    before = jnp.diagonal(covariance, axis1=-2, axis2=-1)
    after = jnp.maximum(before - jnp.sum(white * white, 0), floor.eps * before)
    square = jnp.minimum(1 / forgetting, cap / jnp.maximum(after, floor.tiny))
    scale = jnp.where(learned, jnp.sqrt(square), 1)
    diagonal = jnp.where(learned, after * square * (1 + float(floor.eps) * size**0.5), before)
    *most, last = [white[k : k + TOGETHER] for k in range(0, len(white), TOGETHER)]
    if most:
        covariance, _ = jax.lax.scan(lambda p, v: (p - _outer(v), None), covariance, jnp.stack(most))
    covariance = (covariance - _outer(last)) * (scale[:, :, None] * scale[:, None, :])
    if size <= SMALL_BLOCK:
        return jnp.where(jnp.eye(size, dtype=bool), diagonal[:, :, None], covariance)
    entry = jnp.arange(size)
    return covariance.at[:, entry, entry].set(diagonal)


def _outer(white):
    """Vᵀ V of a few rows, summed in one order: symmetric to the bit."""
    return sum(v[:, :, None] * v[:, None, :] for v in white)


def split(covariance: Covariance, packed: Float[Array, "rows parameters"]) -> list[Float[Array, "rows _ _"]]:
    """The columns of each array of blocks."""
    ends = list(itertools.accumulate(p.shape[0] * p.shape[1] for p in covariance))
    parts = jnp.split(packed, ends[:-1], axis=1)
    return [part.reshape(len(packed), *p.shape[:2]) for part, p in zip(parts, covariance, strict=True)]


def joined(parts: list[Float[Array, "rows _ _"]]) -> Float[Array, "rows parameters"]:
    """The inverse of `split`."""
    return jnp.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
