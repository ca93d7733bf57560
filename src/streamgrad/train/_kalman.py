"""A Kalman filter over the trained parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from .._base.dtypes import trace_dtype
from .._base.flops import flops
from ..optimisers import recurrent_parameters
from ._blocks import FORMS, Blocks, blocks as divided
from ._elimination import root
from ._filter import Covariance, correct
from ._low_rank import LowRank, carried

Number = float | Array


class PerParameter(eqx.Module):
    """A function from a model to a number for each trained leaf: static, so that it may be compiled over."""

    function: Callable[[Any], PyTree] = eqx.field(static=True)


def default_prior(model: Any) -> PyTree[float]:
    """.1 for recurrent parameters, .03 for all others."""
    return jax.tree.map(lambda inside: 0.1 if inside else 0.03, recurrent_parameters(model))


def default_forgetting(model: Any) -> PyTree[float]:
    """.9999 for recurrent parameters, .9995 for all others."""
    return jax.tree.map(lambda inside: 0.9999 if inside else 0.9995, recurrent_parameters(model))


class KalmanState(eqx.Module):
    """What the filter knows: the covariance of the parameters and the noise of the outputs.

    - `covariance`: for each size of block an array (blocks, size, size), or a `LowRank`;
    - `noise`: R of each output;
    - `forgetting`, `cap`: λ and the largest variance of each parameter, packed as `blocks` says.
    """

    covariance: Covariance | LowRank
    noise: Float[Array, " outputs"]
    forgetting: Float[Array, " parameters"]
    cap: Float[Array, " parameters"]
    blocks: Blocks = eqx.field(static=True)

    @property
    def parts(self) -> tuple[tuple[int, int], ...]:
        """Blocks of the covariance: how many, of how many parameters."""
        return tuple(members.shape for members in self.blocks.classes)

    @property
    def numbers(self) -> int:
        """Numbers that say the covariance."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.covariance))

    def multiply_adds(self, rows: int) -> int:
        """Multiply-adds of a step with so many rows of sensitivities, without the pullbacks that give them."""
        p, r, found = self.blocks.parameters, rows, self.covariance
        if isinstance(found, LowRank):
            rank = len(found.factor)
            both = rank + r
            products = 3 * rank**2 + 2 * both**2 + 2 * rank * r + r**2
            return products * p + 9 * both**3  # eigenvectors of L + r rows
        # H P and Vᵀ V, C (.) C, S, and its root.
        return (2 * r + 2) * sum(block.size for block in found) + (r**2 + r**2 * (r > 1)) * p


