"""Losses as a filter sees them: errors and how much they say, of a Gaussian or of an exponential family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .. import losses


class Errors(NamedTuple):
    """What a target says of the outputs.

    - `error`: y* - y of a Gaussian, T(y*) - E[T] of an exponential family whose natural parameters are the outputs;
    - `given`: which entries there are;
    - `fisher`: the family's Fisher matrix; None for a Gaussian, whose noise the filter estimates;
    - `weight`: the share of the information that a Gaussian error has by its size; None for all of it;
    - `reach`: how far an output may move in a step; None for no bound.
    """

    error: Float[Array, " ..."]
    given: Bool[Array, " ..."]
    fisher: Any = None
    weight: Any = None
    reach: Any = None


#: (prediction, target) -> Errors.
Family = Callable[[Array, Array], Errors]


def gaussian(prediction: Array, target: Array) -> Errors:
    """Squared errors."""
    given = jnp.isfinite(target)
    return Errors(jnp.where(given, target.astype(prediction.dtype) - prediction, 0), given)


def robust(prediction: Array, target: Array) -> Errors:
    """Huber's loss: a Gaussian whose error e counts with weight min(1, 1/|e|), the least squares that touch the loss at
    e and lie above it elsewhere."""
    error, given, *_ = gaussian(prediction, target)
    return Errors(error, given, weight=1 / jnp.maximum(jnp.abs(error), 1))


def categorical(logits: Array, label: Array) -> Errors:
    """Cross-entropy of one label; its Fisher matrix diag(p) - p pᵀ is singular."""
    p, given = jax.nn.softmax(logits), label >= 0
    error = jax.nn.one_hot(jnp.maximum(label, 0), len(p), dtype=p.dtype) - p
    fisher = jnp.diag(p) - p[:, None] * p[None, :]
    return Errors(jnp.where(given, error, 0), jnp.broadcast_to(given, p.shape), fisher)


def bernoulli(logits: Array, target: Array) -> Errors:
    """Binary cross-entropy of independent bits."""
    p = jax.nn.sigmoid(logits)
    return _independent(p, p * (1 - p), target)


def counts(log_rate: Array, target: Array) -> Errors:
    """Poisson, of independent counts: mean and variance are exp of the outputs.

    A count far above its rate would carry the output far beyond it, as the exponential bends: no step changes a rate by
    more than a factor of e⁶ = 400."""
    rate = jnp.exp(jnp.minimum(log_rate, losses.STEEPEST))
    return _independent(rate, rate, target)._replace(reach=jnp.full_like(rate, 6))


def _independent(mean, variance, target):
    """Errors of entries that have a mean and a variance each; negative targets are missing."""
    there = target.astype(mean.dtype)
    given = jnp.isfinite(there) & (there >= 0)
    return Errors(jnp.where(given, there - mean, 0), given, jnp.diag(variance))


FAMILIES: dict[Callable, Family] = {
    losses.mse: gaussian,
    losses.cross_entropy: categorical,
    losses.binary_cross_entropy: bernoulli,
    losses.poisson: counts,
    losses.huber: robust,
}


def family(loss: Callable) -> Family:
    """The family of a loss.

    Raises `TypeError` for a loss that is not known to be one."""
    if loss not in FAMILIES:
        known = ", ".join(f"sg.losses.{known.__name__}" for known in FAMILIES)
        raise TypeError(
            f"A Kalman filter learns from errors whose distribution it knows: use one of {known}, got {loss!r}."
        )
    return FAMILIES[loss]
