r"""A covariance whose inverse is a diagonal and a part of low rank: P⁻¹ = D⁻¹ + Wᵀ W.

D holds a variance for each parameter, W a row for each of L directions that are known better than that. With
B = W D^½, and for the sensitivities G = H D^½,

    P Hᵀ = D^½ (Gᵀ - Bᵀ Yᵀ)      H P Hᵀ = (G - Y B)(G - Y B)ᵀ + Y Yᵀ      Y = G Bᵀ (I + B Bᵀ)⁻¹

where the second is a sum of squares: rounding makes no variance negative, and none too small.

A step adds the rows of R^-½ H to W, and forgets: P ← C P C is D ← C D C and W ← W C⁻¹, exactly. Of the rows, turned so
that they are orthogonal, the L longest stay; the others leave their diagonal to D, so that the information about each
parameter by itself is kept. With L = the number of parameters nothing is left out.

Reference: Chang, Durán-Martín, Shestopaloff, Jones & Murphy, Low-rank extended Kalman filtering (LO-FI), 2023
(2305.19535).
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..algorithms._decompositions import eigh
from ._elimination import whiten


class LowRank(eqx.Module):
    """P⁻¹ = D⁻¹ + Wᵀ W. `variance`: D; `factor`: W."""

    variance: Float[Array, " parameters"]
    factor: Float[Array, "rank parameters"]


def low_rank_times(
    covariance: LowRank, sensitivity: Float[Array, "rows parameters"]
) -> tuple[Float[Array, "rows parameters"], Float[Array, "rows rows"]]:
    """H P and H P Hᵀ."""
    scale = jnp.sqrt(covariance.variance)
    factor, rows = covariance.factor * scale, sensitivity * scale
    root = _inverse_root(factor)
    inside = rows @ factor.T @ root.T @ root
    rest = rows - inside @ factor
    return rest * scale, rest @ rest.T + inside @ inside.T


def informed(
    covariance: LowRank,
    rows: Float[Array, "rows parameters"],
    forgetting: Float[Array, " parameters"],
    cap: Float[Array, " parameters"],
    learned: Bool[Array, ""],
) -> LowRank:
    """The covariance after rows of R^-½ H, with forgetting within the bounds of `cap`. It stays as it was where nothing
    is learned, or where what is learned cannot be squared."""
    rank, floor = len(covariance.factor), jnp.finfo(cap.dtype)
    both = jnp.concatenate([covariance.factor, rows])
    gram = both @ both.T
    learned &= jnp.isfinite(gram).all()
    turned = eigh(jnp.where(learned, gram, jnp.eye(len(both), dtype=gram.dtype)))[1].T @ both
    left, factor = jnp.split(turned, [len(both) - rank])
    variance = covariance.variance
    variance = variance / (1 + variance * jnp.sum(left * left, 0))
    white = _inverse_root(factor * jnp.sqrt(variance)) @ (factor * jnp.sqrt(variance))
    after = variance * jnp.maximum(1 - jnp.sum(white * white, 0), floor.eps)
    square = jnp.minimum(1 / forgetting, cap / jnp.maximum(after, floor.tiny))
    square = jnp.where(cap > 0, square, 1)
    # Where W says all of a parameter, D would grow for ever, and P become a difference of large numbers.
    variance = jnp.minimum(variance * square, cap / (LEAST * floor.eps**0.5))
    choose = lambda new, old: jnp.where(learned, new, old)
    return LowRank(choose(variance, covariance.variance), choose(factor / jnp.sqrt(square), covariance.factor))


#: The share of a parameter's information at its largest variance that stays in D, in roots of the unit of rounding.
LEAST = 30


def carried(fresh: LowRank, old: LowRank, known: np.ndarray) -> LowRank:
    """What an old covariance knows of the parameters of a fresh one; `known`: their numbers in it, -1 for new ones."""
    there = np.flatnonzero(known >= 0)
    part, rank = kept(old, known[there]), len(old.factor)
    if rank > len(fresh.factor):
        raise ValueError(
            f"Kalman: a state of rank {rank} does not fit into {len(fresh.factor)} directions: grow it by the filter "
            "that made it."
        )
    variance = fresh.variance.at[there].set(part.variance)
    return LowRank(variance, fresh.factor.at[:rank, there].set(part.factor))


def kept(covariance: LowRank, places: np.ndarray) -> LowRank:
    """The covariance of some of the parameters alone: what the others leave unknown is integrated out."""
    is_kept = jnp.zeros(len(covariance.variance), bool).at[places].set(True)
    others = jnp.where(is_kept, 0, covariance.factor * jnp.sqrt(covariance.variance))
    return LowRank(covariance.variance[places], _inverse_root(others) @ covariance.factor[:, places])


def _inverse_root(factor):
    """A with Aᵀ A = (I + B Bᵀ)⁻¹."""
    one = jnp.eye(len(factor), dtype=factor.dtype)
    return whiten(one + factor @ factor.T, one, jnp.ones(len(factor), factor.dtype))
