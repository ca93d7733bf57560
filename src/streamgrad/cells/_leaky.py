"""The leaky (continuous-time) rate network."""

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
    leak: float
    activation: Callable

    def __call__(self, state, drives):
        return ((1 - self.leak) * state[0] + self.leak * self.activation(drives[0]),)


class LeakyRNN(UnitCell):
    r"""Leaky rate network (CTRNN): $h' = (1-\alpha) h + \alpha\,\phi(W_x x + W_h h + b)$.

    `leak` is α = dt/τ in (0, 1], the same for all units and not learned. Parameters, state and output as in
    `Vanilla`.

    Reference: Murray, Local online learning in recurrent networks with random feedback, 2019.
    """

    leak: float = eqx.field(static=True)
    activation: Callable = eqx.field(static=True)

    input_gates = recurrent_gates = biased = (0,)

    def __init__(
        self,
        in_size: int,
        units: int,
        *,
        key: PRNGKeyArray,
        leak: float = 0.1,
        activation: Callable = jnp.tanh,
        wiring: Wiring | None = None,
        input_wiring: Wiring | None = None,
        dtype: Any = None,
    ):
        if not 0 < leak <= 1:
            raise ValueError(f"leak must lie in (0, 1], got {leak}: it is the time step over the time constant.")
        super().__init__(in_size, units, key=key, wiring=wiring, input_wiring=input_wiring, dtype=dtype)
        self.leak, self.activation = float(leak), activation

    @property
    def unit(self):
        return _Unit(self.leak, self.activation)
