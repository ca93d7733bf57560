"""Kernel RNN learning."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._base.dtypes import trace_dtype
from .._base.ranks import in_rank
from ._algorithm import Online
from ._drives import require_bank, weigh
from ._jvp_vjp import products, traits


class KeRNL(Online):
    r"""Kernel RNN learning: an effect of unit i on unit k that fades at a rate of its own, both learned.

    $$\frac{\partial s_k(t)}{\partial s_i(t-\tau)} \approx A_{ki} (1-\gamma_i)^\tau: \qquad
      B_t = (1-\gamma_i) B_{t-1} + I_t, \qquad g_t = (A^\top \delta_t)_i\, B_t$$

    A and γ learn to predict what noise in the state does. Noise ξ is fed into a tangent of the state,
    $\zeta_t = D_t \zeta_{t-1} + \xi_t$, and into the kernel's own account of it, $\omega_t = (1-\gamma) \omega_{t-1} +
    \xi_t$; the gradient of $\tfrac12 |A \omega_t - \zeta_t|^2$, divided by $1 + |\omega_t|^2$, goes to the model's
    optimiser, as that of leaves of the algorithm, shared by all streams. (The tangent is the limit of small noise in a
    second copy of the network.) Clip it apart from the rest, by `optax.multi_transform`: it is no part of the loss.

    - `weight`: A, (units, units), starts at the identity; `rate`: γ, (units,), starts at 1/`timescale` and is held in
      [0, 1]; `learn=False` fixes both. With A = 1 and γ = α on a leaky network it is `RFLO`.

    For cells made of drives with one real state entry a unit; others are refused with `TypeError` when bound.

    Reference: Roth et al., Kernel RNN learning (KeRNL), 2019.
    """

    weight: Float[Array, "units units"] | None = None
    rate: Float[Array, " units"] | None = None
    timescale: float = eqx.field(static=True, default=10.0)
    learn: bool = eqx.field(static=True, default=True)

    @property
    def learns(self):
        return self.learn

    def __check_init__(self):
        if not self.timescale >= 1:
            raise ValueError(f"KeRNL(timescale) is 1/γ >= 1, in steps, got {self.timescale!r}.")

    def bind(self, core: Any, state, x):
        fits = getattr(core, "entries", 0) == 1 and not jnp.issubdtype(core.dtype, jnp.complexfloating)
        need = "a cell made of drives with one real state entry a unit"
        require_bank(self, core, fits=fits, need=need, instead="sg.cells.Vanilla, GRU, LeakyRNN, IndRNN or MinGRU")
        dtype, units = trace_dtype(core.dtype), core.units
        weight = jnp.eye(units, dtype=dtype) if self.weight is None else self.weight
        rate = jnp.full(units, 1 / self.timescale, dtype) if self.rate is None else self.rate
        if weight.shape != (units, units) or rate.shape != (units,):
            raise ValueError(
                f"KeRNL on {units} units needs weight ({units}, {units}) and rate ({units},), got {weight.shape} and "
                f"{rate.shape}."
            )
        return dataclasses.replace(self, weight=weight, rate=rate)

    def _bound(self) -> tuple[Array, Array]:
        if self.weight is None or self.rate is None:
            raise ValueError("KeRNL was used before it knew its cell: give it to sg.Recurrent(cell, algorithm).")
        return self.weight, self.rate

    def init(self, core: Any, state, *, key):
        traces = tuple(jnp.zeros(weights.shape, trace_dtype(weights.dtype)) for weights in core.weights)
        zero = lambda: jnp.zeros(core.units, trace_dtype(core.dtype))
        return traces, (zero(), zero(), zero(), key)

    def advance(self, core: Any, trace, state, x, context):
        del context
        traces, (zeta, omega, by_rate, key) = trace
        key, fresh = jax.random.split(key)
        step = core.linearise(state, x)
        keep = 1 - jnp.clip(self._bound()[1], 0, 1)
        k = [jnp.zeros_like(keep) if d is None else d for d in step.drive[0]]
        now = weigh(core, k, list(step.inputs))
        traces = tuple(
            in_rank(keep, b.ndim).astype(b.dtype) * b + i.astype(b.dtype) for b, i in zip(traces, now, strict=True)
        )
        if self.learn:
            noise = jax.random.normal(fresh, omega.shape, omega.dtype)
            by_rate = keep * by_rate - omega  # dω/dγ
            omega = keep * omega + noise
            zeta = products(core, state, x)[1](zeta[None])[0] + noise
        probe = zeta, omega, by_rate
        return step.state, (traces, (*probe, key)), (traces, probe)

    def pullback(self, core: Any, residual, cotangent: Any):
        traces, (zeta, omega, by_rate) = residual
        weight = self._bound()[0]
        delta = cotangent[0].astype(weight.dtype) @ weight
        gradient = tuple(
            (in_rank(delta, b.ndim).astype(b.dtype) * b).astype(w.dtype)
            for b, w in zip(traces, core.weights, strict=True)
        )
        by_core = eqx.tree_at(lambda bank: bank.weights, core, gradient)
        if not self.learn:
            return None, by_core
        rate = self._bound()[1]
        error = (weight @ omega - zeta) / (1 + omega @ omega)
        by_rate = (error @ weight) * by_rate
        outward = ((rate <= 0) & (by_rate > 0)) | ((rate >= 1) & (by_rate < 0))
        own = jnp.outer(error, omega), jnp.where(outward, 0, by_rate)
        return eqx.tree_at(lambda a: (a.weight, a.rate), self, own), by_core

    def traits(self, core: Any):
        size = core.structure.parameters
        return traits(
            core,
            bias="biased",
            reason="units act on each other by a learned kernel that fades at a constant rate",
            exact_at_one_step=False,
            kept=size + 3 * core.units,
            flops=4 * size + 4 * core.units**2,
            layout="one trace per weight, and a probe of noise",
            reference="Roth et al. 2019",
        )
