r"""Forecasts of several experts made into one: by weights from past losses, and by a regression around their mean.

    m_k ← (1-ρ) m_k + ρ min(loss_k, 9 min_j m_j + ε v)        w_k ∝ exp(-η h^-½ (m_k - min m) / (min m + ε v))

loss_k is the squared error of a forecast that has come due, v the mean square of the target's changes, which is the
scale of losses. `Weighting` is this rule, `Stacking` a Kalman filter (recursive least squares) over the experts'
differences from their mean, and `Mixing` weighs what these two make by the same rule.

A forecast that is not finite is missing: it weighs 0, and the largest loss that counts is its loss. All are pure
functions of arrays; map them over targets.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ._kalman import Kalman, KalmanState

#: ε: an exact expert is as good as one whose error is a thousandth of the target's changes.
EPSILON = 1e-6
#: Losses count up to so many times the smallest mean, changes of the target up to so many times theirs.
CLIP = 9.0

Number = float | Array


class Scale(NamedTuple):
    """The clipped running mean square of the target's changes; NaN before there are any."""

    last: Float[Array, ""]
    square: Float[Array, ""]

    @classmethod
    def start(cls, dtype: Any) -> Scale:
        return cls(jnp.full((), jnp.nan, dtype), jnp.full((), jnp.nan, dtype))

    @property
    def value(self) -> Float[Array, ""]:
        """v, 0 before the first change."""
        return jnp.where(jnp.isnan(self.square), 0, self.square)

    def after(self, target: Float[Array, ""], decay: Array) -> Scale:
        """What a target adds; one that is missing adds nothing."""
        change = (target - self.last) ** 2
        known = self.square > 0
        mixed = (1 - decay) * self.square + decay * jnp.minimum(change, CLIP * self.square)
        square = jnp.where(jnp.isfinite(change), jnp.where(known, mixed, change), self.square)
        return Scale(jnp.where(jnp.isfinite(target), target, self.last), square)


class Weighting(eqx.Module):
    r"""Weights of experts from their past losses.

    - `rate`: η, how fast an expert that is worse loses its weight; `decay`: ρ, a loss counts for about 1/ρ rows;
    - `horizon`: h, how many rows ahead the forecasts are.

    The state is m, infinite before the first losses; until then weights are equal.
    """

    rate: Number = 10.0
    decay: Number = 0.01
    horizon: Number = 1.0

    def init(self, experts: int, dtype: Any = None) -> Float[Array, " experts"]:
        """m before the first losses."""
        return jnp.full(experts, jnp.inf, jnp.result_type(float) if dtype is None else dtype)

    def weights(
        self, state: Float[Array, " experts"], there: Bool[Array, " experts"], v: Float[Array, ""]
    ) -> Float[Array, " experts"]:
        """w of the experts whose forecast is there: their sum is 1, or 0 when there is none."""
        number = lambda value: jnp.asarray(value, state.dtype)
        tiny = float(jnp.finfo(state.dtype).tiny) ** 0.5
        least = jnp.min(jnp.where(there, state, jnp.inf))
        behind = jnp.where(state > least, state - least, 0)  # 0 of infinities too
        steepness = number(self.rate) / jnp.sqrt(number(self.horizon))
        raw = jnp.where(there, jnp.exp(-steepness * behind / (jnp.min(state) + EPSILON * v + tiny)), 0)
        return raw / jnp.maximum(jnp.sum(raw), tiny)

    def update(
        self, state: Float[Array, " experts"], losses: Float[Array, " experts"], v: Float[Array, ""]
    ) -> Float[Array, " experts"]:
        """m after the losses of forecasts that have come due. A loss that is not finite is that of a missing forecast;
        when all are, nothing changes."""
        decay = jnp.asarray(self.decay, state.dtype)
        there = jnp.isfinite(losses)
        losses = jnp.where(there, losses, jnp.inf)
        begun = jnp.isfinite(state)
        clip = CLIP * jnp.where(begun.any(), jnp.min(state), jnp.min(losses)) + EPSILON * v
        # Where nothing has changed yet and one expert is exact there is no scale: nothing is clipped.
        clip = jnp.where(clip > 0, clip, jnp.max(jnp.where(there, losses, 0)))
        losses = jnp.minimum(losses, clip)
        mixed = (1 - decay) * jnp.where(begun, state, losses) + decay * losses
        return jnp.where(there.any(), mixed, state)


class StackingState(NamedTuple):
    """`filter`: what is known of the coefficients; `coefficients`: one for each expert's difference from the mean."""

    filter: KalmanState
    coefficients: Float[Array, " experts"]


