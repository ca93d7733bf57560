"""A leaky sum over the past."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._base.dtypes import default_dtype, trace_dtype
from ..cells._cell import check_sizes


class LowPass(eqx.Module):
    r"""A leaky sum of all inputs: $y_t = \kappa\, y_{t-1} + x_t$.

    Before a linear readout it makes a leaky readout, as of spiking networks; `sg.EProp(low_pass=κ)` below it gives
    spikes of the past their credit. Other online algorithms see the present input's share alone.

    - `size`: of the input; `decay`: κ in [0, 1).

    Raises `ValueError` for a decay outside [0, 1).
    """

    size: int = eqx.field(static=True)
    decay: float = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    def __init__(self, size: int, decay: float, *, dtype=None):
        check_sizes(size=size)
        if not 0 <= decay < 1:
            raise ValueError(f"LowPass(decay=κ) needs 0 <= κ < 1, got {decay!r}.")
        self.size, self.decay, self.dtype = size, float(decay), trace_dtype(default_dtype(dtype))

    def init(self, *, key: PRNGKeyArray) -> Float[Array, " size"]:
        """Nothing heard yet: zeros."""
        del key
        return jnp.zeros(self.size, self.dtype)

    def __call__(self, carry, x):
        if x.shape != (self.size,):
            raise ValueError(f"LowPass expects an input of shape ({self.size},), got {x.shape}.")
        carry = self.decay * carry + x.astype(self.dtype)
        return carry, carry.astype(x.dtype)
