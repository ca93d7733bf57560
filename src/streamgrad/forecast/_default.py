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
from ..train._mixing import Mixed, Mixing, MixingState
from ._encoder import Encoded, Encoder
from ._experts import Expert, Learning

MOST = 4 * 2**30  # bytes


class Memory(NamedTuple):
    """All that the forecaster knows; the newest `horizon` inputs and forecasts wait for their targets."""

    experts: tuple
    inputs: Float[Array, "horizon size"]
    made: Mixed
    mixing: MixingState
    rows: Array


class Default:
    """Forecasts of encoded rows: of each expert, of both combinations, and of their mixture, which is the last column.

    - `experts`: by name; `encoder`: what the rows were encoded by;
    - `beside`: experts that are no part of the mixture, to be compared with.
    """

    portion = 64

    def __init__(
        self,
        experts: Mapping[str, Expert],
        encoder: Encoder,
        *,
        beside: Mapping[str, Expert] | None = None,
        seed: int = 0,
    ):
        beside = beside or {}
        self.encoder, self.names = encoder, (*beside, *experts, "weighted", "stacked", "mixture")
        self.experts = tuple(experts)
        parts = tuple((name, part.start, part.stop) for name, part in encoder.parts.items())
        every = (*beside.values(), *experts.values())
        affordable(every, encoder.size, encoder.horizon)
        self._program = _program(every, len(beside), parts, encoder.horizon, self.portion)
        self._key = jax.random.key(seed)
        self.memory = self._program.init(self._key)
        self._dtype = np.dtype(jnp.result_type(float))
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
            rows = np.zeros((self.portion, self.encoder.size), self._dtype)
            learn = np.full(self.portion, np.nan, self._dtype)
            rows[: end - begin], learn[: end - begin] = encoded.inputs[begin:end], encoded.learn[begin:end]
            self.memory, said = self._program.run(self.memory, rows, learn, end - begin)
            out.append(np.asarray(said, float)[: end - begin])
        return np.concatenate(out) if out else np.empty((0, len(self.names)))

    def weights(self) -> dict[str, float]:
        """How much each expert counts now in the weighted mean."""
        weights = self._program.weights(self.memory.mixing)
        return dict(zip(self.experts, np.asarray(weights, float).tolist(), strict=True))

    def warnings(self) -> list[str]:
        """Experts whose weights are not finite any more."""
        finite = lambda known: all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(known.arrays))
        names = (*self.names[: self._program.beside], *self.experts)
        lost = [name for name, known in zip(names, self.memory.experts, strict=True) if not finite(known)]
        return [f"{name} has weights that are not finite: it is left out, and does not recover." for name in lost]

    def restart(self) -> None:
        """Keep what was learned, and forget the stream: states of nets, and what waits for its target."""
        self.memory = self._program.restart(self.memory, self._key)


def affordable(experts: Sequence[Expert], size: int, horizon: int) -> None:
    """Raise `ValueError` for experts whose memory a machine cannot hold: a readout learns a covariance of all it sees,
    and each of the newest `horizon` rows waits with its `size` inputs."""
    readouts = [expert.lags + expert.units for expert in experts]
    needed = 4 * (horizon * size + sum(n * n for n in readouts))
    if needed > MOST:
        raise ValueError(
            f"lags and units: the forecaster would take {needed:,} bytes, and at most {MOST:,} are allowed: a readout "
            f"on n lags and units keeps n² numbers, here with n = {max(readouts):,}; and {horizon:,} rows wait for "
            "their truth. Take fewer lags, fewer units, or a shorter horizon."
        )


@functools.lru_cache(maxsize=8)
def _program(experts: Sequence[Expert], beside: int, parts: tuple, horizon: int, portion: int) -> Program:
    """One compiled program for all series."""
    return Program(experts, beside, {name: slice(*ends) for name, *ends in parts}, horizon, portion)


class Program:
    """Pure functions of a memory, compiled. The first `beside` experts are no part of the mixture."""

    def __init__(self, experts: Sequence[Expert], beside: int, parts: Mapping[str, slice], horizon: int, portion: int):
        self.horizon, self.portion, self.beside = horizon, portion, beside
        self.size = max(part.stop for part in parts.values())
        self.experts = tuple(Learning(expert, parts, horizon) for expert in experts)
        self.mixing = Mixing(horizon=float(horizon))
        options = compiler_options()
        self.init = jax.jit(self._init)
        self.run = jax.jit(self._run, donate_argnums=0, compiler_options=options)
        self.anew = jax.jit(self._anew, donate_argnums=0)
        self.restart = jax.jit(self._restart, donate_argnums=0)
        self.weights = jax.jit(self._weights)

    def _init(self, key) -> Memory:
        count = len(self.experts) - self.beside
        keys = [*jax.random.split(jax.random.fold_in(key, 1), self.beside)] if self.beside else []
        keys += [*jax.random.split(key, count)]  # what stands beside a mixture changes nothing in it
        return Memory(
            experts=tuple(expert.init(k) for expert, k in zip(self.experts, keys, strict=True)),
            inputs=jnp.zeros((self.horizon, self.size)),
            made=Mixed(*(jnp.full((self.horizon, *shape), jnp.nan) for shape in ((), (2,), (count,)))),
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
        inputs = memory.inputs.at[place].set(x)
        pending = jax.tree.map(lambda ring, new: ring.at[place].set(new), memory.made, made)
        memory = Memory(tuple(experts), inputs, pending, mixing, memory.rows + 1)
        said = [*said[: self.beside], *made.experts, *made.both, made.forecast]
        return memory, jnp.stack(said)

    def _run(self, memory: Memory, rows: Array, learn: Array, n: Any) -> tuple[Memory, Array]:
        def body(t, carry):
            memory, out = carry
            memory, said = self._step(memory, rows[t], learn[t])
            return memory, out.at[t].set(said)

        out = jnp.zeros((self.portion, len(self.experts) + 3))
        return jax.lax.fori_loop(0, n, body, (memory, out))

    def _weights(self, mixing: MixingState) -> Array:
        return self.mixing.weights(mixing, jnp.zeros(len(self.experts) - self.beside))

    def _restart(self, memory: Memory, key) -> Memory:
        fresh = self._init(key)
        experts = tuple(
            known._replace(carry=new.carry, serving=new.serving)
            for known, new in zip(memory.experts, fresh.experts, strict=True)
        )
        return fresh._replace(experts=experts, mixing=memory.mixing)

    def _anew(self, memory: Memory, columns: Array) -> Memory:
        experts = tuple(e.anew(known, columns) for e, known in zip(self.experts, memory.experts, strict=True))
        return memory._replace(experts=experts, inputs=jnp.where(columns, 0, memory.inputs))
