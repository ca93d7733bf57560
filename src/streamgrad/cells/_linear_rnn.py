"""The dense linear recurrence."""

from __future__ import annotations

from typing import Any

from jaxtyping import PRNGKeyArray

from ..wiring import Wiring
from ._unit_cell import UnitCell


def _unit(state, drives):
    return (drives[0],)


class LinearRNN(UnitCell):
    r"""Linear recurrent network with any wiring: $h' = W_x x + W_h h + b$.

    The linear recurrence without the structure of an LRU: a baseline. Parameters: `weight_x` (in, 1, units),
    `weight_h` (fan_in, 1, units), which starts with eigenvalues spread over a disc of radius near .95, `bias`
    (1, units). State and output: h, (1, units) and (units,).

    Reference: the dense baseline of Zucchet et al., 2023 (2305.15947).
    """

    input_gates = recurrent_gates = biased = (0,)
    unit = property(lambda self: _unit)

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
        super().__init__(in_size, units, key=key, wiring=wiring, input_wiring=input_wiring, dtype=dtype)
        assert self.weight_h is not None
        self.weight_h = self.weight_h * 0.95
