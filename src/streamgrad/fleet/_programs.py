"""The compiled programs of a fleet: birth, waves of learning, prediction, health; rows in, rows out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int32, PyTree, UInt32

from .._base.select import select
from .._cpu.options import compiler_options
from ..train import Memory, Program, Told, check
from ..train._health import LARGE_WEIGHT
from ._rows import Rows

#: Learners that take a step together: on a CPU few, so that one hot key does not hold up many idle lanes.
LANES = {"cpu": 8}
MORE_LANES = 256
#: Learners of a wave and rows of a wave at most, fewer where they would take more bytes than this.
MOST_LEARNERS, MOST_ROWS, WAVE_BYTES = 512, 1024, 2**21
#: How memory must begin to be read in place.
_ALIGNED = 64


class Programs:
    """What a fleet of one kind of learner runs; `x`, `target`: the shapes of a row's input and target.

    Shapes are fixed, whatever a call brings: `room` learners and `length` rows a wave, with counts of what is real.
    All learning is one compiled program, so that no bit depends on how rows come together.
    """

    def __init__(self, program: Program, make: Callable, seed: int, x: PyTree, target: PyTree):
        self.program, self.make, self.seed, self.x, self.target = program, make, seed, x, target
        self.lanes = LANES.get(jax.default_backend(), MORE_LANES)
        words = jax.ShapeDtypeStruct((4,), np.uint32)
        like = jax.eval_shape(self._checked, words)
        flag = jax.ShapeDtypeStruct((), bool)
        self.told: Told = jax.eval_shape(program.step, like, x, target, flag)[1]
        self.room = _power(self.rows.words * 4, max(self.lanes, 8), MOST_LEARNERS)
        self.lanes = min(self.lanes, self.room)
        each = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((x, target, self.told)))
        self.length = _power(each, 64, MOST_ROWS)
        compiled = functools.partial(jax.jit, compiler_options=compiler_options(batched=True))
        self.born = compiled(jax.vmap(lambda words: self.rows.pack(self._born(words))))
        self.predict = compiled(self._predict)
        self.unpack = jax.jit(self.rows.unpack)
        self.suspects = compiled(jax.vmap(self._suspect))
        self._wave = compiled(self._learned)
        self.over([None])

    def over(self, devices: list[Any]) -> None:
        """Learn on these devices, each with waves of its own: the same program on each, so that bits stay as they were.
        None: the default one."""
        self.targets = devices
        # The rows that go there: always the same memory, which a CPU may read in place.
        size = len(devices) * self.room * self.rows.words
        raw = np.zeros(size + _ALIGNED // 4, np.uint32)
        start = -raw.ctypes.data % _ALIGNED // 4
        self.buffer = raw[start : start + size].reshape(len(devices), self.room, self.rows.words)

    @property
    def devices(self) -> int:
        """How many devices learn."""
        return len(self.targets)

    def wave(self, inputs, starts, counts, blocks) -> list[tuple[np.ndarray, Any]]:
        """What `(rows, told)` comes of the buffer and these inputs, for each device that has something to do. All
        have a leading axis of devices."""
        done = []
        for d, device in enumerate(self.targets):
            if blocks[d]:
                given = jax.tree.map(lambda a, d=d: a[d], (self.buffer, inputs, starts, counts, blocks))
                done.append(self._wave(*(given if device is None else jax.device_put(given, device))))
        return jax.tree.map(np.asarray, done)  # waits for all, when all have begun

    # A learner before its first row.

    def _born(self, words: UInt32[Array, " 4"]) -> Memory:
        """A learner's memory; weights and carries are drawn from the seed and the key's words alone."""
        key = jax.random.key(self.seed)
        for word in words:
            key = jax.random.fold_in(key, word)
        key_model, key_carry, key = jax.random.split(key, 3)
        arrays, static = eqx.partition(self.make(key_model), eqx.is_array)
        form = lambda tree: (jax.tree.structure(tree), jax.tree.leaves(tree))
        if form(static) != form(self.program.static):
            raise ValueError(
                "A fleet's make(key) must give models of one form, whatever the key: the same layers, sizes and "
                "settings, with other weights."
            )
        memory = self.program.init(arrays, key_carry, key)
        if self.program.is_open(memory):
            return memory
        _, y = eqx.filter_eval_shape(self.program.forward, memory.model, memory.carry, self.x)
        return self.program.opened(memory, self.x, self.target, y)

    def _checked(self, words):
        """A newborn's memory, looked at from shapes alone: what does not go together is refused, and how it lies in a
        row is noted."""
        memory = self._born(words)
        check(self.program, memory, self.x, self.target)
        self.rows = Rows(memory)
        return memory

    # Waves.

    def _learned(
        self,
        rows: UInt32[Array, "room words"],
        inputs: PyTree[Array],
        starts: Int32[Array, " room"],
        counts: Int32[Array, " room"],
        blocks: Int32[Array, ""],
    ) -> tuple[UInt32[Array, "room words"], Told]:
        """The rows after all learners took their steps, and what was told, (turns, lanes, ...).

        Learner k takes the inputs `starts[k] .. starts[k] + counts[k]`, one after another. `lanes` learners go
        together, as many turns as the busiest of them has steps; then come the next."""
        told = jax.tree.map(lambda leaf: jnp.zeros((self.length, self.lanes, *leaf.shape), leaf.dtype), self.told)

        def block(b, all):
            turn, rows, told = all
            cut = lambda a: jax.lax.dynamic_slice_in_dim(a, b * self.lanes, self.lanes)
            memory = jax.vmap(self.rows.unpack)(cut(rows))
            turn, memory, told = self._turns(turn, memory, told, inputs, cut(starts), cut(counts))
            rows = jax.lax.dynamic_update_slice_in_dim(rows, jax.vmap(self.rows.pack)(memory), b * self.lanes, 0)
            return turn, rows, told

        return jax.lax.fori_loop(0, blocks, block, (jnp.zeros((), starts.dtype), rows, told))[1:]

    def _turns(self, begin, memory, told, inputs, starts, counts):
        end = begin + counts.max()

        def body(all):
            turn, memory, told = all
            step = turn - begin
            place = jnp.minimum(starts + step, self.length - 1)
            x, target, reset = jax.tree.map(lambda a: a.at[place].get(mode="promise_in_bounds"), inputs)
            new, now = jax.vmap(self.program.step)(memory, x, target, reset)
            memory = jax.tree.map(select(step < counts), new, memory)
            put = lambda all, new: jax.lax.dynamic_update_slice_in_dim(all, new[None], turn, 0)
            return turn + 1, memory, jax.tree.map(put, told, now)

        return jax.lax.while_loop(lambda all: all[0] < end, body, (begin, memory, told))

    # Questions.

    def _predict(self, rows: UInt32[Array, "room words"], xs: PyTree[Array], blocks: Int32[Array, ""]) -> PyTree[Array]:
        """Each learner's prediction for its x."""
        one = lambda row, x: self.program.predict(self.rows.unpack(row), x)
        cut = lambda tree, b: jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, b * self.lanes, self.lanes), tree)
        ys = jax.tree.map(lambda leaf: jnp.zeros((self.room, *leaf.shape), leaf.dtype), self.told.y)
        put = lambda b: lambda all, new: jax.lax.dynamic_update_slice_in_dim(all, new, b * self.lanes, 0)
        block = lambda b, ys: jax.tree.map(put(b), ys, jax.vmap(one)(*cut((rows, xs), b)))
        return jax.lax.fori_loop(0, blocks, block, ys)

    def _suspect(self, row: UInt32[Array, " words"]) -> Bool[Array, ""]:
        """Whether a learner may have something to warn of: a cheap look at all, before a close one at few."""
        memory = self.rows.unpack(row)
        found = (memory.skipped > 0) | (jnp.asarray(memory.restarts) > 0).any()
        for leaf in jax.tree.leaves(memory):
            if eqx.is_inexact_array(leaf):
                found |= ~(jnp.abs(leaf) <= LARGE_WEIGHT).all()
        return found


def _power(each: int, least: int, most: int) -> int:
    """How many of so many bytes each go into a wave: a power of two."""
    fits = max(WAVE_BYTES // max(each, 1), 1)
    return min(max(2 ** (fits.bit_length() - 1), least), most)
