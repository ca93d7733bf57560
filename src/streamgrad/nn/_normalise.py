"""Online normalisation."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from .._base.dtypes import default_dtype, trace_dtype
from .._base.moments import Moments, advance
from ..cells._cell import check_sizes


class Normalise(eqx.Module):
    r"""Online normalisation, (x - m) / √v, of each entry; the statistics get no gradient.

        β_t = min(β, 1 - 1/(t + p))        m ← β_t m + (1-β_t) x        v ← β_t v + (1-β_t)(x - m_old)(x - m)

    The plain average of what was seen at first, an exponential one with decay β later. An entry that is not
    finite becomes 0 and does not count. Statistics are updated with x before x is normalised (they are
    causal all the same), they survive episode resets, and outputs are clipped to ±`clip`.

    A wild value does not last: after 16 values one counts for at most four times the variance so far (2√n standard
    deviations after n values), and a start whose variance is ten thousand times that of the newer half is forgotten.

    - `size`: entries of x; `decay`: β; `floor`: of the variance used in the division;
    - `prior`: p, as how many values the first statistics, mean 0 and variance 1, count (0: not at all; 1/(1-β): the
      average is exponential from the first step on, and starts as if the input were normalised already);
    - `still`: the statistics do not move any more (see `sg.nn.Fixed`).
    """

    size: int = eqx.field(static=True)
    decay: float = eqx.field(static=True)
    floor: float = eqx.field(static=True)
    clip: float = eqx.field(static=True)
    prior: float = eqx.field(static=True)
    still: bool = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    def __init__(
        self,
        size: int,
        *,
        decay: float = 0.99999,
        floor: float = 1e-8,
        clip: float = 10.0,
        prior: float = 0.0,
        still: bool = False,
        dtype=None,
    ):
        check_sizes(size=size)
        if not 0 < decay < 1:
            raise ValueError(f"decay must lie in (0, 1), got {decay}.")
        if not (prior >= 0 and np.isfinite(prior)):
            raise ValueError(f"prior must be a number of values, at least 0, got {prior}.")
        self.size, self.decay, self.floor, self.clip = size, float(decay), float(floor), float(clip)
        self.prior, self.still = float(prior), still
        self.dtype = trace_dtype(default_dtype(dtype))

    def init(self, *, key: PRNGKeyArray) -> Moments:
        """No value seen yet."""
        del key
        return Moments.fresh(self.size, self.dtype, self.prior)

    def __call__(self, carry, x):
        if x.shape != (self.size,):
            raise ValueError(f"Normalise expects an input of shape ({self.size},), got {x.shape}.")
        there = jnp.isfinite(x)
        value = jnp.where(there, x, 0).astype(self.dtype)
        moments = carry
        if not self.still:
            moments, bounds, _ = advance(carry, jax.lax.stop_gradient(x), self.decay, self.prior)
            value = jnp.clip(value, *jax.lax.stop_gradient(bounds))
        moments = jax.lax.stop_gradient(moments)
        scaled = (value - moments.mean) * jax.lax.rsqrt(jnp.maximum(moments.variance, self.floor))
        most = min(self.clip, float(jnp.finfo(self.dtype).max) ** 0.5)
        return moments, jnp.where(there, jnp.clip(scaled, -most, most), 0)

    def widen(self, carry: Moments, size: int) -> tuple[Normalise, Moments]:
        """The layer for an input that has grown; the new entries, at the end, begin without a value seen."""
        wide = dataclasses.replace(self, size=size)
        fresh = wide.init(key=jax.random.key(0))
        return wide, jax.tree.map(lambda new, old: new.at[: self.size].set(old), fresh, carry)
