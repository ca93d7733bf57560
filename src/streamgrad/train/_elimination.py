"""Elimination row by row: a loop of few operations, where a batch of LAPACK's calls may wait for ever."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._cpu.loop import put


def whiten(
    variance: Float[Array, "rows rows"], values: Float[Array, "rows columns"], floor: Float[Array, " rows"]
) -> Float[Array, "rows columns"]:
    """L⁻¹ times the values, where L Lᵀ is the variance: no pivot below its floor."""
    if len(variance) == 1:
        return values / jnp.sqrt(jnp.maximum(variance[0, 0], floor[0]))
    count = jnp.arange(len(variance))

    def eliminate(j, both):
        top = both[j] / jnp.sqrt(jnp.maximum(both[j, j], floor[j]))
        below = jnp.where(count > j, top[: len(count)], 0)
        return put(both - below[:, None] * top[None, :], top, j)

    return jax.lax.fori_loop(0, len(count), eliminate, jnp.c_[variance, values])[:, len(count) :]


def root(matrix: Float[Array, "rows rows"]) -> Float[Array, "rows rows"]:
    """A lower triangular B with B Bᵀ = the matrix, which may be singular but not indefinite."""
    size = len(matrix)
    smallest = jnp.max(jnp.diagonal(matrix)) * (size * float(jnp.finfo(matrix.dtype).eps))

    def column(j, both):
        left, found = both
        pivot = left[j, j]
        there = pivot > smallest
        now = jnp.where(there, left[:, j] / jnp.sqrt(jnp.where(there, pivot, 1)), 0)
        return left - now[:, None] * now[None, :], put(found, now, j, axis=1)

    return jax.lax.fori_loop(0, size, column, (matrix, jnp.zeros_like(matrix)))[1]
