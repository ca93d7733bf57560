"""Gated recurrent units."""

from __future__ import annotations

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from .._base.static import Static
from ..structure import Structure
from ..wiring import Links, Wiring
from ._cell import Cell
from ._function_core import FunctionCore, flat_groups
from ._unit_cell import UnitCell


def _unit(state, drives):
    (h,), (z, r, a, c) = state, drives
    z, r = jax.nn.sigmoid(z), jax.nn.sigmoid(r)
    return ((1 - z) * h + z * jnp.tanh(a + r * c),)


def _reset_before(cell: GRU, state, x):
    """One step with the reset gate before the matmul: two stages within the step."""
    (h,) = state
    assert cell.weight_h is not None
    x = x.astype(h.dtype)
    by_x = cell._links_x().drive(cell.weight_x, x) + cell.bias
    links = cell._links_h()
    z, r, _ = by_x + links.drive(cell.weight_h, h)
    z, r = jax.nn.sigmoid(z), jax.nn.sigmoid(r)
    a = by_x[2] + links.drive(cell.weight_h, r * h)[2]
    return ((1 - z) * h + z * jnp.tanh(a))[None]


class GRU(UnitCell):
    r"""Gated recurrent unit.

        z = σ(W_xz x + W_hz h + b_z)
        r = σ(W_xr x + W_hr h + b_r)
        a = tanh(W_xa x + r ∘ (W_ha h) + b_a)
        h' = (1 - z) ∘ h + z ∘ a

    The reset gate acts after the matmul, so that every parameter enters exactly one unit. With
    `reset_before=True`, a = tanh(W_xa x + W_ha (r ∘ h) + b_a): a reset parameter then enters every unit that
    reads its own, and the influence is wider. Gates are in the order z, r, a.

    Parameters: `weight_x` (in, 3, units), `weight_h` (fan_in, 3, units), `bias` (3, units). State and
    output: h, (1, units) and (units,).

    Reference: Cho et al., 2014 (1406.1078).
    """

    reset_before: bool = eqx.field(static=True)

    input_gates = (0, 1, 2)
    recurrent_gates = (0, 1, 3)
    biased = (0, 1, 2)
    unit = property(lambda self: _unit)

    def __init__(
        self,
        in_size: int,
        units: int,
        *,
        key: PRNGKeyArray,
        reset_before: bool = False,
        wiring: Wiring | None = None,
        input_wiring: Wiring | None = None,
        dtype: Any = None,
    ):
        super().__init__(in_size, units, key=key, wiring=wiring, input_wiring=input_wiring, dtype=dtype)
        self.reset_before = reset_before

    def core(self):
        if not self.reset_before:
            return super().core()
        return FunctionCore(
            self,
            _reset_before,
            _two_stage_structure(self._links_h(), len(self.weight_x)),
            flat_groups(self, self.parameter_unit()),
        )

    def parameter_unit(self):
        """Reset parameters form groups of their own, units..2 units, when they act before the matmul."""
        if not self.reset_before:
            return super().parameter_unit()
        unit = np.arange(self.units)
        gates = np.stack([unit, unit + self.units, unit])
        return eqx.tree_at(
            lambda cell: (cell.weight_x, cell.weight_h, cell.bias), super().parameter_unit(), (gates,) * 3
        )

    def sees(self):
        # An input that opens a reset gate is felt by every reader of that unit, so no finer pattern is claimed.
        return Cell.sees(self) if self.reset_before else super().sees()


@functools.lru_cache(maxsize=64)
def _two_stage_structure(links: Links, fan_in_x: int) -> Structure:
    units = links.units
    index = np.broadcast_to(links.index(), (links.fan_in, 3, units))
    reads = np.zeros((3, units, units), bool)  # gate, unit, source
    for gate in range(3):
        there = index[:, gate] < units  # padding is no link
        reads[gate, np.broadcast_to(np.arange(units), there.shape)[there], index[:, gate][there]] = True
    gate_z, gate_r, gate_a = reads
    through_reset = gate_a @ gate_r
    adjacency = gate_z | gate_a | through_reset | np.eye(units, dtype=bool)
    # Group i: parameters of z and a, which enter unit i; group units + i: of r, which enter its readers.
    touches = np.concatenate([np.eye(units, dtype=bool), gate_a], axis=1)
    per_gate = fan_in_x + links.fan_in + 1
    return Structure(
        entry_unit=Static(np.arange(units)),
        reads=None if adjacency.all() else Static(np.stack(np.nonzero(adjacency))),
        touches=Static(np.stack(np.nonzero(touches))),
        group_sizes=Static(np.repeat([2 * per_gate, per_gate], units)),
    )
