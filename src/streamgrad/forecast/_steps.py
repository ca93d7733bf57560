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

from .._compile import compiler_options
from .._inference import inference
from ..train import Kalman
from ..train._mixing import Mixed, Mixing, MixingState
from ._encoder import Encoder
from ._experts import OTHERS, Expert, build

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
        arrays, self.static = eqx.partition(self._build(jax.random.key(0)), eqx.is_array)
        self.size = arrays.weight.shape[0]
        self.kalman = Kalman(
            prior=lambda model: model * 0 + self._prior(),
            forgetting=expert.forgetting,
            noise=1.0,
            noise_decay=1.0,
            clip=float("inf"),
        )

    def _build(self, key):
        return build(self.expert, self.parts, key=key)

    def _prior(self):
        return np.full(self.size, OTHERS)

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
        model = eqx.combine(known.arrays, self.static)
        seen = model.columns[1].value
        before = jnp.zeros(self.size - 1 - len(seen), bool)
        gone = jnp.concatenate([before, columns[seen], jnp.zeros(1, bool)])
        (covariance,) = known.filter.covariance
        fresh = jnp.where(gone[:, None] | gone[None, :], 0, covariance[0]) + jnp.diag(jnp.where(gone, OTHERS, 0.0))
        return known._replace(
            weight=jnp.where(gone, 0, known.weight),
            filter=eqx.tree_at(lambda f: f.covariance, known.filter, (fresh[None].astype(covariance.dtype),)),
        )


class Program:
    """Pure functions of a memory, compiled."""

    def __init__(self, experts: Sequence[Expert], parts: Mapping[str, slice], steps: int, portion: int):
        self.steps, self.portion = steps, portion
        self.size = max(part.stop for part in parts.values())
        self.experts = tuple(Shared(expert, parts, steps) for expert in experts)
        self.count = len(experts) + 1  # and the last value
        self.mixing = jax.vmap(lambda h: Mixing(horizon=h))(jnp.arange(1.0, steps + 1))
        options = compiler_options()
        self.init = jax.jit(self._init)
        self.run = jax.jit(self._run, donate_argnums=0, compiler_options=options)
        self.anew = jax.jit(self._anew, donate_argnums=0)
        self.restart = jax.jit(self._restart, donate_argnums=0)
        self.weights = jax.jit(self._weights)

    def _init(self, key) -> Memory:
        keys = jax.random.split(key, len(self.experts))
        shapes = ((), (2,), (self.count,))
        return Memory(
            tuple(expert.init(k) for expert, k in zip(self.experts, keys, strict=True)),
            jnp.zeros((self.steps, self.size)),
            Mixed(*(jnp.full((self.steps, self.steps, *shape), jnp.nan) for shape in shapes)),
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
        inputs = memory.inputs.at[place].set(x)
        pending = jax.tree.map(lambda ring, new: ring.at[place].set(new), memory.made, made)
        memory = Memory(tuple(experts), inputs, pending, mixing, memory.rows + 1)
        return memory, made.forecast

    def _run(self, memory: Memory, rows: Array, came: Array, paths: Array, n: Any) -> tuple[Memory, Array]:
        def body(t, carry):
            memory, out = carry
            memory, said = self._step(memory, rows[t], came[t], paths[t])
            return memory, out.at[t].set(said)

        return jax.lax.fori_loop(0, n, body, (memory, jnp.zeros((self.portion, self.steps))))

    def _anew(self, memory: Memory, columns: Array) -> Memory:
        experts = tuple(e.anew(known, columns) for e, known in zip(self.experts, memory.experts, strict=True))
        return memory._replace(experts=experts, inputs=jnp.where(columns, 0, memory.inputs))

    def _restart(self, memory: Memory, key) -> Memory:
        fresh = self._init(key)
        both = zip(memory.experts, fresh.experts, strict=True)
        experts = tuple(known._replace(carry=new.carry, serving=new.serving) for known, new in both)
        return fresh._replace(experts=experts, mixing=memory.mixing)

    def _weights(self, mixing: MixingState) -> Array:
        """Of each expert, the mean over the steps."""
        zeros = jnp.zeros((self.steps, self.count))
        return jax.vmap(lambda m, *rest: m.weights(*rest))(self.mixing, mixing, zeros).mean(axis=0)


@functools.lru_cache(maxsize=8)
def program(experts: Sequence[Expert], parts: tuple, steps: int, portion: int) -> Program:
    """One compiled program for all series."""
    return Program(experts, {name: slice(*ends) for name, *ends in parts}, steps, portion)


class Paths:
    """Paths of encoded rows: what a mixture of experts says of each of the next `steps` rows."""

    portion = 64

    def __init__(self, experts: Mapping[str, Expert], encoder: Encoder, *, seed: int = 0):
        self.encoder, self.experts, self.steps = encoder, (*experts, "last value"), encoder.horizon
        parts = tuple((name, part.start, part.stop) for name, part in encoder.parts.items())
        self._program = program(tuple(experts.values()), parts, self.steps, self.portion)
        self._key = jax.random.key(seed)
        self.memory = self._program.init(self._key)
        self._dtype = np.dtype(jnp.result_type(float))
        self._blocks = np.zeros((2, encoder.size), bool)
        for which, name in enumerate(("short", "long")):
            self._blocks[which, encoder.parts[name]] = True

    def __call__(
        self,
        inputs: Float[np.ndarray, "n size"],
        came: Float[np.ndarray, "n steps"],
        paths: Float[np.ndarray, "n steps"],
        anew: np.ndarray,
    ) -> Float[np.ndarray, "n steps"]:
        """Learn from n rows in turn and forecast from each."""
        n, out = len(inputs), []
        ends = {*range(self.portion, n, self.portion), n, *np.flatnonzero(anew.any(axis=1)).tolist()} - {0}
        for begin, end in zip([0, *sorted(ends)], sorted(ends), strict=False):
            if anew[begin].any():
                gone = (anew[begin][:, None] & self._blocks).any(axis=0)
                self.memory = self._program.anew(self.memory, gone)
            padded = []
            for values, fill in ((inputs, 0.0), (came, np.nan), (paths, np.nan)):
                room = np.full((self.portion, values.shape[1]), fill, self._dtype)
                room[: end - begin] = values[begin:end]
                padded.append(room)
            self.memory, said = self._program.run(self.memory, *padded, end - begin)
            out.append(np.asarray(said, float)[: end - begin])
        return np.concatenate(out) if out else np.empty((0, self.steps))

    def weights(self) -> dict[str, float]:
        """How much each expert counts now in the weighted mean, on average over the steps."""
        weights = self._program.weights(self.memory.mixing)
        return dict(zip(self.experts, np.asarray(weights, float).tolist(), strict=True))

    def restart(self) -> None:
        """Keep what was learned, and forget the stream."""
        self.memory = self._program.restart(self.memory, self._key)

    def warnings(self) -> list[str]:
        """Experts whose weights are not finite any more."""
        lost = [
            name
            for name, known in zip(self.experts, self.memory.experts, strict=False)
            if not np.isfinite(known.weight).all()
        ]
        return [f"{name} has weights that are not finite: it is left out, and does not recover." for name in lost]
