"""Keep small coefficients from being recomputed for every parameter."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .piece import apart

#: Below this many parameters, recomputing the coefficients is cheaper than storing them.
WORTH_SHIELDING = 4096


def materialise(tree: PyTree[Array]) -> PyTree[Array]:
    """The same (units,) arrays, computed once.

    XLA's CPU compiler fuses the coefficients of a unit (sigmoids, blocks of D) into the loop over its
    parameters and so computes them again for each one; it removes optimisation barriers before it does so.
    It never fuses through a piece. Complex coefficients are products without transcendental functions, and
    cheaper to recompute; other backends keep barriers.
    """
    leaves = jax.tree.leaves(tree)
    return jax.lax.optimization_barrier(tree) if leaves and jnp.iscomplexobj(leaves[0]) else written(tree)


def written(tree: PyTree[Array]) -> PyTree[Array]:
    """As `materialise`, complex coefficients too."""
    leaves, form = jax.tree.flatten(tree)
    if jax.default_backend() != "cpu" or not leaves:
        return jax.lax.optimization_barrier(tree)
    return form.unflatten(list(apart(jnp.stack(leaves))))  # together they are computed by one kernel
