"""Losses of one step: `(prediction, target) -> scalar`. Any such function serves as well."""

from __future__ import annotations

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Inexact, Int, Num


def mse(prediction: Inexact[Array, "*shape"], target: Inexact[Array, "*shape"]) -> Float[Array, ""]:
    """Mean squared error, `mean((prediction - target)²)`."""
    return jnp.mean(optax.squared_error(prediction, target))


def mae(prediction: Inexact[Array, "*shape"], target: Inexact[Array, "*shape"]) -> Float[Array, ""]:
    """Mean absolute error."""
    return jnp.mean(jnp.abs(prediction - target))


def huber(prediction: Inexact[Array, "*shape"], target: Inexact[Array, "*shape"]) -> Float[Array, ""]:
    """Huber loss: squared (halved) up to an error of 1, linear beyond it."""
    return jnp.mean(optax.huber_loss(prediction, target))


def cross_entropy(logits: Float[Array, " classes"], label: Int[Array, ""]) -> Float[Array, ""]:
    """Cross-entropy in nats of an integer label; to the `Learner` a negative label is a missing one."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)


def binary_cross_entropy(logits: Float[Array, "*shape"], target: Num[Array, "*shape"]) -> Float[Array, ""]:
    """Mean cross-entropy in nats of independent bits."""
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, target.astype(logits.dtype)))
