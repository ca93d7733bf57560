"""Dropout with one mask for a whole sequence."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._base.dtypes import default_dtype
from ..cells._cell import check_sizes


class Dropout(eqx.Module):
    r"""Dropout whose mask is drawn once for a sequence: y = m ∘ x, with m = 0 with probability `rate` and
    1/(1 - rate) otherwise.

    The carry is m, (size,), drawn by `init(key=...)` and so anew at every reset. A mask that changed at every step
    would be noise to the recurrence; one of a sequence trains a thinned network. `sg.inference(model)` leaves it
    out.

    - `size`: entries of x; `rate`: in [0, 1).

    Reference: Gal & Ghahramani, 2016 (1512.05287).
    """

    size: int = eqx.field(static=True)
    rate: float = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    def __init__(self, size: int, rate: float, *, dtype=None):
        check_sizes(size=size)
        if not 0 <= rate < 1:
            raise ValueError(f"Dropout(rate) must lie in [0, 1), got {rate}.")
        self.size, self.rate, self.dtype = size, float(rate), default_dtype(dtype)

    def init(self, *, key: PRNGKeyArray) -> Float[Array, " size"]:
        """The mask of a sequence."""
        kept = jax.random.bernoulli(key, 1 - self.rate, (self.size,))
        return kept.astype(self.dtype) / (1 - self.rate)

    def __call__(self, carry, x):
        return carry, x * carry if self.rate else x

    def unroll(self, carry, xs, resets):
        """Many steps at once; a sequence that begins within them draws a mask of its own."""
        if not self.rate:
            return carry, xs
        if resets is None:
            return carry, xs * carry
        starts, keys = resets
        drawn = jax.vmap(lambda key: self.init(key=key))(keys)
        latest = jax.lax.cummax(jnp.where(starts, jnp.arange(len(xs)), -1))
        masks = jnp.where((latest >= 0)[:, None], drawn[latest], carry)
        return masks[-1], xs * masks
