"""Pooling over the past."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._base.dtypes import default_dtype, trace_dtype
from ..cells._cell import check_sizes


class Pooled(NamedTuple):
    """How many values were seen since the sequence began, and their mean."""

    count: Int[Array, ""]
    mean: Float[Array, " size"]


class RunningMean(eqx.Module):
    r"""The mean of all inputs since the sequence began, with a straight-through gradient.

        m_t = m_{t-1} + (x_t - m_{t-1}) / t        ∂y_t / ∂x_t := 1

    The true derivative 1/t would fade with time and send the rest through the past, where an online gradient does
    not go: instead the present input stands for all of them.

    Reference: the pooling of Zucchet et al., 2023 (2305.15947).
    """

    size: int = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    def __init__(self, size: int, *, dtype=None):
        check_sizes(size=size)
        self.size, self.dtype = size, trace_dtype(default_dtype(dtype))

    def init(self, *, key: PRNGKeyArray) -> Pooled:
        """No value seen yet."""
        del key
        return Pooled(jnp.zeros((), jnp.int32), jnp.zeros(self.size, self.dtype))

    def __call__(self, carry, x):
        # An endless sequence: the count stops before it overflows.
        count = jnp.minimum(carry.count + 1, 2**30)
        mean = carry.mean + (x.astype(self.dtype) - carry.mean) / count.astype(self.dtype)
        carry = jax.lax.stop_gradient(Pooled(count, mean))
        return carry, x + jax.lax.stop_gradient(carry.mean.astype(x.dtype) - x)
