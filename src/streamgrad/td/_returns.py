"""What a prediction of a discounted sum is measured by: the sum that came."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..train import check_share


def returns(
    cumulants: Float[Array, "time predictions"],
    gammas: Float[Array, "time predictions"],
    last: Float[Array, " predictions"] | float = 0.0,
) -> Float[Array, "time predictions"]:
    r"""The discounted sum of what came after each step of a sequence, from its end backwards.

        G_t = c_{t+1} + γ_{t+1} G_{t+1},        G_{T-1} = last

    - `cumulants`, `gammas`: c_t and γ_t, those that arrive with the input of step t; an episode ends where γ is 0.
    """

    def back(after, now):
        cumulant, gamma = now
        return cumulant + gamma * after, after

    last = jnp.broadcast_to(jnp.asarray(last, cumulants.dtype), cumulants.shape[1:])
    return jax.lax.scan(back, last, (cumulants, gammas), reverse=True)[1]


class Waiting(eqx.Module):
    """The last `horizon` predictions, which wait for their return, with the cumulants and discounts since; NaN
    predictions were never made."""

    predictions: Float[Array, "horizon predictions"]
    cumulants: Float[Array, "horizon predictions"]
    gammas: Float[Array, "horizon predictions"]


class TrueReturn(eqx.Module):
    r"""Measures predictions of discounted sums on an endless stream, once their sums are known.

        judge  = sg.td.TrueReturn(gamma=0.9)
        state  = judge.init(predictions=1)
        state, (made, came) = judge(state, predictions, cumulants)        # a chunk of steps; made - came is the error

    A prediction is judged `horizon` steps after it was made, by the sum of what came since; the rest is left out, at
    most `tolerance` of what a constant cumulant would sum to. A call takes T >= 1 steps, (T, predictions), and returns
    T predictions, those made `horizon` steps before, and their sums; NaN for steps before the first one.

    - `gamma`: the largest discount in use, in [0, 1); discounts of single steps can be given with the call;
    - `tolerance`: share of the sum that may be left out; the horizon is the least h with γ^h <= tolerance.
    """

    gamma: float = eqx.field(static=True)
    horizon: int = eqx.field(static=True)

    def __init__(self, gamma: float, *, tolerance: float = 1e-6):
        self.gamma = check_share("gamma", gamma, below_one=True)
        if not 0 < tolerance < 1:
            raise ValueError(f"tolerance must lie in (0, 1), got {tolerance}.")
        self.horizon = 1 if gamma == 0 else max(1, math.ceil(math.log(tolerance) / math.log(gamma)))

    def init(self, *, predictions: int = 1) -> Waiting:
        """Nothing waits yet."""
        zeros = jnp.zeros((self.horizon, predictions))
        return Waiting(jnp.full_like(zeros, jnp.nan), zeros, zeros)

    def __call__(
        self,
        state: Waiting,
        predictions: Float[Array, "time predictions"],
        cumulants: Float[Array, "time predictions"],
        gammas: Float[Array, "time predictions"] | None = None,
    ) -> tuple[Waiting, tuple[Float[Array, "time predictions"], Float[Array, "time predictions"]]]:
        if predictions.ndim != 2 or predictions.shape != cumulants.shape:
            raise ValueError(
                f"TrueReturn expects predictions and cumulants of one shape (time, predictions), got "
                f"{predictions.shape} and {cumulants.shape}."
            )
        gammas = jnp.full_like(cumulants, self.gamma) if gammas is None else jnp.broadcast_to(gammas, cumulants.shape)
        join = lambda old, new: jnp.concatenate([old, new.astype(old.dtype)])
        whole = Waiting(*map(join, jax.tree.leaves(state), (predictions, cumulants, gammas)))
        length = len(predictions)
        came = returns(whole.cumulants, whole.gammas)[:length]
        made = whole.predictions[:length]
        return jax.tree.map(lambda leaf: leaf[length:], whole), (made, jnp.where(jnp.isnan(made), jnp.nan, came))
