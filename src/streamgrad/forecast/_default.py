"""The default forecaster: a few experts and their combination, compiled as one loop over encoded rows."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._cpu.loop import put
from ..train._mixing import Mixed, Mixing, MixingState
from ._encoder import Encoded, Encoder
from ._experts import Expert, Learning
from ._portions import Portions, Program


class Memory(NamedTuple):
    """All that the forecaster knows; the newest `horizon` inputs and forecasts wait for their targets."""

    experts: tuple
    inputs: Float[Array, "horizon size"]
    made: Mixed
    mixing: MixingState
    rows: Array


class Default(Portions):
    """Forecasts of encoded rows: of each expert, of both combinations, and of their mixture, which is the last column.

    - `experts`: by name; `encoder`: what the rows were encoded by;
    - `beside`: experts that are no part of the mixture, to be compared with.
    """

    def __init__(
        self,
        experts: Mapping[str, Expert],
        encoder: Encoder,
        *,
        beside: Mapping[str, Expert] | None = None,
        seed: int = 0,
    ):
        beside = beside or {}
        self.names = (*beside, *experts, "weighted", "stacked", "mixture")
        parts = tuple((name, part.start, part.stop) for name, part in encoder.parts.items())
        program = _program((*beside.values(), *experts.values()), len(beside), parts, encoder.horizon)
        super().__init__(program, encoder, tuple(experts), (*beside, *experts), seed)

    def __call__(self, encoded: Encoded) -> Float[np.ndarray, "n methods"]:
        """Learn from n rows in turn and forecast from each."""
        return self.learned(encoded.anew, encoded.inputs, encoded.learn)


@functools.lru_cache(maxsize=8)
def _program(experts: Sequence[Expert], beside: int, parts: tuple, horizon: int) -> OneHorizon:
    """One compiled program for all series."""
    return OneHorizon(experts, beside, {name: slice(*ends) for name, *ends in parts}, horizon)


class OneHorizon(Program):
    """One horizon. The first `beside` experts are no part of the mixture."""

    def __init__(self, experts: Sequence[Expert], beside: int, parts: Mapping[str, slice], horizon: int):
        self.horizon, self.beside = horizon, beside
        self.mixing = Mixing(horizon=float(horizon))
        size = max(part.stop for part in parts.values())
        super().__init__([Learning(expert, parts, horizon) for expert in experts], size, len(experts) + 3)

    def _init(self, key) -> Memory:
        count = len(self.experts) - self.beside
        keys = [*jax.random.split(jax.random.fold_in(key, 1), self.beside)] if self.beside else []
        keys += [*jax.random.split(key, count)]  # what stands beside a mixture changes nothing in it
        return Memory(
            experts=tuple(expert.init(k) for expert, k in zip(self.experts, keys, strict=True)),
            inputs=jnp.zeros((self.horizon, self.size)),
            made=Mixed(*(jnp.full((self.horizon, *shape), jnp.nan, float) for shape in ((), (2,), (count,)))),
            mixing=self.mixing.init(count),
            rows=jnp.zeros((), jnp.int32),
        )

    def _step(self, memory: Memory, x: Array, target: Array) -> tuple[Memory, Array]:
        """Learn from the target that has come due, then forecast."""
        place = memory.rows % self.horizon
        then, made = memory.inputs[place], jax.tree.map(lambda ring: ring[place], memory.made)
        given = jnp.isfinite(target) & (memory.rows >= self.horizon)
        target = jnp.where(given, target, jnp.nan)
        experts, said = [], []
        for expert, known in zip(self.experts, memory.experts, strict=True):
            known, y = expert.serve(expert.learn(known, then, target, given), x)
            experts.append(known)
            said.append(y)
        mixing = self.mixing.update(memory.mixing, made, target)
        made = self.mixing.forecast(mixing, jnp.stack(said[self.beside :]))
        inputs = put(memory.inputs, x, place)
        pending = jax.tree.map(lambda ring, new: put(ring, new, place), memory.made, made)
        memory = Memory(tuple(experts), inputs, pending, mixing, memory.rows + 1)
        said = [*said[: self.beside], *made.experts, *made.both, made.forecast]
        return memory, jnp.stack(said)

    def _weights(self, mixing: MixingState) -> Array:
        return self.mixing.weights(mixing, jnp.zeros(len(self.experts) - self.beside))
