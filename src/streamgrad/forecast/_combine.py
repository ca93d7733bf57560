"""One forecast of several: weighted by past loss, and fitted around their mean.

Targets are scaled so that the last value has an error of about 1, and all arrays are small.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

RATE, DECAY, CLIP, TINY = 10.0, 0.01, 9.0, 1e-6
PRIOR, FORGETTING, FAR = 0.01, 0.9998, 10.0


class Rated(NamedTuple):
    """`loss`: running mean of each forecaster's clipped squared error; `size`: of the targets' squares."""

    loss: Float[Array, " experts"]
    size: Float[Array, ""]


def rated(count: int) -> Rated:
    """Before the first loss: all are equal, and as good as the last value."""
    return Rated(jnp.ones(count), jnp.ones(()))


def rate(state: Rated, said: Float[Array, " experts"], truth: Array, given: Bool[Array, ""]) -> Rated:
    """The state after a target has come due. A forecast that was not finite counts the most that one can."""
    best = jnp.min(state.loss)
    most = CLIP * best + TINY * state.size
    square = jnp.where(jnp.isfinite(said), (said - truth) ** 2, jnp.inf)
    loss = state.loss + DECAY * (jnp.minimum(square, most) - state.loss)
    size = state.size + DECAY * (jnp.minimum(truth * truth, CLIP * state.size + TINY) - state.size)
    keep = lambda new, old: jnp.where(given, new, old)
    return Rated(keep(loss, state.loss), keep(size, state.size))


def weighted(state: Rated, said: Float[Array, " experts"], horizon: int) -> Array:
    """Their mean, weighted by exp(-rate (m - min m) / (min m + ε v)); what is not finite weighs nothing."""
    least = jnp.min(state.loss)
    there = jnp.isfinite(said)
    far = (state.loss - least) / (least + TINY * state.size)
    weight = jnp.where(there, jnp.exp(-RATE * horizon**-0.5 * far), 0)
    return jnp.sum(weight * jnp.where(there, said, 0)) / jnp.maximum(jnp.sum(weight), 1e-30)


class Stacked(NamedTuple):
    """A least-squares fit of what each forecaster says beyond their mean."""

    weight: Float[Array, " experts"]
    covariance: Float[Array, "experts experts"]
    noise: Float[Array, ""]


def stacked(count: int) -> Stacked:
    """Before the first target: their mean."""
    return Stacked(jnp.zeros(count), PRIOR * jnp.eye(count), jnp.ones(()))


def _around(said):
    there = jnp.isfinite(said)
    mean = jnp.sum(jnp.where(there, said, 0)) / jnp.maximum(jnp.sum(there), 1)
    return mean, jnp.clip(jnp.where(there, said - mean, 0), -FAR, FAR)


def stack(state: Stacked, said: Float[Array, " experts"]) -> Array:
    """The fitted forecast."""
    mean, beyond = _around(said)
    return mean + state.weight @ beyond


def fit(state: Stacked, said: Float[Array, " experts"], truth: Array, given: Bool[Array, ""], horizon: int) -> Stacked:
    """The fit after a target has come due."""
    mean, x = _around(said)
    gain = state.covariance @ x
    spread = state.noise * horizon**0.5 + x @ gain
    error = jnp.clip(truth - mean - state.weight @ x, -3 * jnp.sqrt(spread), 3 * jnp.sqrt(spread))
    covariance = (state.covariance - gain[:, None] * gain[None, :] / spread) / FORGETTING
    diagonal = jnp.maximum(jnp.diagonal(covariance), TINY)
    covariance *= jnp.minimum(1, jnp.sqrt(30 * PRIOR / diagonal[:, None]) * jnp.sqrt(30 * PRIOR / diagonal[None, :]))
    noise = 0.99 * state.noise + 0.01 * jnp.minimum(error * error, 9 * state.noise + TINY)
    keep = lambda new, old: jnp.where(given, new, old)
    return Stacked(
        keep(state.weight + gain * error / spread, state.weight),
        keep(covariance, state.covariance),
        keep(jnp.maximum(noise, 1e-3), state.noise),
    )
