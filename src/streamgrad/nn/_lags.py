"""A window of past inputs."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._base.dtypes import default_dtype
from ..cells._cell import check_sizes


class Lags(eqx.Module):
    """The last `count` inputs side by side, newest first: (count * size,). Zeros before the start."""

    size: int = eqx.field(static=True)
    count: int = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    def __init__(self, size: int, count: int, *, dtype=None):
        check_sizes(size=size, count=count)
        self.size, self.count, self.dtype = size, count, default_dtype(dtype)

    def init(self, *, key: PRNGKeyArray) -> Float[Array, "count size"]:
        """Zeros."""
        del key
        return jnp.zeros((self.count, self.size), self.dtype)

    def __call__(self, carry, x):
        if x.shape != (self.size,):
            raise ValueError(f"Lags expects an input of shape ({self.size},), got {x.shape}.")
        carry = jnp.concatenate([x[None].astype(self.dtype), carry[:-1]])
        # Only the newest input is of this step: the others are the past, which gets no gradient.
        past = jax.lax.stop_gradient(carry[1:])
        return jax.lax.stop_gradient(carry), jnp.concatenate([carry[:1], past]).ravel()
