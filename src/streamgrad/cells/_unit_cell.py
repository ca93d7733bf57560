"""Cells that are a bank of units with weights from the input, from the other units and a bias."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Inexact, PRNGKeyArray

from .._base.dtypes import default_dtype
from ..wiring import BiasLinks, Dense, Links, Wiring
from ._bank import Bank, Link
from ._cell import Cell, check_sizes


def uniform(key, links: Links, gates: int, dtype, gain: float = 1.0) -> Inexact[Array, "fan_in gates units"]:
    """Weights U(-b, b) with b = gain * sqrt(3 / fan_in): unit variance in gives `gain**2` out."""
    bound = gain * (3 / links.fan_in) ** 0.5
    return jax.random.uniform(key, (links.fan_in, gates, links.units), dtype, -bound, bound)


class UnitCell(Cell):
    r"""A cell given by its drives and one function of one unit.

    A subclass names which drives hear the input (`input_gates`), the other units (`recurrent_gates`) and have a bias
    (`biased`), the number of state entries and which of them others see, and writes `unit`.

    - `weight_x`: (fan_in of the input, gates, units); `weight_h`: (fan_in, gates, units), absent when no
      drive hears the units; `bias`: (gates, units).
    """

    weight_x: Inexact[Array, "_ _ units"]
    weight_h: Inexact[Array, "_ _ units"] | None
    bias: Inexact[Array, "_ units"]
    in_size: int = eqx.field(static=True)
    units: int = eqx.field(static=True)
    wiring: Wiring = eqx.field(static=True)
    input_wiring: Wiring = eqx.field(static=True)

    input_gates: ClassVar[tuple[int, ...]]
    recurrent_gates: ClassVar[tuple[int, ...]] = ()
    biased: ClassVar[tuple[int, ...]]
    entries: ClassVar[int] = 1
    emits: ClassVar[int] = 0

    def __init__(
        self,
        in_size: int,
        units: int,
        *,
        key: PRNGKeyArray,
        wiring: Wiring | None = None,
        input_wiring: Wiring | None = None,
        dtype: Any = None,
    ):
        check_sizes(in_size=in_size, units=units)
        for name, given in (("wiring", wiring), ("input_wiring", input_wiring)):
            if given is not None and not isinstance(given, Wiring):
                raise TypeError(f"{name} must be a wiring such as sg.wiring.Dense(), got {given!r}.")
        if wiring is not None and not self.recurrent_gates:
            raise TypeError(f"{type(self).__name__} has no links between its units: leave wiring out, got {wiring!r}.")
        dtype = default_dtype(dtype)
        self.in_size, self.units = in_size, units
        self.wiring, self.input_wiring = wiring or Dense(), input_wiring or Dense()
        key_x, key_h = jax.random.split(key)
        self.weight_x = uniform(key_x, self._links_x(), len(self.input_gates), dtype)
        self.weight_h = (
            uniform(key_h, self._links_h(), len(self.recurrent_gates), dtype) if self.recurrent_gates else None
        )
        self.bias = jnp.zeros((len(self.biased), units), dtype)

    @property
    def unit(self) -> Callable:
        """The function of one unit: (entries of state, drives) -> new entries, all scalars. Hashable."""
        raise TypeError(f"{type(self).__name__} does not define `unit`.")

    def _links_x(self):
        return self.input_wiring.connect(self.in_size, self.units, len(self.input_gates))

    def _links_h(self):
        return self.wiring.connect(self.units, self.units, len(self.recurrent_gates))

    def core(self):
        links = [Link("x", self.input_gates, self._links_x(), "weight_x")]
        weights = [self.weight_x]
        if self.weight_h is not None:
            links.append(Link("h", self.recurrent_gates, self._links_h(), "weight_h", acts_on_state=True))
            weights.append(self.weight_h)
        links.append(Link("1", self.biased, BiasLinks(self.units, len(self.biased)), "bias"))
        weights.append(self.bias[None])
        return Bank(tuple(weights), tuple(links), self.unit, self.entries, self.emits, (self.emits,))

    def init_state(self) -> Inexact[Array, "entries units"]:
        return jnp.zeros((self.entries, self.units), self.weight_x.dtype)

    def output(self, state, x):
        return state[self.emits]

    def sees(self):
        index = self._links_x().index()
        reads = np.zeros((self.units, self.in_size), bool)
        index = np.broadcast_to(index, self.weight_x.shape)
        there = index < self.in_size  # padding is no link
        reads[np.broadcast_to(np.arange(self.units), index.shape)[there], index[there]] = True
        return reads, np.eye(self.units, dtype=bool), np.zeros((self.units, self.in_size), bool)
