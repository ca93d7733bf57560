"""The Kalman filters of this room as they are written: dense matrices and inverses, no blocks, no packing."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

Square = Float[Array, "parameters parameters"]
Vector = Float[Array, " parameters"]
Number = float | Float[Array, ""]
Rows = Float[Array, "rows parameters"]


def correct(
    covariance: Square,
    sensitivity: Rows,
    error: Float[Array, " rows"],
    noise: Float[Array, " rows"],
    forgetting: Vector,
    cap: Vector,
    *,
    clip: Number,
    mask: Square,
) -> tuple[Square, Vector]:
    r"""The covariance after a step of the extended filter, and the change of the parameters.

    `mask` is 1 within a block and 0 between blocks, whose covariances are dropped after each step."""
    P, H = covariance, sensitivity
    S = jnp.diag(noise) + H @ P @ H.T
    K = P @ H.T @ jnp.linalg.inv(S)
    limit = clip * jnp.sqrt(jnp.diagonal(S))
    P = (P - K @ S @ K.T) * mask
    c = jnp.sqrt(jnp.minimum(1 / forgetting, cap / jnp.diagonal(P)))
    return c[:, None] * P * c, K @ jnp.clip(error, -limit, limit)


def correct_low_rank(
    diagonal: Vector,
    factor: Float[Array, "rank parameters"],
    sensitivity: Rows,
    error: Float[Array, " rows"],
    noise: Float[Array, " rows"],
    forgetting: Vector,
    cap: Vector,
    *,
    clip: Number,
) -> tuple[Vector, Float[Array, "rank parameters"], Vector]:
    r"""Υ, W and the change of the parameters after a step of LO-FI, whose information is $P^{-1} = \Upsilon + W^T W$.

    W keeps its longest singular vectors; Υ takes the diagonal of what is cut off."""
    U, W, H = diagonal, factor, sensitivity
    P = jnp.linalg.inv(jnp.diag(U) + W.T @ W)
    S = jnp.diag(noise) + H @ P @ H.T
    limit = clip * jnp.sqrt(jnp.diagonal(S))
    change = P @ H.T @ jnp.linalg.solve(S, jnp.clip(error, -limit, limit))
    _, s, axes = jnp.linalg.svd(jnp.concatenate([W, H / jnp.sqrt(noise)[:, None]]), full_matrices=False)
    long, cut = jnp.split(s[:, None] * axes, [len(W)])
    W = jnp.pad(long, ((0, len(W) - len(long)), (0, 0)))
    U = U + jnp.sum(cut**2, axis=0)
    c = jnp.sqrt(jnp.minimum(1 / forgetting, cap / jnp.diagonal(jnp.linalg.inv(jnp.diag(U) + W.T @ W))))
    return U / c**2, W / c, change


def next_noise(
    noise: Float[Array, " rows"], error: Float[Array, " rows"], *, clip: Number, decay: Number, floor: Number
) -> Float[Array, " rows"]:
    r"""$R \leftarrow \max(\rho R + (1-\rho) \min(e^2, c^2 R + \varepsilon), \varepsilon)$."""
    return jnp.maximum(decay * noise + (1 - decay) * jnp.minimum(error**2, clip**2 * noise + floor), floor)
