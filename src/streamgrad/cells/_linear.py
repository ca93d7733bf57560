"""Diagonal linear recurrences: the LRU and its real twin, the RTU."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._base.dtypes import complex_dtype, default_dtype, trace_dtype
from ..wiring import BiasLinks, DenseLinks
from ._bank import Bank, Link
from ._cell import Cell, check_sizes


def _lru_unit(state, drives):
    (h,), (decay, gamma, bu) = state, drives
    return (decay * h + gamma * bu,)


def _rtu_unit(state, drives):
    (c1, c2), (g, phi, gamma, b1, b2) = state, drives
    return g * c1 - phi * c2 + gamma * b1, g * c2 + phi * c1 + gamma * b2


def _ring(key, units, r_min, r_max, max_phase, dtype):
    """ν, θ with |λ| uniform in area on the ring r_min..r_max and the phase uniform in 0..max_phase."""
    if not 0 <= r_min < r_max <= 1:
        raise ValueError(f"The ring needs 0 <= r_min < r_max <= 1, got r_min={r_min}, r_max={r_max}.")
    key_r, key_p = jax.random.split(key)
    # Away from 0 and 1, where log log is infinite.
    tiny = 1e-6
    u = jax.random.uniform(key_r, (units,), dtype, tiny, 1 - tiny)
    nu = jnp.log(-0.5 * jnp.log(u * (r_max**2 - r_min**2) + r_min**2))
    theta = jnp.log(max_phase * jax.random.uniform(key_p, (units,), dtype, tiny, 1))
    return nu, theta


class LRU(Cell):
    r"""Linear recurrent unit: a diagonal complex recurrence; SnAp-1 is exact with one number a parameter.

        λ = exp(-exp(ν) + i exp(θ))        h' = λ ∘ h + exp(γ_log) ∘ (B x)        y = Re(C h) + D ∘ x

    Parameters, all real: `nu`, `theta`, `gamma_log` (units,); `b_re`, `b_im` (in, units); `c_re`, `c_im`
    (units, out); `d` (in,). D is there only when `out_size == in_size` (the default). State h: complex
    (1, units); output (out_size,).

    Reference: Orvieto et al., 2023 (2303.06349); Zucchet et al., 2023 (2305.15947).
    """

    nu: Float[Array, " units"]
    theta: Float[Array, " units"]
    gamma_log: Float[Array, " units"]
    b_re: Float[Array, "in_size units"]
    b_im: Float[Array, "in_size units"]
    c_re: Float[Array, "units out_size"]
    c_im: Float[Array, "units out_size"]
    d: Float[Array, " in_size"] | None
    in_size: int = eqx.field(static=True)
    units: int = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        units: int,
        *,
        key: PRNGKeyArray,
        out_size: int | None = None,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 6.28,
        dtype=None,
    ):
        out_size = in_size if out_size is None else out_size
        check_sizes(in_size=in_size, units=units, out_size=out_size)
        dtype = default_dtype(dtype)
        self.in_size, self.units = in_size, units
        key_ring, *keys = jax.random.split(key, 6)
        self.nu, self.theta = _ring(key_ring, units, r_min, r_max, max_phase, dtype)
        self.gamma_log = 0.5 * jnp.log(-jnp.expm1(-2 * jnp.exp(self.nu)))  # log √(1 - |λ|²)
        b, c = math.sqrt(2 * in_size), math.sqrt(units)
        self.b_re, self.b_im = (jax.random.normal(k, (in_size, units), dtype) / b for k in keys[:2])
        self.c_re, self.c_im = (jax.random.normal(k, (units, out_size), dtype) / c for k in keys[2:4])
        self.d = jax.random.normal(keys[4], (in_size,), dtype) if out_size == in_size else None

    def core(self):
        real = trace_dtype(self.nu.dtype)  # there is no complex bfloat16
        nu, theta, b_re, b_im = (leaf.astype(real) for leaf in (self.nu, self.theta, self.b_re, self.b_im))
        decay = jnp.exp(jax.lax.complex(-jnp.exp(nu), jnp.exp(theta)))
        gamma = jnp.exp(self.gamma_log).astype(decay.dtype)
        one = BiasLinks(self.units, 1)
        return Bank(
            weights=(decay[None, None], gamma[None, None], jax.lax.complex(b_re, b_im)[:, None]),
            links=(
                Link("1", (0,), one, "lambda", acts_on_state=True),
                Link("1", (1,), one, "gamma"),
                Link("x", (2,), DenseLinks(self.in_size, self.units, 1), "b"),
            ),
            unit=_lru_unit,
            entries=1,
            emits=0,
            shown=(0,),
        )

    def init_state(self):
        return jnp.zeros((1, self.units), complex_dtype(self.nu.dtype))

    def output(self, state, x):
        h = state[0]
        re, im = h.real.astype(self.c_re.dtype), h.imag.astype(self.c_im.dtype)
        y = re @ self.c_re - im @ self.c_im
        return y if self.d is None else y + self.d * x.astype(self.d.dtype)

    def parameter_unit(self):
        return _output_leaves(super().parameter_unit(), ("c_re", "c_im", "d"))


class RTU(Cell):
    r"""Recurrent trace unit: the LRU in real numbers, two state entries a unit; SnAp-1 is exact.

        r = exp(-exp(ν)), g = r cos(exp θ), φ = r sin(exp θ), γ = √(1 - r²)
        c1' = g c1 - φ c2 + γ W1 x         c2' = g c2 + φ c1 + γ W2 x        y = f(c1, c2), concatenated

    γ follows from ν and is not free. Parameters: `nu`, `theta` (units,); `w1`, `w2` (in, units). State
    (2, units); output (2 units,), each entry through tanh.

    Reference: Elelimy et al., 2024 (2409.01449).
    """

    nu: Float[Array, " units"]
    theta: Float[Array, " units"]
    w1: Float[Array, "in_size units"]
    w2: Float[Array, "in_size units"]
    in_size: int = eqx.field(static=True)
    units: int = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        units: int,
        *,
        key: PRNGKeyArray,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 6.28,
        dtype=None,
    ):
        check_sizes(in_size=in_size, units=units)
        dtype = default_dtype(dtype)
        self.in_size, self.units = in_size, units
        key_ring, *keys = jax.random.split(key, 3)
        self.nu, self.theta = _ring(key_ring, units, r_min, r_max, max_phase, dtype)
        self.w1, self.w2 = (jax.random.normal(k, (in_size, units), dtype) / math.sqrt(in_size) for k in keys)

    def core(self):
        r, phase = jnp.exp(-jnp.exp(self.nu)), jnp.exp(self.theta)
        gamma = jnp.sqrt(-jnp.expm1(-2 * jnp.exp(self.nu)))
        rotation = jnp.stack([r * jnp.cos(phase), r * jnp.sin(phase)])
        one, dense = BiasLinks(self.units, 1), DenseLinks(self.in_size, self.units, 2)
        return Bank(
            weights=(rotation[None], gamma[None, None], jnp.stack([self.w1, self.w2], axis=1)),
            links=(
                Link("1", (0, 1), BiasLinks(self.units, 2), "lambda", acts_on_state=True),
                Link("1", (2,), one, "gamma"),
                Link("x", (3, 4), dense, "w"),
            ),
            unit=_rtu_unit,
            entries=2,
            emits=0,
            shown=(0, 1),
        )

    def init_state(self):
        return jnp.zeros((2, self.units), self.nu.dtype)

    def output(self, state, x):
        return jnp.tanh(state).reshape(-1)

    def sees(self):
        reads, _, passes = super().sees()
        return reads, np.tile(np.eye(self.units, dtype=bool), (2, 1)), np.zeros_like(passes)


def _output_leaves(parameter_unit, names):
    present = [name for name in names if getattr(parameter_unit, name) is not None]
    return eqx.tree_at(
        lambda cell: [getattr(cell, name) for name in present], parameter_unit, [np.array(-1)] * len(present)
    )
