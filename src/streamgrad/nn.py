"""Building blocks for models: anything with `init(key=)` and `(carry, x) -> (carry, y)`, one step at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from ._dtypes import default_dtype, trace_dtype
from .cells import Cell
from .cells._cell import check_sizes


def is_stateful(layer: Any) -> bool:
    """Whether a layer has a carry of its own; any other callable is `y = layer(x)`."""
    return callable(getattr(layer, "init", None))


def _init(layers, key):
    keys = jax.random.split(key, len(layers))
    return tuple(layer.init(key=k) if is_stateful(layer) else () for layer, k in zip(layers, keys, strict=True))


class Sequential(eqx.Module):
    """Layers one after another: stateful ones (`sg.Recurrent`, `sg.RLS`, ...) and plain callables of x
    (`eqx.nn.Linear`, `jax.nn.gelu`, ...). The carry is the tuple of the layers' carries, () for plain ones.
    """

    layers: tuple[Any, ...]

    def __init__(self, layers: Sequence[Callable]):
        self.layers = tuple(layers)
        if not self.layers:
            raise ValueError("Sequential needs at least one layer, got none.")
        for k, layer in enumerate(self.layers):
            if isinstance(layer, Cell):
                raise TypeError(
                    f"Sequential: layer {k} is a cell: give it an algorithm, sg.Recurrent(cell, sg.SnAp(1))."
                )
            if not callable(layer):
                raise TypeError(f"Sequential: layer {k} is not callable: {layer!r}.")

    def init(self, *, key: PRNGKeyArray) -> tuple[PyTree, ...]:
        """The carries before the first step."""
        return _init(self.layers, key)

    def __call__(self, carry, x):
        new = []
        for layer, own in zip(self.layers, carry, strict=True):
            if is_stateful(layer):
                own, x = layer(own, x)
            else:
                x = layer(x)
            new.append(own)
        return tuple(new), x

    def fit(self, carry, target):
        """Fit the last layer, if it is one that fits itself (`sg.RLS`)."""
        *before, last = self.layers
        if not callable(getattr(last, "fit", None)):
            return self
        return eqx.tree_at(lambda m: m.layers, self, (*before, last.fit(carry[-1], target)))


class Parallel(eqx.Module):
    """Layers side by side on the same input, their outputs concatenated. `lambda x: x` passes the input on."""

    layers: tuple[Any, ...]

    def __init__(self, layers: Sequence[Callable]):
        self.layers = tuple(layers)
        if not self.layers:
            raise ValueError("Parallel needs at least one layer, got none.")

    def init(self, *, key: PRNGKeyArray) -> tuple[PyTree, ...]:
        """The carries before the first step."""
        return _init(self.layers, key)

    def __call__(self, carry, x):
        new, outputs = [], []
        for layer, own in zip(self.layers, carry, strict=True):
            if is_stateful(layer):
                own, y = layer(own, x)
            else:
                y = layer(x)
            new.append(own)
            outputs.append(y)
        return tuple(new), jnp.concatenate(outputs)


class Persistent(eqx.Module):
    """A carry that outlives episodes: a `reset` keeps it."""


class Moments(Persistent):
    """Running statistics: the number of values seen, their mean and variance."""

    count: Int[Array, " size"]
    mean: Float[Array, " size"]
    variance: Float[Array, " size"]


class Normalise(eqx.Module):
    r"""Online normalisation, (x - m) / √v, of each entry; the statistics get no gradient.

        β_t = min(β, 1 - 1/t)        m ← β_t m + (1-β_t) x        v ← β_t v + (1-β_t)(x - m_old)(x - m)

    The plain average of what was seen at first, an exponential one with decay β later. An entry that is not
    finite becomes 0 and does not count. Statistics are updated with x before x is normalised (they are
    causal all the same), they survive episode resets, and outputs are clipped to ±`clip`.

    - `size`: entries of x; `decay`: β; `floor`: of the variance used in the division.
    """

    size: int = eqx.field(static=True)
    decay: float = eqx.field(static=True)
    floor: float = eqx.field(static=True)
    clip: float = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    def __init__(self, size: int, *, decay: float = 0.99999, floor: float = 1e-8, clip: float = 10.0, dtype=None):
        check_sizes(size=size)
        if not 0 < decay < 1:
            raise ValueError(f"decay must lie in (0, 1), got {decay}.")
        self.size, self.decay, self.floor, self.clip = size, float(decay), float(floor), float(clip)
        self.dtype = trace_dtype(default_dtype(dtype))

    def init(self, *, key: PRNGKeyArray) -> Moments:
        """No value seen yet."""
        del key
        zero = jnp.zeros(self.size, self.dtype)
        return Moments(jnp.zeros(self.size, jnp.int32), zero, zero)

    def __call__(self, carry, x):
        if x.shape != (self.size,):
            raise ValueError(f"Normalise expects an input of shape ({self.size},), got {x.shape}.")
        moments = jax.lax.stop_gradient(update_moments(carry, x, self.decay))
        there = jnp.isfinite(x)
        scaled = (jnp.where(there, x, 0).astype(self.dtype) - moments.mean) * jax.lax.rsqrt(
            jnp.maximum(moments.variance, self.floor)
        )
        return moments, jnp.where(there, jnp.clip(scaled, -self.clip, self.clip), 0)


def update_moments(moments: Moments, x: Float[Array, " size"], decay: float) -> Moments:
    """The statistics after one more value; entries that are not finite do not count."""
    there = jnp.isfinite(x)
    x = jnp.where(there, x, 0).astype(moments.mean.dtype)
    # The count stops where the average has become exponential, so that it never overflows.
    count = jnp.minimum(moments.count + there.astype(jnp.int32), 2**30)
    weight = jnp.maximum(1 / jnp.maximum(count, 1).astype(x.dtype), 1 - decay)
    mean = moments.mean + weight * (x - moments.mean)
    variance = (1 - weight) * moments.variance + weight * (x - moments.mean) * (x - mean)
    keep = lambda new, old: jnp.where(there, new, old)
    return Moments(count, keep(mean, moments.mean), keep(variance, moments.variance))


class Lags(eqx.Module):
    """The last `count` inputs side by side, newest first: (count * size,). Zeros before the start."""

    size: int = eqx.field(static=True)
    count: int = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    def __init__(self, size: int, count: int, *, dtype=None):
        check_sizes(size=size, count=count)
        self.size, self.count, self.dtype = size, count, default_dtype(dtype)

    def init(self, *, key: PRNGKeyArray) -> Float[Array, "count size"]:
        """Zeros."""
        del key
        return jnp.zeros((self.count, self.size), self.dtype)

    def __call__(self, carry, x):
        if x.shape != (self.size,):
            raise ValueError(f"Lags expects an input of shape ({self.size},), got {x.shape}.")
        carry = jnp.concatenate([x[None].astype(self.dtype), carry[:-1]])
        # Only the newest input is of this step: the others are the past, which gets no gradient.
        past = jax.lax.stop_gradient(carry[1:])
        return jax.lax.stop_gradient(carry), jnp.concatenate([carry[:1], past]).ravel()
