"""Leaky integrate-and-fire units, with surrogate gradients."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from ..wiring import Wiring
from ._unit_cell import UnitCell


@jax.custom_jvp
def spike(v):
    r"""Heaviside step with the pseudo-derivative $\psi(v) = 0.3 \max(0, 1 - |v|)$ (Bellec et al. 2020)."""
    return (v > 0).astype(v.dtype)


@spike.defjvp
def _spike_jvp(primals, tangents):
    (v,), (dv,) = primals, tangents
    return spike(v), 0.3 * jnp.maximum(0, 1 - jnp.abs(v)) * dv


def _reset(z, detached):
    return jax.lax.stop_gradient(z) if detached else z


@dataclasses.dataclass(frozen=True)
class _LIF:
    decay: float
    threshold: float
    detach_reset: bool

    def __call__(self, state, drives):
        (v, z), (i,) = state, drives
        v = self.decay * v + i - _reset(z, self.detach_reset) * self.threshold
        return v, spike((v - self.threshold) / self.threshold)


@dataclasses.dataclass(frozen=True)
class _ALIF:
    decay: float
    threshold: float
    adaptation_decay: float
    adaptation: float
    detach_reset: bool

    def __call__(self, state, drives):
        (v, b, z), (i,) = state, drives
        b = self.adaptation_decay * b + z
        v = self.decay * v + i - _reset(z, self.detach_reset) * self.threshold
        return v, b, spike((v - self.threshold - self.adaptation * b) / self.threshold)


class LIF(UnitCell):
    r"""Leaky integrate-and-fire: v' = α v + W_x x + W_h z + b - z ϑ, z' = H(v' - ϑ).

    The step H has the pseudo-derivative of `spike`; "exact" below means exact for that derivative.
    `decay` is α, `threshold` ϑ; with `detach_reset` no gradient passes through the reset - z ϑ. State (v, z) as
    (2, units); output and signal to other units: z.

    Reference: Bellec et al., 2020 (e-prop).
    """

    decay: float = eqx.field(static=True)
    threshold: float = eqx.field(static=True)
    detach_reset: bool = eqx.field(static=True)

    input_gates = recurrent_gates = biased = (0,)
    entries = 2
    emits = 1

    def __init__(
        self,
        in_size: int,
        units: int,
        *,
        key: PRNGKeyArray,
        decay: float = 0.9,
        threshold: float = 1.0,
        detach_reset: bool = False,
        wiring: Wiring | None = None,
        input_wiring: Wiring | None = None,
        dtype: Any = None,
    ):
        _check_neuron(decay=decay, threshold=threshold)
        super().__init__(in_size, units, key=key, wiring=wiring, input_wiring=input_wiring, dtype=dtype)
        self.decay, self.threshold, self.detach_reset = float(decay), float(threshold), detach_reset

    @property
    def unit(self):
        return _LIF(self.decay, self.threshold, self.detach_reset)


class ALIF(UnitCell):
    r"""Adaptive LIF: the threshold rises by `adaptation` times b' = ρ b + z.

    As `LIF`, with ρ = `adaptation_decay`. State (v, b, z) as (3, units); output z.

    Reference: Bellec et al., 2018 (1803.09574), 2020.
    """

    decay: float = eqx.field(static=True)
    threshold: float = eqx.field(static=True)
    adaptation_decay: float = eqx.field(static=True)
    adaptation: float = eqx.field(static=True)
    detach_reset: bool = eqx.field(static=True)

    input_gates = recurrent_gates = biased = (0,)
    entries = 3
    emits = 2

    def __init__(
        self,
        in_size: int,
        units: int,
        *,
        key: PRNGKeyArray,
        decay: float = 0.9,
        threshold: float = 1.0,
        adaptation_decay: float = 0.99,
        adaptation: float = 0.1,
        detach_reset: bool = False,
        wiring: Wiring | None = None,
        input_wiring: Wiring | None = None,
        dtype: Any = None,
    ):
        _check_neuron(decay=decay, threshold=threshold, adaptation_decay=adaptation_decay)
        super().__init__(in_size, units, key=key, wiring=wiring, input_wiring=input_wiring, dtype=dtype)
        self.decay, self.threshold, self.detach_reset = float(decay), float(threshold), detach_reset
        self.adaptation_decay, self.adaptation = float(adaptation_decay), float(adaptation)

    @property
    def unit(self):
        return _ALIF(self.decay, self.threshold, self.adaptation_decay, self.adaptation, self.detach_reset)


def _check_neuron(*, threshold, **decays):
    if threshold <= 0:
        raise ValueError(f"threshold must be positive, got {threshold}.")
    for name, decay in decays.items():
        if not 0 <= decay < 1:
            raise ValueError(f"{name} must lie in [0, 1), got {decay}.")
