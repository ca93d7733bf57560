"""The Elman recurrence."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp

from ._unit_cell import UnitCell


@dataclasses.dataclass(frozen=True)
class _Unit:
    activation: Callable

    def __call__(self, state, drives):
        return (self.activation(drives[0]),)


class Vanilla(UnitCell):
    r"""Elman network: $h' = \phi(W_x x + W_h h + b)$.

    Parameters: `weight_x` (in, 1, units), `weight_h` (fan_in, 1, units), `bias` (1, units). State and
    output: h, (1, units) and (units,). `activation` is any function of a scalar (tanh).

    Reference: Elman, Finding structure in time, 1990.
    """

    activation: Callable = eqx.field(static=True)

    hears_x = hears_h = biased = (0,)

    def __init__(self, in_size, units, *, activation: Callable = jnp.tanh, **options):
        super().__init__(in_size, units, **options)
        self.activation = activation

    @property
    def unit(self):
        return _Unit(self.activation)
