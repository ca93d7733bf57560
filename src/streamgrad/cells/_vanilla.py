"""The Elman recurrence."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from ..wiring import Wiring
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

    input_gates = recurrent_gates = biased = (0,)

    def __init__(
        self,
        in_size: int,
        units: int,
        *,
        key: PRNGKeyArray,
        activation: Callable = jnp.tanh,
        wiring: Wiring | None = None,
        input_wiring: Wiring | None = None,
        dtype: Any = None,
    ):
        super().__init__(in_size, units, key=key, wiring=wiring, input_wiring=input_wiring, dtype=dtype)
        self.activation = activation

    @property
    def unit(self):
        return _Unit(self.activation)
