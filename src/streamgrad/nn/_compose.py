"""Layers one after another, side by side, and around a shortcut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from ._foreign import check_layer
from ._unroll import is_stateful, split_resets, unroll


def _init(layers, key):
    keys = jax.random.split(key, len(layers))
    return tuple(layer.init(key=k) if is_stateful(layer) else () for layer, k in zip(layers, keys, strict=True))


def grows(layer: Any) -> bool:
    """Whether a layer, or one within it, can grow by a stage."""
    if isinstance(layer, Sequential):
        return any(map(grows, layer.layers))
    return callable(getattr(layer, "grow", None))


class Sequential(eqx.Module):
    """Layers one after another: stateful ones (`sg.Recurrent`, `sg.RLS`, ...) and plain callables of x
    (`eqx.nn.Linear`, `jax.nn.gelu`, ...). The carry is the tuple of the layers' carries, () for plain ones.

    Raises `TypeError` for a layer that asks for more than x: `eqx.nn.BatchNorm`, `Dropout`, `GRUCell`, ...
    """

    layers: tuple[Any, ...]

    def __init__(self, layers: Sequence[Any]):
        self.layers = tuple(layers)
        if not self.layers:
            raise ValueError("Sequential needs at least one layer, got none.")
        for k, layer in enumerate(self.layers):
            check_layer(f"Sequential: layer {k}", layer)

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

    def unroll(self, carry, xs, resets):
        """Many steps at once, layer after layer: see `sg.nn.unroll`."""
        new = []
        for layer, own, reset in zip(self.layers, carry, split_resets(resets, len(self.layers)), strict=True):
            own, xs = unroll(layer, own, xs, reset)
            new.append(own)
        return tuple(new), xs

    @property
    def out_size(self) -> int | None:
        """The entries of its output, None where the last layers do not say."""
        for layer in reversed(self.layers):
            if (size := getattr(layer, "out_size", getattr(layer, "size", None))) is not None:
                return size
            if is_stateful(layer) or jax.tree.leaves(eqx.filter(layer, eqx.is_array)):
                return None
        return None

    def grow(self, carry, *, key: PRNGKeyArray):
        """The model after every layer that can grow has grown by a stage, with its carry. Layers that can grow are
        `sg.nn.Constructive`; the layers behind one are widened to its new outputs.

        Raises `TypeError` when no layer can grow, or one behind it cannot be widened."""
        if not grows(self):
            raise TypeError("Sequential: no layer can grow; sg.nn.Constructive can.")
        layers, carries, size = [], [], None
        for k, (layer, own) in enumerate(zip(self.layers, carry, strict=True)):
            if grows(layer):
                layer, own = layer.grow(own, key=jax.random.fold_in(key, k))
                size = getattr(layer, "out_size", None)
            elif size is not None and callable(getattr(layer, "widen", None)):
                layer, own = layer.widen(own, size)
                size = getattr(layer, "size", None)  # of what it hands on: a readout ends the growth
            elif size is not None and (is_stateful(layer) or jax.tree.leaves(eqx.filter(layer, eqx.is_array))):
                raise TypeError(
                    f"Sequential: layer {k} ({type(layer).__name__}) has no widen(carry, size), for an input that grew."
                )
            layers.append(layer)
            carries.append(own)
        return eqx.tree_at(lambda m: m.layers, self, tuple(layers)), tuple(carries)

    def fit(self, carry, target):
        """Fit the last layer, if it is one that fits itself (`sg.RLS`)."""
        *before, last = self.layers
        if not callable(getattr(last, "fit", None)):
            return self
        return eqx.tree_at(lambda m: m.layers, self, (*before, last.fit(carry[-1], target)))


class Parallel(eqx.Module):
    """Layers side by side on the same input, their outputs concatenated. `lambda x: x` passes the input on."""

    layers: tuple[Any, ...]

    def __init__(self, layers: Sequence[Any]):
        self.layers = tuple(layers)
        if not self.layers:
            raise ValueError("Parallel needs at least one layer, got none.")
        for k, layer in enumerate(self.layers):
            check_layer(f"Parallel: layer {k}", layer)

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

    def unroll(self, carry, xs, resets):
        """Many steps at once: see `sg.nn.unroll`."""
        new, outputs = [], []
        for layer, own, reset in zip(self.layers, carry, split_resets(resets, len(self.layers)), strict=True):
            own, ys = unroll(layer, own, xs, reset)
            new.append(own)
            outputs.append(ys)
        return tuple(new), jnp.concatenate(outputs, axis=1)


class Residual(eqx.Module):
    """A layer around which a shortcut leads: y = x + layer(x). Its carry is the layer's."""

    layer: Any

    def __check_init__(self):
        check_layer("Residual: its layer", self.layer)

    def init(self, *, key: PRNGKeyArray) -> PyTree:
        """The layer's carry before the first step."""
        return self.layer.init(key=key) if is_stateful(self.layer) else ()

    def __call__(self, carry, x):
        carry, y = self.layer(carry, x) if is_stateful(self.layer) else (carry, self.layer(x))
        if y.shape != x.shape:
            raise ValueError(f"Residual adds its layer's output to the input: got shapes {y.shape} and {x.shape}.")
        return carry, x + y

    def unroll(self, carry, xs, resets):
        """Many steps at once: see `sg.nn.unroll`."""
        carry, ys = unroll(self.layer, carry, xs, resets)
        return carry, xs + ys
