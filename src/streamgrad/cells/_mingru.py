"""The minimal GRU, whose gates see the input alone."""

from __future__ import annotations

import jax

from ._unit_cell import UnitCell


def _unit(state, drives):
    (h,), (z, a) = state, drives
    z = jax.nn.sigmoid(z)
    return ((1 - z) * h + z * a,)


class MinGRU(UnitCell):
    r"""Minimal GRU: z = σ(W_z x + b_z), h' = (1 - z) ∘ h + z ∘ (W_a x + b_a); SnAp-1 is exact.

    Parameters: `weight_x` (in, 2, units), `bias` (2, units), gates in the order z, a.

    Reference: Feng et al., Were RNNs all we needed?, 2024 (2410.01201).
    """

    input_gates = biased = (0, 1)
    unit = property(lambda self: _unit)
