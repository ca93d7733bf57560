"""The gated linear unit."""

from __future__ import annotations

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray


class GatedLinear(eqx.Module):
    r"""Gated linear unit: y = (W₁ x + b₁) ∘ σ(W₂ x + b₂).

    `value` and `gate` are `eqx.nn.Linear`; x (in_size,), y (out_size,).

    Reference: Dauphin et al., 2017 (1612.08083).
    """

    value: eqx.nn.Linear
    gate: eqx.nn.Linear

    def __init__(self, in_size: int, out_size: int, *, key: PRNGKeyArray, dtype=None):
        key_value, key_gate = jax.random.split(key)
        self.value = eqx.nn.Linear(in_size, out_size, dtype=dtype, key=key_value)
        self.gate = eqx.nn.Linear(in_size, out_size, dtype=dtype, key=key_gate)

    def __call__(self, x: Float[Array, " in_size"]) -> Float[Array, " out_size"]:
        return self.value(x) * jax.nn.sigmoid(self.gate(x))
