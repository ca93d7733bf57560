"""What algorithms that know nothing of a core's structure are made of: products with I and D, and tangents."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._base.dtypes import trace_dtype
from ..cells import Core
from ._algorithm import Traits

#: Keeps ratios of norms finite before anything has happened.
TINY = 1e-12


def wide(tree: PyTree) -> PyTree:
    """Inexact leaves in the precision of traces: at least float32."""
    cast = lambda leaf: leaf.astype(trace_dtype(leaf.dtype)) if eqx.is_inexact_array(leaf) else leaf
    return jax.tree.map(cast, tree)


def products(core: Core, state: PyTree[Array], x: Array) -> tuple[PyTree, Callable, Callable]:
    """The new state, and the products with the derivatives of this step.

    - `push(ds, dθ=None)`: D ds, plus I dθ; tangents in, a tangent of the state out;
    - `pull(δ)`: (δ I, δ D); cotangents, shaped like the core's parameters and the state.

    In the precision of traces. A complex tangent v and cotangent δ pair as Re(δ v)."""
    parameters, fixed = eqx.partition(wide(core), eqx.is_inexact_array)
    before = wide(state)
    step = lambda parameters, state: eqx.combine(parameters, fixed)(state, x)
    new, pull = jax.vjp(step, parameters, before)

    def push(by_state, by_core=None):
        if by_core is None:
            return jax.jvp(lambda state: step(parameters, state), (before,), (by_state,))[1]
        return jax.jvp(step, (parameters, before), (by_core, by_state))[1]

    low = [leaf.dtype for leaf in jax.tree.leaves(state)] != [leaf.dtype for leaf in jax.tree.leaves(before)]
    return core(state, x) if low else new, push, pull


def parameters_of(core: Core) -> PyTree[Array]:
    """The parameters of a core in the precision of traces."""
    return wide(eqx.filter(core, eqx.is_inexact_array))


def as_gradient(tree: PyTree[Array], core: Core) -> Any:
    """`tree` in the precision of the core's parameters."""
    return optax.tree.cast_like(tree, eqx.filter(core, eqx.is_inexact_array))


def scaled(factor: Array, tree: PyTree[Array]) -> PyTree[Array]:
    """`factor`, a real number, times every leaf."""
    return jax.tree.map(lambda leaf: factor.astype(leaf.dtype) * leaf, tree)


def inner(cotangent: PyTree[Array], tangent: PyTree[Array]) -> Float[Array, ""]:
    """Re(δ v), summed over all leaves."""
    return sum_of(jax.tree.map(lambda c, v: _dot(c.astype(v.dtype), v), cotangent, tangent))


def norm(tree: PyTree[Array]) -> Float[Array, ""]:
    """The Euclidean norm of all leaves together."""
    return jnp.sqrt(sum_of(jax.tree.map(lambda leaf: _dot(leaf.conj(), leaf), tree)))


def _dot(a: Array, b: Array) -> Float[Array, ""]:
    """Re(Σ a b), as a product: XLA's own sums take one number after another on a CPU."""
    return jnp.dot(a.ravel(), b.ravel(), precision=jax.lax.Precision.HIGHEST).real


def sum_of(tree: PyTree[Float[Array, ""]]) -> Float[Array, ""]:
    """Scalars of any precisions, in the highest."""
    leaves = jax.tree.leaves(tree)
    dtype = np.result_type(*(leaf.dtype for leaf in leaves))
    return functools.reduce(jnp.add, [leaf.astype(dtype) for leaf in leaves])


def signs(key: PRNGKeyArray, like: PyTree[Array]) -> PyTree[Array]:
    """±1, real and imaginary parts each by itself."""
    return _drawn(key, like, lambda key, shape, dtype: jax.random.rademacher(key, shape).astype(dtype))


def normal(key: PRNGKeyArray, like: PyTree[Array]) -> PyTree[Array]:
    """N(0, 1), real and imaginary parts each by itself."""
    return _drawn(key, like, jax.random.normal)


def _drawn(key, like, draw):
    leaves, treedef = jax.tree.flatten(like)

    def one(key, leaf):
        if not jnp.iscomplexobj(leaf):
            return draw(key, leaf.shape, leaf.dtype)
        return jax.lax.complex(*draw(key, (2, *leaf.shape), leaf.real.dtype))

    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(treedef, [one(k, leaf) for k, leaf in zip(keys, leaves, strict=True)])


def traits(
    core: Core,
    *,
    bias: Literal["exact", "unbiased", "biased"],
    reason: str,
    reference: str,
    kept: int,
    flops: int,
    layout: str,
    exact_at_one_step: bool = True,
    zero_leaves: tuple[str, ...] = (),
    temporaries: int | None = None,
) -> Traits:
    """`Traits` of an algorithm that keeps `kept` numbers in the precision of traces."""
    structure = core.structure
    itemsize = trace_dtype(jax.tree.leaves(eqx.filter(core, eqx.is_inexact_array))[0].dtype).itemsize
    return Traits(
        bias=bias,
        reason=reason,
        exact_at_one_step=exact_at_one_step,
        zero_leaves=zero_leaves,
        kept=kept,
        full=structure.rows * structure.parameters,
        bytes=itemsize * kept,
        temporaries=itemsize * (structure.parameters if temporaries is None else temporaries),
        flops=flops,
        layout=layout,
        reference=reference,
    )
