"""Sums over the streams that have a target."""

from __future__ import annotations

import jax.numpy as jnp


def total(each, there):
    """The sum over the streams that have a target."""
    return jnp.sum(jnp.where(there, each, 0))


def mean(each, there):
    """The mean over the streams that have a target; 0 when none has."""
    return total(each, there) / jnp.maximum(there.sum(), 1).astype(each.dtype)
