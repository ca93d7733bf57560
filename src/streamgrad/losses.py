"""Losses of one step: `(prediction, target) -> scalar`. Any such function serves as well."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Inexact, Int, Num


def entrywise(entries: Callable[[Any, Any], Any], *, labels: bool = False) -> Callable[[Any, Any], Any]:
    """Make a loss from a function of single entries: their mean, over those that are not missing in a `sg.Learner`.

        quantile = sg.losses.entrywise(lambda prediction, target: jnp.maximum(.9 * (target - prediction), ...))

    - `entries(prediction, target)`: arrays to an array of the target's shape, each entry from its own prediction
      (a label: from its own row of logits). Trees of arrays are taken leaf by leaf.
    - `labels`: integer targets are labels, of which a negative one is missing; else they are numbers like any other.
    """

    def loss(prediction, target):
        leaves = jax.tree.leaves(jax.tree.map(entries, prediction, target))
        if len(leaves) == 1:
            return jnp.mean(leaves[0])
        return sum(jnp.sum(leaf) for leaf in leaves) / sum(leaf.size for leaf in leaves)

    named: Any = functools.update_wrapper(loss, entries)
    # What a learner asks of a loss: a function of another's making has neither.
    named.entries, named.labels = entries, labels
    return named


@entrywise
def mse(prediction: Inexact[Array, "*shape"], target: Num[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Mean squared error, `mean((prediction - target)²)`."""
    return optax.squared_error(prediction, target)


@entrywise
def mae(prediction: Inexact[Array, "*shape"], target: Num[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Mean absolute error."""
    return jnp.abs(prediction - target)


@entrywise
def huber(prediction: Inexact[Array, "*shape"], target: Num[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Huber loss: squared (halved) up to an error of 1, linear beyond it."""
    return optax.huber_loss(prediction, target)


@functools.partial(entrywise, labels=True)
def cross_entropy(logits: Float[Array, "*shape classes"], label: Int[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Mean cross-entropy in nats of integer labels; to the `Learner` a negative label is a missing one."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)


@functools.partial(entrywise, labels=True)
def binary_cross_entropy(logits: Float[Array, "*shape"], target: Num[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Mean cross-entropy in nats of independent bits; to the `Learner` a NaN or a negative integer is a missing one."""
    return optax.sigmoid_binary_cross_entropy(logits, target.astype(logits.dtype))


#: Beyond this logarithm a rate goes on as a straight line: e³⁰ is 10¹³, and nothing overflows.
STEEPEST = 30.0


@functools.partial(entrywise, labels=True)
def poisson(log_rate: Float[Array, "*shape"], target: Num[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Mean negative log-likelihood in nats of independent counts whose mean is exp(prediction), without log(count!).

    To the `Learner` a NaN or a negative integer is a missing count. Beyond a prediction of 30 the exponential goes on
    as a straight line."""
    bent = jnp.minimum(log_rate, STEEPEST)
    return jnp.exp(bent) * (1 + log_rate - bent) - target.astype(log_rate.dtype) * log_rate
