"""Decompositions of matrices that can be mapped over streams.

On a processor, JAX divides a large enough batch of matrices among the threads that also run the program, and waits for
them in one of those threads: when all of them wait, for ever. One matrix at a time, there is nothing to divide.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap


@sequential_vmap
def qr(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Q and R of a matrix, reduced."""
    q, r = jnp.linalg.qr(matrix)
    return q, r


@sequential_vmap
def svd(matrix: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """U, the singular values, Vᴴ of a matrix, reduced."""
    u, s, vh = jnp.linalg.svd(matrix, full_matrices=False)
    return u, s, vh


@sequential_vmap
def eigh(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The eigenvalues, from the least on, and the eigenvectors of a symmetric matrix."""
    values, vectors = jnp.linalg.eigh(matrix)
    return values, vectors