class Stacking(eqx.Module):
    r"""The mean of the experts, corrected by a regression on their differences from it.

        ŷ = f̄ + Σ_k β_k (f_k - f̄)        β by a Kalman filter, 0 at first, in units of s √h; differences within ± 10

    s² = v; h is the filter's horizon.
    """

    filter: Kalman = Kalman(prior=0.01, forgetting=0.9998)
    limit: Number = 10.0

    def init(self, experts: int, dtype: Any = None) -> StackingState:
        """Before the first target: no correction."""
        zeros = jnp.zeros(experts, jnp.result_type(float) if dtype is None else dtype)
        return StackingState(self.filter.init(zeros, zeros), zeros)

    def _parts(self, forecasts, v):
        """The mean of the forecasts that are there, the unit, and the differences in it."""
        there = jnp.isfinite(forecasts)
        count = there.sum().astype(forecasts.dtype)
        mean = jnp.sum(jnp.where(there, forecasts, 0)) / count  # NaN when there is none
        tiny = float(jnp.finfo(forecasts.dtype).tiny) ** 0.5
        unit = jnp.sqrt(v * jnp.asarray(self.filter.horizon, v.dtype)) + tiny
        limit = jnp.asarray(self.limit, forecasts.dtype)
        return mean, unit, jnp.where(there, jnp.clip((forecasts - mean) / unit, -limit, limit), 0)

    def forecast(
        self, state: StackingState, forecasts: Float[Array, " experts"], v: Float[Array, ""]
    ) -> Float[Array, ""]:
        """The corrected mean; NaN when no expert's forecast is there."""
        mean, unit, differences = self._parts(forecasts, v)
        return mean + unit * (state.coefficients @ differences)

    def update(
        self, state: StackingState, forecasts: Float[Array, " experts"], target: Float[Array, ""], v: Float[Array, ""]
    ) -> StackingState:
        """What the target of these forecasts teaches."""
        mean, unit, differences = self._parts(forecasts, v)
        error = (target - mean) / unit - state.coefficients @ differences
        # Before the first change there is no unit.
        given = jnp.isfinite(error) & (v > 0)
        filter_, coefficients = self.filter(
            state.filter, state.coefficients, differences[None], error[None], given[None]
        )
        return StackingState(filter_, coefficients)


class Mixed(NamedTuple):
    """A forecast and what it was made of: kept until its target comes."""

    forecast: Float[Array, ""]
    both: Float[Array, " 2"]
    experts: Float[Array, " experts"]


class MixingState(NamedTuple):
    """`experts`, `both`: mean losses of the experts, and of the two ways to combine them."""

    experts: Float[Array, " experts"]
    stacking: StackingState
    both: Float[Array, " 2"]
    scale: Scale


class Mixing(eqx.Module):
    """One forecast from those of several experts: the weighted mean and the corrected mean of them, weighed again.

    forecast = mixing.forecast(state, experts)            # kept until its target comes
    state    = mixing.update(state, forecast, target)
    """

    weighting: Weighting
    stacking: Stacking

    def __init__(self, *, rate: Number = 10.0, decay: Number = 0.01, horizon: Number = 1.0):
        self.weighting = Weighting(rate, decay, horizon)
        self.stacking = Stacking(Kalman(prior=0.01, forgetting=0.9998, horizon=horizon))

    def init(self, experts: int, dtype: Any = None) -> MixingState:
        """The state before the first forecast."""
        m, both = self.weighting.init(experts, dtype), self.weighting.init(2, dtype)
        return MixingState(m, self.stacking.init(experts, m.dtype), both, Scale.start(m.dtype))

    def weights(self, state: MixingState, forecasts: Float[Array, " experts"]) -> Float[Array, " experts"]:
        """How much each expert counts in the weighted mean."""
        return self.weighting.weights(state.experts, jnp.isfinite(forecasts), state.scale.value)

    def forecast(self, state: MixingState, forecasts: Float[Array, " experts"]) -> Mixed:
        """The forecast; NaN when no expert's is there."""
        v = state.scale.value
        forecasts = forecasts.astype(state.experts.dtype)
        weights = self.weights(state, forecasts)
        weighted = weights @ jnp.where(jnp.isfinite(forecasts), forecasts, 0)
        weighted = jnp.where(weights.any(), weighted, jnp.nan)
        both = jnp.stack([weighted, self.stacking.forecast(state.stacking, forecasts, v)])
        there = jnp.isfinite(both)
        mixed = self.weighting.weights(state.both, there, v) @ jnp.where(there, both, 0)
        return Mixed(jnp.where(there.any(), mixed, jnp.nan), both, forecasts)

    def update(self, state: MixingState, made: Mixed, target: Float[Array, ""]) -> MixingState:
        """What the target of a forecast teaches; one that is not finite teaches nothing."""
        target = target.astype(state.experts.dtype)
        scale = state.scale.after(target, jnp.asarray(self.weighting.decay, target.dtype))
        v = scale.value
        return MixingState(
            self.weighting.update(state.experts, (target - made.experts) ** 2, v),
            self.stacking.update(state.stacking, made.experts, target, v),
            self.weighting.update(state.both, (target - made.both) ** 2, v),
            scale,
        )
