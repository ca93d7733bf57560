"""Independently recurrent networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from ..wiring import BiasLinks, Wiring
from ._bank import Link
from ._unit_cell import UnitCell


@dataclasses.dataclass(frozen=True)
class _Unit:
    activation: Callable

    def __call__(self, state, drives):
        return (self.activation(drives[0] + drives[1] * state[0]),)


class IndRNN(UnitCell):
    r"""Independently recurrent network: $h' = \phi(W x + u \circ h + b)$; SnAp-1 is exact.

    Parameters: `weight_x` (in, 1, units), `bias` (1, units) and `u` (units,), u ~ U(0, 1) at the start.

    Reference: Li et al., 2018 (1803.04831).
    """

    u: Float[Array, " units"]
    activation: Callable = eqx.field(static=True)

    input_gates = biased = (0,)

    def __init__(
        self,
        in_size: int,
        units: int,
        *,
        key: PRNGKeyArray,
        activation: Callable = jax.nn.relu,
        wiring: Wiring | None = None,
        input_wiring: Wiring | None = None,
        dtype: Any = None,
    ):
        key, key_u = jax.random.split(key)
        super().__init__(in_size, units, key=key, wiring=wiring, input_wiring=input_wiring, dtype=dtype)
        self.activation = activation
        self.u = jax.random.uniform(key_u, (units,), self.bias.dtype)

    @property
    def unit(self):
        return _Unit(self.activation)

    def core(self):
        bank = super().core()
        link = Link("1", (1,), BiasLinks(self.units, 1), "u", acts_on_state=True)
        return dataclasses.replace(bank, weights=(*bank.weights, self.u[None, None]), links=(*bank.links, link))
