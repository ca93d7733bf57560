"""A running mean and variance that no wild value, and no wild start, decides for ever."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .persistent import Persistent

SETTLE = 16  # values before which nothing counts as wild
SHARE = 4.0  # one value adds at most this many times the variance to it
APART = 1e4  # an older variance so many times that of the newer values is of another scale


class Average(NamedTuple):
    """The number of values seen, their mean and variance."""

    count: Int[Array, " size"]
    mean: Float[Array, " size"]
    variance: Float[Array, " size"]


class Moments(Persistent):
    """Running statistics: the number of values seen, their mean and variance; and those of the newer ones alone."""

    count: Int[Array, " size"]
    mean: Float[Array, " size"]
    variance: Float[Array, " size"]
    newer: Average

    @classmethod
    def fresh(cls, size: int, dtype, prior: float = 0.0) -> Moments:
        """No value seen yet; with a prior the variance begins as 1."""
        count, mean, _ = _nothing(size, dtype)  # arrays of its own: a step donates them all
        return cls(count, mean, jnp.full(size, 1.0 if prior else 0.0, dtype), _nothing(size, dtype))


def update_moments(moments: Moments, x: Float[Array, " size"], decay: float, prior: float = 0.0) -> Moments:
    r"""The statistics after one more value; entries that are not finite do not count.

    Two rules keep one value from deciding for ever, and neither touches ordinary data:

    - *A wild value is limited.* After `SETTLE` values none moves further from the mean than makes it count for
      `SHARE` times the variance so far: w (x - m)² ≤ 4 v, which is 2√n standard deviations after n values.
    - *A wild start is forgotten.* Beside the whole stand the newer values alone: their statistics begin anew whenever
      they have seen half of all. Where these have a variance, ten thousand times less than the whole's, they take
      its place.
    """
    return advance(moments, x, decay, prior)[0]


def advance(
    moments: Moments,
    x: Float[Array, " size"],
    decay: float,
    prior: float = 0.0,
    *,
    centred: bool = True,
    apart: float = APART,
) -> tuple[Moments, tuple[Array, Array], Bool[Array, " size"]]:
    """The statistics after one more value, the bounds of that value, and where the start was forgotten.

    `centred=False`: about 0, the mean square in the place of the variance; `apart`: times, instead of `APART`."""
    there, dtype = jnp.isfinite(x), moments.mean.dtype
    x = jnp.where(there, x, 0).astype(dtype)
    old, newer = _mended(moments, prior), moments.newer
    bounds = _bounds(old, decay, prior)
    new = _with(old, jnp.clip(x, *bounds), decay, prior, centred)
    newer = _with(newer, jnp.clip(x, *_bounds(newer, decay, 0.0)), decay, 0.0, centred)
    seen = newer.count.astype(dtype)
    full = (seen >= SETTLE) & ((2 * seen >= new.count.astype(dtype) + prior) | (seen >= 1 / (1 - decay)))
    forget = full & there & (newer.variance > 0) & (newer.variance < new.variance / apart)
    new = _where(forget, newer, new)
    newer = _where(full, _nothing(len(x), dtype), newer)
    new, newer = _where(there, new, old), _where(there, newer, moments.newer)
    return Moments(new.count, new.mean, new.variance, newer), bounds, forget


def _nothing(size: int, dtype) -> Average:
    return Average(jnp.zeros(size, jnp.int32), jnp.zeros(size, dtype), jnp.zeros(size, dtype))


def _where(condition, one: Average, other: Average) -> Average:
    return Average(*(jnp.where(condition, a, b) for a, b in zip(one, other, strict=True)))


def _mended(moments: Moments, prior: float) -> Average:
    """The whole; statistics that are not finite, as an older version could leave behind, begin anew."""
    whole = Average(moments.count, moments.mean, moments.variance)
    fresh = Moments.fresh(len(whole.mean), whole.mean.dtype, prior)
    sound = jnp.isfinite(whole.mean) & jnp.isfinite(whole.variance)
    return _where(sound, whole, Average(fresh.count, fresh.mean, fresh.variance))


def _weight(count, decay: float, prior: float, dtype):
    """Of the newest of so many values."""
    return jnp.maximum(1 / (jnp.maximum(count, 1).astype(dtype) + prior), 1 - decay)


def _bounds(average: Average, decay: float, prior: float) -> tuple[Array, Array]:
    """Between which the next value is an ordinary one."""
    count, mean, variance = average
    weight = _weight(count + 1, decay, prior, mean.dtype)
    # Beyond the largest its square would not be finite.
    largest = float(jnp.finfo(mean.dtype).max) ** 0.5 / 16
    settled = (count.astype(mean.dtype) + prior >= SETTLE) & (variance > 0)
    most = jnp.where(settled, jnp.sqrt(SHARE * variance / weight), jnp.inf)
    return jnp.maximum(mean - most, -largest), jnp.minimum(mean + most, largest)


def _with(average: Average, x, decay: float, prior: float, centred: bool) -> Average:
    # The count stops where the average has become exponential, so that it never overflows.
    count = jnp.minimum(average.count + 1, 2**30)
    weight = _weight(count, decay, prior, x.dtype)
    away = x - average.mean
    mean = average.mean + weight * away if centred else average.mean
    grown = (1 - weight) * average.variance + weight * away * (x - mean)
    return Average(count, mean, grown)
