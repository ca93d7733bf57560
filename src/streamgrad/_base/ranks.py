"""Axes that broadcasting adds in front, said aloud: `jax_numpy_rank_promotion="raise"` forbids silent ones."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array


def in_rank(array: Array, rank: int) -> Array:
    """The array with axes of length 1 in front, up to this rank."""
    return jnp.expand_dims(array, range(rank - array.ndim))


def together(a: Array, b: Array) -> tuple[Array, Array]:
    """Both in the rank of the higher one."""
    rank = max(a.ndim, b.ndim)
    return in_rank(a, rank), in_rank(b, rank)
