"""Losses that are a log-likelihood of an exponential family: errors and their Fisher matrix, as a filter sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .. import losses

#: (prediction, target) -> error T(y) - E[T], which entries of it are given, and the Fisher matrix of the outputs by
#: their natural parameters (None: the identity, with a noise that the filter estimates).
Family = Callable[[Array, Array], tuple[Float[Array, "..."], Bool[Array, "..."], Any]]


def gaussian(prediction: Array, target: Array) -> tuple[Array, Array, Any]:
    """Squared errors."""
    given = jnp.isfinite(target)
    return jnp.where(given, target.astype(prediction.dtype) - prediction, 0), given, None


def categorical(logits: Array, label: Array) -> tuple[Array, Array, Any]:
    """Cross-entropy of one label; its Fisher matrix diag(p) - p pᵀ is singular."""
    p, given = jax.nn.softmax(logits), label >= 0
    error = jax.nn.one_hot(jnp.maximum(label, 0), len(p), dtype=p.dtype) - p
    return jnp.where(given, error, 0), jnp.broadcast_to(given, p.shape), jnp.diag(p) - p[:, None] * p[None, :]


def bernoulli(logits: Array, target: Array) -> tuple[Array, Array, Any]:
    """Binary cross-entropy of independent bits."""
    p, bit = jax.nn.sigmoid(logits), target.astype(logits.dtype)
    given = jnp.isfinite(bit) & (bit >= 0)
    return jnp.where(given, bit - p, 0), given, jnp.diag(p * (1 - p))


FAMILIES: dict[Callable, Family] = {
    losses.mse: gaussian,
    losses.cross_entropy: categorical,
    losses.binary_cross_entropy: bernoulli,
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
