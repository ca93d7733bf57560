"""One kind of learner, for any number of keys: the rows of many streams, learned wave by wave."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from .._base.trees import as_arrays, described as in_words, lengths, shapes as forms
from ..estimators import Estimator
from ..train import Learner, _health as health, refuse_growth
from ._codec import Codec
from ._identity import Description, described, named, shapes
from ._keys import Key, digest
from ._programs import Programs


class Wave(NamedTuple):
    """Learners that go together, a list for each device, and the places of their rows, those of a learner in turn."""

    keys: list[list[int]]
    counts: list[np.ndarray]
    rows: list[np.ndarray]


class Kernel:
    """A kind of learner, from which every key gets its own: what `Fleet` and `apply` run.

    - `make(key) -> model`: as a learner takes it, of one form for all keys. It is compiled: weights are drawn by
      `jax.random` from the key that it gets, which comes from `seed` and the learner's key alone;
    - `update`: `sg.Kalman(...)`, or any Optax optimiser, or a function of the model that makes one;
    - `loss`, `delay`, `update_every`, `chunked`, `estimator`: as for `sg.Learner`;
    - `like`: an input and a target of one row; by default those of the first rows say what all are like.

    Raises what `sg.Learner` raises, and `ValueError` for a seed that is no integer.
    """

    def __init__(
        self,
        make: Callable[[jax.Array], Any],
        update: Any,
        *,
        loss: Callable[[Any, Any], Any],
        delay: int = 0,
        seed: int = 0,
        update_every: int = 1,
        chunked: bool = False,
        estimator: Estimator | None = None,
        like: tuple[Any, Any] | None = None,
    ):
        if not callable(make):
            raise TypeError(f"Expected make(key) -> model, a function, got {type(make).__name__}: lambda key: model.")
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise ValueError(f"seed must be an integer from 0 to 2**32 - 1, got {seed!r}.")
        model = eqx.filter_jit(make)(jax.random.key(seed))
        self.learner = Learner(
            model, update, loss=loss, delay=delay, update_every=update_every, chunked=chunked, estimator=estimator
        )
        self.make, self.seed = make, seed
        self._says = {"model": described(eqx.partition(model, eqx.is_array)[1]), "loss": {"function": named(loss)}}
        settings = {"delay": delay, "update_every": update_every, "chunked": chunked}
        self._says["settings"] = {name: str(value) for name, value in settings.items()} | described(estimator)
        self._programs: Programs | None = None
        self._devices: list[Any] = []
        if like is not None:
            self.open(*(forms(as_arrays(each)) for each in like))

    # What rows are like.

    @property
    def is_open(self) -> bool:
        """Whether it is known what a row's input and target are like."""
        return self._programs is not None

    @property
    def programs(self) -> Programs:
        """The compiled programs. Raises `RuntimeError` before it is known what rows are like."""
        if self._programs is None:
            raise RuntimeError(
                "It is not known yet what rows are like: learn from some first, or give like=(x, target) of one row."
            )
        return self._programs

    def open(self, x: PyTree, target: PyTree) -> None:
        """Fix the shapes and types of a row's input and target. Raises `ValueError` where they were others before,
        `TypeError` and `ValueError` for a loss or a model that they do not fit."""
        now = shapes(x), shapes(target)
        if self._programs is None:
            program = self.learner.program
            refuse_growth(program, "A fleet")
            self._programs = programs = Programs(program, self.make, self.seed, x, target)
            if self._devices:
                programs.over(self._devices)
            self.description: Description = {
                **self._says,
                "inputs": now[0],
                "targets": now[1],
                "arrays": programs.rows.described(),
            }
            self.codec = Codec(self.description, programs.rows.words)
        elif now != (self.description["inputs"], self.description["targets"]):
            was = self._programs
            raise ValueError(
                f"Each row has an input of {in_words(was.x)} and a target of {in_words(was.target)} here, got "
                f"{in_words(x)} and {in_words(target)}: give one shape and type throughout."
            )

    def over(self, devices: Sequence[Any]) -> None:
        """Learn on these devices, each with waves of its own."""
        self._devices = list(devices)
        if self._programs is not None:
            self._programs.over(self._devices)

    def inputs(self, count: int, xs: Any, targets: Any, resets: Any) -> tuple[PyTree, PyTree, np.ndarray]:
        """Inputs, targets and resets of so many rows as NumPy arrays of one length and of the types that are learned
        from. Raises `ValueError` where they are not."""
        xs, targets = as_arrays(xs), as_arrays(targets)
        resets = np.zeros(count, bool) if resets is None else np.asarray(resets, bool)
        found = lengths((xs, targets, resets))
        if found != {count} or resets.shape != (count,):
            one = lambda tree: "/".join(str(n) for n in lengths(tree)) or "no"
            raise ValueError(
                f"Expected an input, a target and a reset for each key, got {count} keys, {one(xs)} inputs, "
                f"{one(targets)} targets, {one(resets)} resets."
            )
        self.open(forms(xs, 1), forms(targets, 1))
        typed = lambda leaf, like: np.asarray(leaf).astype(like.dtype, copy=False)
        x, target = self.programs.x, self.programs.target
        return jax.tree.map(typed, xs, x), jax.tree.map(typed, targets, target), resets

    # Rows of states.

    def born(self, keys: list[Key]) -> np.ndarray:
        """The rows of learners before their first step, (keys, words)."""
        programs, found = self.programs, []
        for start in range(0, len(keys), programs.room):
            some = keys[start : start + programs.room]
            words = np.zeros((programs.room, 4), np.uint32)
            words[: len(some)] = [digest(key) for key in some]
            found.append(np.asarray(programs.born(words))[: len(some)])
        return np.concatenate(found) if found else np.zeros((0, programs.rows.words), np.uint32)

    def memory(self, row: np.ndarray) -> Any:
        """A row as a `streamgrad.train.Memory`."""
        return self.programs.unpack(row)

    def model(self, row: np.ndarray) -> Any:
        """The model of a row, with its present weights."""
        return eqx.combine(self.memory(row).model, self.learner.program.static)

    def warnings(self, keys: list[Key], rows: np.ndarray) -> dict[Key, list[str]]:
        """What is growing out of bounds or was skipped, by key; of those where all is well nothing."""
        programs, found = self.programs, {}
        for start in range(0, len(keys), programs.room):
            some = _filled(rows[start : start + programs.room], programs.room)
            for k in np.flatnonzero(np.asarray(programs.suspects(some))[: len(keys) - start]):
                said = health.warnings(self.memory(rows[start + k]), self.learner.program.trained)
                if said:
                    found[keys[start + k]] = said
        return found

    def predict(self, rows: np.ndarray, xs: PyTree[np.ndarray]) -> PyTree[np.ndarray]:
        """The prediction of each row's learner for its x; changes nothing. At most `room` of them."""
        programs, count = self.programs, len(rows)
        xs = jax.tree.map(lambda leaf: _filled(leaf, programs.room), xs)
        ys = programs.predict(_filled(rows, programs.room), xs, np.int32(-(-count // programs.lanes)))
        return jax.tree.map(lambda leaf: np.asarray(leaf)[:count], ys)

    def learn(
        self,
        keys: list[Key],
        inputs: tuple[PyTree, PyTree, np.ndarray],
        load: Callable[[list[list[Key]], list[np.ndarray]], None],
        save: Callable[[list[list[Key]], list[np.ndarray]], None],
        most: int,
    ) -> Any:
        """Learn from rows in any order of keys, and return what was told of each, in the order of the rows.

        - `load(keys, rows)` fills in the rows of keys, `save(keys, rows)` takes them back: lists, an entry for each
          device; called in turn, each time for at most `most` distinct keys."""
        programs = self.programs
        told = jax.tree.map(lambda leaf: np.empty((len(keys), *leaf.shape), leaf.dtype), programs.told)
        for start in range(0, len(keys), programs.length):
            stop = min(start + programs.length, len(keys))
            for names, wave in self._waves(keys[start:stop], most):
                self._learn(names, wave, start, inputs, told, load, save)
        return told

    def _learn(self, names, wave: Wave, start: int, inputs, told, load, save) -> None:
        programs, devices = self.programs, range(len(wave.keys))
        shape = programs.devices, programs.room
        starts, counts, blocks = np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape[0], np.int32)
        zeros = lambda leaf: np.zeros((shape[0], programs.length, *leaf.shape[1:]), leaf.dtype)
        laid = jax.tree.map(zeros, inputs)
        for d in devices:
            n, count = len(wave.keys[d]), wave.counts[d]
            counts[d, :n] = count
            starts[d, 1:n] = np.cumsum(count)[:-1]
            blocks[d] = -(-n // programs.lanes)
            for to, source in zip(jax.tree.leaves(laid), jax.tree.leaves(inputs), strict=True):
                to[d, : len(wave.rows[d])] = source[start + wave.rows[d]]
        called = [[names[k] for k in keys] for keys in wave.keys]
        mine = lambda all: [rows[: len(keys)] for rows, keys in zip(all, called, strict=False)]
        load(called, mine(programs.buffer))
        done = programs.wave(laid, starts, counts, blocks)
        save(called, mine([rows for rows, _ in done]))
        for d in devices:
            turn, lane = _turns(wave.counts[d], programs.lanes)
            for to, source in zip(jax.tree.leaves(told), jax.tree.leaves(done[d][1]), strict=True):
                to[start + wave.rows[d]] = source[turn, lane]

    def _waves(self, keys: list[Key], most: int) -> Iterator[tuple[list[Key], Wave]]:
        """The waves of some rows: busy keys first, so that those which go together are about equally busy."""
        programs = self.programs
        places: dict[Key, int] = {}
        ids = np.fromiter((places.setdefault(key, len(places)) for key in keys), np.int64, len(keys))
        names = list(places)
        counts = np.bincount(ids, minlength=len(names))
        busy = np.argsort(-counts, kind="stable")
        room = min(programs.room * programs.devices, most)
        for first in range(0, len(names), room):
            some = busy[first : first + room]
            dealt = np.arange(len(some)) // programs.lanes % programs.devices
            groups = [some[dealt == d] for d in range(programs.devices)]
            groups = [group for group in groups if len(group)]
            lane = np.full(len(names), len(names))
            lane[np.concatenate(groups)] = np.arange(len(some))
            mine = np.flatnonzero(lane[ids] < len(names))
            order = mine[np.argsort(lane[ids[mine]], kind="stable")]
            ends = np.cumsum([counts[group].sum() for group in groups])[:-1]
            yield names, Wave([group.tolist() for group in groups], [counts[g] for g in groups], np.split(order, ends))


def _turns(counts: np.ndarray, lanes: int) -> tuple[np.ndarray, np.ndarray]:
    """In which turn of a wave, and in which lane, each step was taken: learner by learner."""
    each = np.repeat(np.arange(len(counts)), counts)
    step = np.arange(len(each)) - np.repeat(np.cumsum(counts) - counts, counts)
    longest = np.maximum.reduceat(counts, np.arange(0, len(counts), lanes))
    return (np.cumsum(longest) - longest)[each // lanes] + step, each % lanes


def _filled(array: np.ndarray, length: int) -> np.ndarray:
    """The array with its leading axis filled up to that length."""
    if len(array) == length:
        return array
    full = np.zeros((length, *array.shape[1:]), array.dtype)
    full[: len(array)] = array
    return full
