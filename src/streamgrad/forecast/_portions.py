"""Experts side by side, compiled once for all streams of a form, and fed with portions of encoded rows."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._cpu.loop import form_of_one, loop
from .._cpu.options import in_one_thread
from .._cpu.piece import ByPieces
from ._encoder import Encoder

PORTION = 256  # rows of one call


class Program(abc.ABC):
    """Pure functions of a memory, compiled. A memory has `experts`, `inputs` (that wait for their truth) and `mixing`.

    - `experts`: each with `init`, `anew` and `weights`, as `Learning` has them; `size`: of an encoded row; `wide`:
      numbers that are said at each row.
    """

    def __init__(self, experts: Sequence[Any], size: int, wide: int):
        self.experts, self.size, self.wide = tuple(experts), size, wide
        self.init = jax.jit(self._init)
        step = lambda memory, rows, n: (self._step, (memory, *form_of_one(rows)))
        self.run = ByPieces(self._run, step, options=in_one_thread(), donate_argnums=0)
        self.anew = jax.jit(self._anew, donate_argnums=0)
        self.restart = jax.jit(self._restart, donate_argnums=0)
        self.weights = jax.jit(self._weights)

    @abc.abstractmethod
    def _init(self, key) -> Any:
        """The memory before the first row."""

    @abc.abstractmethod
    def _step(self, memory: Any, *row: Array) -> tuple[Any, Float[Array, " wide"]]:
        """Learn from what has come due with a row, then forecast."""

    @abc.abstractmethod
    def _weights(self, mixing: Any) -> Float[Array, " experts"]:
        """How much each expert that is mixed counts."""

    @final
    def _run(self, whole: Callable, memory: Any, rows: tuple[Array, ...], n: Any) -> tuple[Any, Array]:
        return loop(whole(self._step), memory, rows, n)

    @final
    def _anew(self, memory: Any, columns: Bool[Array, " size"]) -> Any:
        """The memory when columns of the inputs begin to mean something else."""
        experts = tuple(e.anew(known, columns) for e, known in zip(self.experts, memory.experts, strict=True))
        return memory._replace(experts=experts, inputs=jnp.where(columns, 0, memory.inputs))

    @final
    def _restart(self, memory: Any, key) -> Any:
        """The memory at the begin of another stream: what was learned stays."""
        fresh = self._init(key)
        both = zip(memory.experts, fresh.experts, strict=True)
        experts = tuple(known._replace(carry=new.carry, serving=new.serving) for known, new in both)
        return fresh._replace(experts=experts, mixing=memory.mixing)


class Portions:
    """A program on the rows of one encoder. `memory`: all that it knows; `experts`: names of those that are mixed;
    `every`: of all in the program."""

    def __init__(self, program: Program, encoder: Encoder, experts: tuple[str, ...], every: tuple[str, ...], seed: int):
        self.encoder, self.experts, self._every = encoder, experts, every
        self._program, self._key = program, jax.random.key(seed)
        self.memory = program.init(self._key)
        self._dtype = np.dtype(jnp.result_type(float))
        self._seasons = np.zeros((2, encoder.size), bool)
        for which, name in enumerate(("short", "long")):
            self._seasons[which, encoder.parts[name]] = True

    def learned(self, anew: Bool[np.ndarray, "n 2"], *rows: np.ndarray) -> Float[np.ndarray, "n wide"]:
        """What is said at each of n rows, learned in turn. `anew`: whether a season's columns begin to mean something
        else there."""
        n, out = len(anew), [np.empty((0, self._program.wide))]
        ends = {*range(PORTION, n, PORTION), n, *np.flatnonzero(anew.any(axis=1)).tolist()} - {0}
        for begin, end in zip([0, *sorted(ends)], sorted(ends), strict=False):
            if anew[begin].any():
                gone = (anew[begin][:, None] & self._seasons).any(axis=0)
                self.memory = self._program.anew(self.memory, gone)
            padded = tuple(self._padded(each[begin:end]) for each in rows)
            self.memory, said = self._program.run(self.memory, padded, end - begin)
            out.append(np.asarray(said, float)[: end - begin])
        return np.concatenate(out)

    def _padded(self, rows: np.ndarray) -> np.ndarray:
        room = np.zeros((PORTION, *rows.shape[1:]), self._dtype)
        room[: len(rows)] = rows
        return room

    def weights(self) -> dict[str, float]:
        """How much each expert counts now in the weighted mean."""
        weights = self._program.weights(self.memory.mixing)
        return dict(zip(self.experts, np.asarray(weights, float).tolist(), strict=True))

    def warnings(self) -> list[str]:
        """Experts whose weights are not finite any more."""
        finite = lambda tree: all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))
        each = zip(self._every, self._program.experts, self.memory.experts, strict=True)
        lost = [name for name, expert, known in each if not finite(expert.weights(known))]
        return [f"{name} has weights that are not finite: it is left out, and does not recover." for name in lost]

    def restart(self) -> None:
        """Keep what was learned, and forget the stream: states of nets, and what waits for its target."""
        self.memory = self._program.restart(self.memory, self._key)
