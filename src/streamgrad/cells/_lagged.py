"""A recurrence that hears itself several steps ago."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._base.dtypes import default_dtype
from .._base.static import Static
from ..structure import Structure
from ..wiring import Dense, Wiring
from ._cell import Cell, cast_input, check_sizes
from ._function_core import FunctionCore, flat_groups
from ._unit_cell import uniform


class LaggedRNN(Cell):
    r"""RNN(p), whose units hear each other at several steps of the past:
    $h_t = \phi(W_x x_t + \sum_{l \in \text{lags}} W_l h_{t-l} + b)$.

    The lags of a season, 24 and 168 of hourly data, say, reach over it in one link. With `lags=(1,)` it is `Vanilla`.
    In the paper units hear the forecast at each lag (Jordan's feedback), a linear readout of them: W_l has rank one.

    - `lags`: steps back, different positive integers; `activation`: any function of a scalar (tanh);
    - `wiring`: from which units each unit hears, at every lag the same.

    Parameters: `weight_x` (in, 1, units), `weight_h` (fan_in, lags, units), `bias` (1, units). State: the last
    max(lags) values of h, newest first, (max(lags), units); output: h. The influence grows with the longest lag:
    `RTRL` keeps max(lags) × units rows, `SnAp(1)` max(lags) of each parameter, exact for one unit.

    Raises `ValueError` for lags that are no different positive integers.

    Reference: Baviera & Manzoni, RNN(p) for power consumption forecasting, 2022 (2209.01378).
    """

    weight_x: Float[Array, "in_size 1 units"]
    weight_h: Float[Array, "fan_in lags units"]
    bias: Float[Array, "1 units"]
    in_size: int = eqx.field(static=True)
    units: int = eqx.field(static=True)
    lags: tuple[int, ...] = eqx.field(static=True)
    activation: Callable = eqx.field(static=True)
    wiring: Wiring = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        units: int,
        *,
        lags: Sequence[int],
        key: PRNGKeyArray,
        activation: Callable = jnp.tanh,
        wiring: Wiring | None = None,
        dtype=None,
    ):
        check_sizes(in_size=in_size, units=units)
        lags = tuple(lags)
        if not lags or len(set(lags)) < len(lags) or not all(type(lag) is int and lag > 0 for lag in lags):
            raise ValueError(f"lags must be different positive integers, such as (1, 24), got {lags!r}.")
        self.in_size, self.units, self.lags, self.activation = in_size, units, lags, activation
        self.wiring, dtype = wiring or Dense(), default_dtype(dtype)
        keys = jax.random.split(key)
        bound = (3 / in_size) ** 0.5
        self.weight_x = jax.random.uniform(keys[0], (in_size, 1, units), dtype, -bound, bound)
        self.weight_h = uniform(keys[1], self._links(), len(lags), dtype, gain=len(lags) ** -0.5)
        self.bias = jnp.zeros((1, units), dtype)

    def _links(self):
        return self.wiring.connect(self.units, self.units, 1)

    def core(self):
        structure = _structure(self._links().edges(), self.units, max(self.lags), self._per_unit())
        return FunctionCore(self, _step, structure, flat_groups(self, self.parameter_unit()))

    def _per_unit(self):
        return sum(leaf.size // self.units for leaf in (self.weight_x, self.weight_h, self.bias))

    def init_state(self):
        return jnp.zeros((max(self.lags), self.units), self.bias.dtype)

    def output(self, state, x):
        return state[0]


def _step(cell: LaggedRNN, state, x):
    drive = jnp.tensordot(cast_input(x, state.dtype), cell.weight_x[:, 0], 1) + cell.bias[0]
    for slot, lag in enumerate(cell.lags):
        drive = drive + cell._links().drive(cell.weight_h[:, slot : slot + 1], state[lag - 1])[0]
    return jnp.concatenate([jax.vmap(cell.activation)(drive)[None], state[:-1]])


def _structure(edges: np.ndarray | None, units: int, entries: int, per_unit: int) -> Structure:
    return Structure(
        entry_unit=Static(np.tile(np.arange(units), entries)),
        reads=None if edges is None else Static(np.unique(np.c_[edges, np.tile(np.arange(units), (2, 1))], axis=1)),
        touches=None,
        group_sizes=Static(np.full(units, per_unit)),
    )