class Kalman(eqx.Module):
    r"""An extended Kalman filter over all trained parameters, with bounded forgetting.

        S = R + H P Hᵀ      K = P Hᵀ S⁻¹      θ ← θ + K e,  e = y - ŷ clipped at `clip` √S
        P ← C (P - K S Kᵀ) C      c_i² = min(1/λ_i, cap_i / (P - K S Kᵀ)_ii)
        R ← max(ρ R + (1-ρ) min(e², `clip`² R + ε), ε)

    H = ∂ŷ/∂θ, a row for each output of each stream: one pullback through the influence a row. On a linear readout it
    is recursive least squares. A step of the full filter takes about 4 p² operations for p parameters.

    - `blocks`: which parameters have covariances: `"full"` all, `"layer"` those of a layer, `"unit"` those that
      enter a unit or make an output (node-decoupled), `"diagonal"` none; an integer L: all, where P⁻¹ is a diagonal and
      a part of rank L (LO-FI), in numbers and operations of the order L p and L² p;
    - `prior`: the variance of a parameter before the first step; `forgetting`: λ. Each is a number, or a function of
      the model that gives a pytree of numbers like its trained leaves;
    - `cap`: the largest variance, in priors: forgetting without excitation goes no further;
    - `noise`: R before the first step, for targets of about unit scale; `noise_decay`: ρ, 1 keeps R as it is;
      `noise_floor`: ε; R counts √`horizon` times, for forecasts `horizon` steps ahead;
    - `clip`: errors count up to so many standard deviations; `math.inf` for no bound.

    Rows that are missing or not finite count as if they were not there, and without rows nothing changes. Numbers are
    leaves, so that one may map over them.

    Raises `ValueError` for numbers out of range and unknown blocks; `init` raises `TypeError` for leaves that an
    algorithm learns itself (DNI, KeRNL).

    Reference: Puskorius & Feldkamp, 1994 (blocks by unit); Ollivier, 2018 (1703.00209);
    Chang et al., 2023 (2305.19535; low rank).
    """

    prior: Number | PerParameter
    forgetting: Number | PerParameter
    noise: Number
    clip: Number
    cap: Number
    noise_decay: Number
    noise_floor: Number
    horizon: Number
    blocks: str | int = eqx.field(static=True)

    def __init__(
        self,
        blocks: str | int = "full",
        *,
        prior: Any = default_prior,
        forgetting: Any = default_forgetting,
        noise: Any = 1.0,
        clip: Any = 3.0,
        cap: Any = 30.0,
        noise_decay: Any = 0.99,
        noise_floor: Any = 1e-3,
        horizon: Any = 1,
    ):
        if blocks not in FORMS and not (type(blocks) is int and blocks > 0):
            raise ValueError(f"Kalman: blocks is one of {FORMS}, or an integer rank >= 1, got {blocks!r}.")
        self.blocks = blocks
        self.prior = _number("prior", prior, 0, math.inf)
        self.forgetting = _number("forgetting", forgetting, 0, 1.0)
        self.noise = _number("noise", noise, 0, math.inf)
        self.clip = _number("clip", clip, 0, math.inf)
        self.cap = _number("cap", cap, 0, math.inf)
        self.noise_decay = _number("noise_decay", noise_decay, 0, 1.0)
        self.noise_floor = _number("noise_floor", noise_floor, 0, math.inf)
        self.horizon = _number("horizon", horizon, 0, math.inf)

    def init(self, trained: PyTree[Array], model: Any, *, outputs: int = 1) -> KalmanState:
        """The state before the first step. `outputs`: how many numbers have a noise of their own."""
        form = divided(trained, model, "full" if isinstance(self.blocks, int) else self.blocks)
        dtype = trace_dtype(jnp.result_type(*jax.tree.leaves(trained)))

        def each(value, name):
            if isinstance(value, PerParameter):
                return form.numbers(value.function(model), name, dtype)
            return jnp.full(form.parameters, jnp.asarray(value, dtype))

        prior = each(self.prior, "prior")
        return KalmanState(
            covariance=self._start(prior, form),
            noise=jnp.full(outputs, jnp.asarray(self.noise, dtype)),
            forgetting=each(self.forgetting, "forgetting"),
            cap=prior * jnp.asarray(self.cap, dtype),
            blocks=form,
        )

    def _start(self, prior, form):
        """P of these variances and nothing else."""
        if isinstance(self.blocks, int):
            return LowRank(prior, jnp.zeros((min(self.blocks, form.parameters), form.parameters), prior.dtype))
        ends = np.cumsum([members.size for members in form.classes])[:-1]
        return tuple(
            part.reshape(members.shape)[:, :, None] * jnp.eye(members.shape[1], dtype=prior.dtype)[None]
            for part, members in zip(jnp.split(prior, ends), form.classes, strict=True)
        )

    def sensitivity(self, pull: Callable[[Array], tuple[PyTree]], y: Float[Array, " outputs"]) -> PyTree[Array]:
        """H of one stream from its pullback: a row for each output."""
        return jax.vmap(pull)(jnp.eye(len(y), dtype=y.dtype))[0]

    def __call__(
        self,
        state: KalmanState,
        trained: PyTree[Array],
        rows: PyTree[Array],
        error: Float[Array, " rows"],
        given: Bool[Array, " rows"],
        *,
        fisher: Float[Array, " ..."] | None = None,
        weight: Float[Array, " rows"] | None = None,
        reach: Float[Array, " rows"] | None = None,
    ) -> tuple[KalmanState, PyTree[Array]]:
        r"""The state and the parameters after a step.

        - `rows`: H, like `trained` with a leading axis; streams first, outputs fastest when there are several;
        - `error`: y - ŷ of each row; `given`: whether there is one;
        - `fisher`: for a loss of an exponential family whose natural parameter is ŷ (logits): its Fisher matrix, of
          all rows (rows, rows) or of each stream (streams, outputs, outputs), which may be singular. `error` is then
          T(y) - E[T], minus the gradient of the loss by ŷ. This is the online natural gradient;
        - `reach`: how far each row's output may move in a step, for a family whose mean bends away;
        - `weight`: the share of the information of each row, in (0, 1]: its noise is R over that.
        """
        state.blocks.check(trained)
        dtype = state.noise.dtype
        number = lambda value: jnp.asarray(value, dtype)
        sensitivity = state.blocks.pack(rows, dtype)
        error = error.astype(dtype)
        repeats, rest = divmod(len(error), len(state.noise))
        if rest or sensitivity.shape[0] != len(error):
            raise ValueError(
                f"Kalman: {len(sensitivity)} rows of sensitivities, {len(error)} errors and noise of "
                f"{len(state.noise)} outputs do not fit: give a row for each error, and init(..., outputs=) "
                "that divides them."
            )
        noise = jnp.tile(state.noise * jnp.sqrt(number(self.horizon)), repeats)
        given = given & jnp.isfinite(error)
        covariance, change, used = correct(
            state.covariance,
            sensitivity,
            error,
            given,
            noise if weight is None else noise / weight.astype(dtype),
            state.forgetting,
            state.cap,
            clip=number(self.clip),
            root=None if fisher is None else _root(fisher.astype(dtype), given),
            reach=None if reach is None else reach.astype(dtype),
        )
        if fisher is None:
            square = error * error if weight is None else error * (error * weight.astype(dtype))
            noise = self._noise(state.noise, square, used)
        else:
            noise = state.noise
        state = KalmanState(covariance, noise, state.forgetting, state.cap, state.blocks)
        return state, state.blocks.added(trained, change)

    def _noise(self, noise, square, used):
        """R after the squared errors of a step, the mean over streams of each output."""
        number = lambda value: jnp.asarray(value, noise.dtype)
        decay, floor, largest = number(self.noise_decay), number(self.noise_floor), jnp.finfo(noise.dtype).max
        square, used = square.reshape(-1, len(noise)), used.reshape(-1, len(noise))
        limit = jnp.minimum(number(self.clip) ** 2 * noise + floor, largest)
        total = jnp.sum(jnp.where(used, jnp.minimum(square, limit), 0), 0)
        count = used.sum(0)
        mean = total / jnp.maximum(count, 1).astype(noise.dtype)
        return jnp.where(count > 0, jnp.maximum(decay * noise + (1 - decay) * mean, floor), noise)

    def grow(self, state: KalmanState, trained: PyTree[Array], model: Any) -> KalmanState:
        """The state of a model that has grown: what is known of parameters of the same path stays, new ones get
        the prior. Parameters that are no longer trained are forgotten."""
        fresh = self.init(trained, model, outputs=len(state.noise))
        new, old = fresh.covariance, state.covariance
        if isinstance(new, LowRank) and isinstance(old, LowRank):
            covariance = carried(new, old, fresh.blocks.before(state.blocks))
        elif isinstance(new, tuple) and isinstance(old, tuple):
            entries = jnp.concatenate([p.ravel() for p in old])
            taken = lambda new, source: jnp.where(source < 0, new, entries[source])
            covariance = tuple(map(taken, new, fresh.blocks.sources(state.blocks)))
        else:
            raise ValueError("Kalman: the state is of another form of blocks: grow it by the filter that made it.")
        return KalmanState(covariance, state.noise, fresh.forgetting, fresh.cap, fresh.blocks)

    def bytes(self, trained: PyTree[Array], model: Any, *, outputs: int = 1) -> int:
        """Bytes of the state."""
        state = eqx.filter_eval_shape(lambda: self.init(trained, model, outputs=outputs))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))

    def flops(self, trained: PyTree[Array], model: Any, *, outputs: int = 1, streams: int = 1) -> int:
        """Floating-point operations of a step, without the pullbacks that give H. XLA counts loops over rows once: for
        more than one row this is a lower bound."""
        state = self.init(trained, model, outputs=outputs)
        count = outputs * streams
        rows = jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), trained)
        return flops(self, state, trained, rows, jnp.zeros(count, state.noise.dtype), jnp.ones(count, bool))


def _root(fisher, given):
    """B of F = B Bᵀ for all rows, from the Fisher matrix of all of them or of each stream, without rows that are not
    given."""
    count = len(given)
    given = given.reshape(fisher.shape[:-1])
    fisher = jnp.where(given[..., :, None] & given[..., None, :], fisher, 0)
    if fisher.ndim == 2:
        return root(fisher)
    streams, outputs, _ = fisher.shape
    each = jax.vmap(root)(fisher)
    placed = each[:, :, None, :] * jnp.eye(streams, dtype=fisher.dtype)[:, None, :, None]
    return placed.reshape(count, streams * outputs)


def _number(name: str, value: Any, low: int, high: float) -> Any:
    """A number as a leaf, a function as a static one; refused when it is known to be out of range."""
    if callable(value):
        if name not in ("prior", "forgetting"):
            raise ValueError(f"Kalman: {name} must be a number, got a function; prior and forgetting may be one.")
        return PerParameter(value)
    if isinstance(value, jax.Array):
        return value
    value = float(value)
    if not (low < value <= high or (value == 0 and name == "prior")):
        raise ValueError(f"Kalman: {name} must lie in ({low}, {high}], got {value}.")
    return value
