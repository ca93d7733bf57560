"""A forecaster of whole paths, compiled: experts whose readouts share a covariance, and a mixture for each step.

A forecast for j = 1 ... h rows ahead is learned as u_j = (y_{t+j} - y_t) / (s_t √j). From features φ (lags, means far
back, seasons, states of a net) an expert says ŷ_j = w_j · φ. All w_j learn together, when the last step of the path has
come, by least squares with one covariance:

    S = 1 + φᵀ P φ      K = P φ / S      w_j ← w_j + K e_j,  e_j clipped at 3 σ_j √S      P ← C (P - S K Kᵀ) C

with σ_j² the running square of e_j. This is recursive least squares for each step, with a prior in units of σ_j². A
step without a truth teaches its own w_j nothing. The last value (0) is one of the experts that are mixed.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._cpu.loop import put
from ..train import Kalman
from ..train._mixing import Mixed, Mixing, MixingState
from ..train._serving import inference
from ._encoder import Encoded, Encoder
from ._experts import OTHERS, Expert, begun_anew, build, form, weights_of
from ._portions import Portions, Program

CLIP, SLOW, SMALLEST = 3.0, 0.01, 1e-3  # of errors: standard deviations that count, weight of a row, least square


class Known(NamedTuple):
    """What an expert knows: its net, the readouts, the covariance they share, the sizes of their errors, and the
    carries of its learning and of its serving copy."""

    arrays: Any
    weight: Float[Array, "steps size"]
    filter: Any
    square: Float[Array, " steps"]
    carry: Any
    serving: Any


class Memory(NamedTuple):
    """All that a forecaster of paths knows; the newest `steps` inputs and forecasts wait for their truths."""

    experts: tuple
    inputs: Float[Array, "steps size"]
    made: Mixed
    mixing: MixingState
    rows: Array


class Shared:
    """Pure functions of one expert without a net, or with one that is not learned."""

    def __init__(self, expert: Expert, parts: Mapping[str, slice], steps: int):
        if expert.learns:
            raise ValueError("a path is forecast by readouts alone: nets are not learned under it.")
        self.expert, self.parts, self.steps = expert, parts, steps
        arrays, self.static = form(expert, parts)
        self.size = arrays.weight.shape[0]
        self.kalman = Kalman(
            prior=OTHERS,
            forgetting=expert.forgetting,
            noise=1.0,
            noise_decay=1.0,
            clip=float("inf"),
        )

    def _build(self, key):
        return build(self.expert, self.parts, key=key)

    def init(self, key: PRNGKeyArray) -> Known:
        """Before the first row: every step says the last value."""
        model = self._build(key)
        none = jnp.zeros(self.size)
        return Known(
            eqx.filter(model, eqx.is_array),
            jnp.zeros((self.steps, self.size)),
            self.kalman.init(none, none),
            jnp.ones(self.steps),
            model.init(key=key),
            inference(model).init(key=key),
        )

    def _features(self, model, carry, x):
        """φ, and the carry after it."""
        seen = [x[model.columns[1].value], jnp.ones(1, x.dtype)]
        if model.net is not None:
            carry, features = model.net(carry, x[model.columns[0].value])
            seen = [features, *seen]
        return carry, jnp.concatenate(seen)

    def learn(self, known: Known, x: Array, path: Float[Array, " steps"]) -> Known:
        """Step the learning copy with the inputs of `steps` rows ago, and learn from the path that followed."""
        carry, features = self._features(eqx.combine(known.arrays, self.static), known.carry, x)
        given = jnp.isfinite(path)
        none = jnp.zeros(self.size)
        filter, gain = self.kalman(known.filter, none, features[None], jnp.ones(1), given.any()[None])
        spread = 1 / jnp.maximum(1 - gain @ features, 1e-6)  # S
        error = jnp.where(given, path - known.weight @ features, 0)
        limit = CLIP * jnp.sqrt(known.square * spread)
        clipped = jnp.clip(error, -limit, limit)
        square = known.square + SLOW * (jnp.minimum(error**2, CLIP**2 * known.square) - known.square)
        square = jnp.where(given, jnp.maximum(square, SMALLEST), known.square)
        weight = known.weight + clipped[:, None] * gain[None, :]
        return known._replace(weight=weight, filter=filter, square=square, carry=carry)

    def serve(self, known: Known, x: Array) -> tuple[Known, Float[Array, " steps"]]:
        """The path that the expert says at the present."""
        model = inference(eqx.combine(known.arrays, self.static))
        carry, features = self._features(model, known.serving, x)
        return known._replace(serving=carry), known.weight @ features

    def anew(self, known: Known, columns: Array) -> Known:
        """Begin anew with the weights of some columns (bool, over all of x), which mean something else now."""
        gone = weights_of(columns, eqx.combine(known.arrays, self.static))
        return known._replace(weight=jnp.where(gone, 0, known.weight), filter=begun_anew(known.filter, gone))

    def weights(self, known: Known) -> Any:
        """What it has learned."""
        return known.weight


class EveryStep(Program):
    """All steps of a path: the experts, and the last value, mixed for each."""

    def __init__(self, experts: Sequence[Expert], parts: Mapping[str, slice], steps: int):
        self.steps, self.count = steps, len(experts) + 1
        self.mixing = jax.vmap(lambda h: Mixing(horizon=h))(jnp.arange(1.0, steps + 1))
        size = max(part.stop for part in parts.values())
        super().__init__([Shared(expert, parts, steps) for expert in experts], size, steps)

    def _init(self, key) -> Memory:
        keys = jax.random.split(key, len(self.experts))
        shapes = ((), (2,), (self.count,))
        return Memory(
            tuple(expert.init(k) for expert, k in zip(self.experts, keys, strict=True)),
            jnp.zeros((self.steps, self.size)),
            Mixed(*(jnp.full((self.steps, self.steps, *shape), jnp.nan, float) for shape in shapes)),
            jax.vmap(lambda m: m.init(self.count))(self.mixing),
            jnp.zeros((), jnp.int32),
        )

    def _step(self, memory: Memory, x: Array, came: Array, path: Array) -> tuple[Memory, Array]:
        """`came`: for each j, what the forecast of j rows ago should have said of this row for its step j; `path`: what
        followed the row `steps` ago."""
        h, place = self.steps, memory.rows % self.steps
        path = jnp.where(memory.rows >= h, path, jnp.nan)
        experts, said = [], []
        for expert, known in zip(self.experts, memory.experts, strict=True):
            known, y = expert.serve(expert.learn(known, memory.inputs[place], path), x)
            experts.append(known)
            said.append(y)
        said.append(jnp.zeros_like(said[0]))
        step = jnp.arange(h, dtype=jnp.int32)
        # The forecast of j rows ago for its step j; one that was never made is NaN, and teaches nothing.
        due = jax.tree.map(lambda ring: ring[(memory.rows - 1 - step) % h, step], memory.made)
        mixing = jax.vmap(lambda m, *rest: m.update(*rest))(self.mixing, memory.mixing, due, came)
        made = jax.vmap(lambda m, *rest: m.forecast(*rest))(self.mixing, mixing, jnp.stack(said, axis=1))
        inputs = put(memory.inputs, x, place)
        pending = jax.tree.map(lambda ring, new: put(ring, new, place), memory.made, made)
        memory = Memory(tuple(experts), inputs, pending, mixing, memory.rows + 1)
        return memory, made.forecast

    def _weights(self, mixing: MixingState) -> Array:
        """Of each expert, the mean over the steps."""
        zeros = jnp.zeros((self.steps, self.count))
        return jax.vmap(lambda m, *rest: m.weights(*rest))(self.mixing, mixing, zeros).mean(axis=0)


@functools.lru_cache(maxsize=8)
def _program(experts: Sequence[Expert], parts: tuple, steps: int) -> EveryStep:
    """One compiled program for all series."""
    return EveryStep(experts, {name: slice(*ends) for name, *ends in parts}, steps)


class Paths(Portions):
    """Paths of encoded rows: what a mixture of experts says of each of the next rows, as many as the horizon has."""

    def __init__(self, experts: Mapping[str, Expert], encoder: Encoder, *, seed: int = 0):
        parts = tuple((name, part.start, part.stop) for name, part in encoder.parts.items())
        program = _program(tuple(experts.values()), parts, encoder.horizon)
        super().__init__(program, encoder, (*experts, "last value"), tuple(experts), seed)

    def __call__(
        self, encoded: Encoded, came: Float[np.ndarray, "n steps"], paths: Float[np.ndarray, "n steps"]
    ) -> Float[np.ndarray, "n steps"]:
        """Learn from n rows in turn and forecast from each. `came`, `paths`: as `EveryStep` takes them."""
        return self.learned(encoded.anew, encoded.inputs, came, paths)
