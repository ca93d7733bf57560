"""Keep small coefficients from being recomputed for every parameter."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

#: Below this many parameters, recomputing the coefficients is cheaper than storing them.
WORTH_SHIELDING = 4096


def materialise(tree: PyTree[Array]) -> PyTree[Array]:
    """The same (units,) arrays, computed once.

    XLA's CPU compiler fuses the coefficients of a unit (sigmoids, blocks of D) into the loop over its
    parameters and so computes them again for each one; it removes optimisation barriers before it does so.
    It never fuses through a matrix product: one with the identity costs little and keeps them apart (2 to 3
    times faster for a dense GRU). Complex coefficients are products without transcendental functions, and
    cheaper to recompute; other backends keep barriers.
    """
    leaves = jax.tree.leaves(tree)
    return jax.lax.optimization_barrier(tree) if leaves and jnp.iscomplexobj(leaves[0]) else written(tree)


def written(tree: PyTree[Array]) -> PyTree[Array]:
    """As `materialise`, complex coefficients too: part by part."""
    leaves, treedef = jax.tree.flatten(tree)
    if jax.default_backend() != "cpu" or not leaves:
        return jax.lax.optimization_barrier(tree)
    if not jnp.iscomplexobj(leaves[0]):
        return jax.tree.unflatten(treedef, list(_identity_product(jnp.stack(leaves))))
    parts = written([part for leaf in leaves for part in (leaf.real, leaf.imag)])
    return jax.tree.unflatten(treedef, [jax.lax.complex(*pair) for pair in zip(parts[::2], parts[1::2], strict=True)])


@jax.custom_batching.custom_vmap
def _identity_product(rows: Array) -> Array:
    return jax.lax.dot(jnp.eye(len(rows), dtype=rows.dtype), rows, precision=jax.lax.Precision.HIGHEST)


@_identity_product.def_vmap
def _batched_identity_product(axis_size, in_batched, rows):
    """One product for the whole batch, side by side: as a batch of products, its layout would spread to the
    traces and their loops would not be vectorised."""
    del axis_size, in_batched
    batch, count, units = rows.shape
    product = _identity_product(jnp.moveaxis(rows, 1, 0).reshape(count, batch * units))
    return jnp.moveaxis(product.reshape(count, batch, units), 1, 0), True
