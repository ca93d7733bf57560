"""The default forecaster: a few experts and their combination, compiled as one loop over encoded rows."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._compile import compiler_options
from . import _combine
from ._encoder import Encoded, Encoder
from ._experts import Expert, Learning


class Memory(NamedTuple):
    """All that the forecaster knows; the newest `horizon` inputs and forecasts wait for their targets."""

    experts: tuple
    inputs: Float[Array, "horizon size"]
    said: Float[Array, "horizon experts+2"]
    rated: _combine.Rated
    stacked: _combine.Stacked
    mixed: _combine.Rated
    rows: Array


class Default:
    """Forecasts of encoded rows: of each expert, of both combinations, and of their mixture, which is the last column.

    - `experts`: by name; `encoder`: what the rows were encoded by.
    """

    portion = 256

    def __init__(self, experts: Mapping[str, Expert], encoder: Encoder, *, seed: int = 0):
        self.encoder, self.names = encoder, (*experts, "weighted", "stacked", "mixture")
        parts = tuple((name, part.start, part.stop) for name, part in encoder.parts.items())
        self._program = _program(tuple(experts.values()), parts, encoder.horizon, self.portion)
        self.memory = self._program.init(jax.random.key(seed))
        self._blocks = np.zeros((2, encoder.size), bool)
        for which, name in enumerate(("short", "long")):
            self._blocks[which, encoder.parts[name]] = True

    def __call__(self, encoded: Encoded) -> Float[np.ndarray, "n methods"]:
        """Learn from n rows in turn and forecast from each."""
        n, out = len(encoded.learn), []
        ends = {*range(self.portion, n, self.portion), n, *np.flatnonzero(encoded.anew.any(axis=1)).tolist()} - {0}
        for begin, end in zip([0, *sorted(ends)], sorted(ends), strict=False):
            if encoded.anew[begin].any():
                gone = (encoded.anew[begin][:, None] & self._blocks).any(axis=0)
                self.memory = self._program.anew(self.memory, gone)
            rows = np.zeros((self.portion, self.encoder.size), np.float32)
            learn = np.full(self.portion, np.nan, np.float32)
            rows[: end - begin], learn[: end - begin] = encoded.inputs[begin:end], encoded.learn[begin:end]
            self.memory, said = self._program.run(self.memory, rows, learn, end - begin)
            out.append(np.asarray(said, float)[: end - begin])
        return np.concatenate(out) if out else np.empty((0, len(self.names)))


@functools.lru_cache(maxsize=8)
def _program(experts: Sequence[Expert], parts: tuple, horizon: int, portion: int) -> Program:
    """One compiled program for all series."""
    return Program(experts, {name: slice(*ends) for name, *ends in parts}, horizon, portion)


class Program:
    """Pure functions of a memory, compiled."""

    def __init__(self, experts: Sequence[Expert], parts: Mapping[str, slice], horizon: int, portion: int):
        self.horizon, self.portion = horizon, portion
        self.size = max(part.stop for part in parts.values())
        self.experts = tuple(Learning(expert, parts, horizon) for expert in experts)
        options = compiler_options()
        self.init = jax.jit(self._init)
        self.run = jax.jit(self._run, donate_argnums=0, compiler_options=options)
        self.anew = jax.jit(self._anew, donate_argnums=0)

    def _init(self, key) -> Memory:
        count = len(self.experts)
        keys = jax.random.split(key, count)
        return Memory(
            experts=tuple(expert.init(k) for expert, k in zip(self.experts, keys, strict=True)),
            inputs=jnp.zeros((self.horizon, self.size)),
            said=jnp.zeros((self.horizon, count + 2)),
            rated=_combine.rated(count),
            stacked=_combine.stacked(count),
            mixed=_combine.rated(2),
            rows=jnp.zeros((), jnp.int32),
        )

    def _step(self, memory: Memory, x: Array, target: Array) -> tuple[Memory, Array]:
        """Learn from the target that has come due, then forecast."""
        place = memory.rows % self.horizon
        then, said = memory.inputs[place], memory.said[place]
        given = jnp.isfinite(target) & (memory.rows >= self.horizon)
        truth = jnp.where(given, target, 0)
        experts, now = [], []
        for expert, known in zip(self.experts, memory.experts, strict=True):
            known, y = expert.serve(expert.learn(known, then, truth, given), x)
            experts.append(known)
            now.append(y)
        each = jnp.stack(now)
        rated = _combine.rate(memory.rated, said[:-2], truth, given)
        stacked = _combine.fit(memory.stacked, said[:-2], truth, given, self.horizon)
        mixed = _combine.rate(memory.mixed, said[-2:], truth, given)
        both = jnp.stack([_combine.weighted(rated, each, self.horizon), _combine.stack(stacked, each)])
        said = jnp.concatenate([each, both])
        memory = Memory(
            tuple(experts),
            memory.inputs.at[place].set(x),
            memory.said.at[place].set(said),
            rated,
            stacked,
            mixed,
            memory.rows + 1,
        )
        return memory, jnp.append(said, _combine.weighted(mixed, both, self.horizon))

    def _run(self, memory: Memory, rows: Array, learn: Array, n: Any) -> tuple[Memory, Array]:
        def body(t, carry):
            memory, out = carry
            memory, said = self._step(memory, rows[t], learn[t])
            return memory, out.at[t].set(said)

        out = jnp.zeros((self.portion, len(self.experts) + 3))
        return jax.lax.fori_loop(0, n, body, (memory, out))

    def _anew(self, memory: Memory, columns: Array) -> Memory:
        experts = tuple(e.anew(known, columns) for e, known in zip(self.experts, memory.experts, strict=True))
        return memory._replace(experts=experts, inputs=jnp.where(columns, 0, memory.inputs))
