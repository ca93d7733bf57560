"""Long short-term memory."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from ..wiring import Wiring
from ._unit_cell import UnitCell


def _unit(state, drives):
    (c, _), (i, f, g, o) = state, drives
    i, f, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jax.nn.sigmoid(o)
    c = f * c + i * jnp.tanh(g)
    return c, o * jnp.tanh(c)


class LSTM(UnitCell):
    r"""Long short-term memory.

        i, f, o = σ(W_x x + W_h h + b)      g = tanh(W_xg x + W_hg h + b_g)
        c' = f ∘ c + i ∘ g                  h' = o ∘ tanh(c')

    Gates are in the order i, f, g, o; the forget bias starts at `forget_bias` (1). With
    `wiring=Columns()` this is the bank of a columnar network, for which SnAp-1 is exact.

    Parameters: `weight_x` (in, 4, units), `weight_h` (fan_in, 4, units), `bias` (4, units). State: (c, h) as
    (2, units). Output: h.

    Reference: Hochreiter & Schmidhuber, 1997; Gers et al., 2000.
    """

    input_gates = recurrent_gates = biased = (0, 1, 2, 3)
    entries = 2
    emits = 1
    unit = property(lambda self: _unit)

    def __init__(
        self,
        in_size: int,
        units: int,
        *,
        key: PRNGKeyArray,
        forget_bias: float = 1.0,
        wiring: Wiring | None = None,
        input_wiring: Wiring | None = None,
        dtype: Any = None,
    ):
        super().__init__(in_size, units, key=key, wiring=wiring, input_wiring=input_wiring, dtype=dtype)
        self.bias = self.bias.at[1].set(forget_bias)
