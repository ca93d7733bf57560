"""A fleet: a learner for each key, in one process, on one file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from .._base.trees import as_arrays, described as in_words, lengths, shapes as forms
from ..estimators import Estimator
from ..train import Output
from ._clocks import Clocks
from ._errors import FleetError
from ._forms import from_json, to_json
from ._identity import difference
from ._kernel import Kernel
from ._keys import Key, canonical, listed
from ._store import Store
from ._table import Table


class Fleet:
    r"""One learner for each key: predict, then learn, for rows of any keys in any order.

        fleet = sg.Fleet(make, optax.adam(1e-3), loss=sg.losses.mse, store="fleet.db")
        out   = fleet.update(keys, xs, targets)       # out.prediction, out.loss, out.learned: of each row
        fleet.commit(offset=1234)                     # all states and the source's offset, at once or not at all

    - `make(key) -> model`: the model of a key, of one form for all; compiled, its weights drawn by `jax.random` from
      the key that it gets, which comes from `seed` and the learner's key alone;
    - `update`: `sg.Kalman(...)`, any Optax optimiser, or a function of the model that makes one;
    - `loss`, `delay`, `update_every`, `chunked`, `estimator`: as for `sg.Learner`; steps are those of each key;
    - `slots`: learners in memory; those not asked for the longest wait in the store;
    - `store`: a file, made where it is not there yet, gone on with where it is; None for memory alone;
    - `late`: what to do with a row whose time is not after its key's last one: `"refuse"`, or `"skip"` and count;
    - `like`: an input and a target of one row, for a fleet that is asked before it learns.

    Keys are strings, integers and bytes. What a learner becomes depends on its own rows, in their order, and on the
    seed: not, to the bit, on other keys, on how rows come together in calls, on `slots`, or on what went to the disk.

    Nothing lasts before `commit`: a process that ends without it, however it ends, leaves the store as it was at the
    last commit, and `offset` says up to where the source is to be read again.

    Raises `FleetError` for a store that is damaged, in use, of another learner or of a newer version, and what
    `sg.Learner` raises.
    """

    def __init__(
        self,
        make: Callable[[jax.Array], Any],
        update: Any,
        *,
        loss: Callable[[Any, Any], Any],
        slots: int = 10_000,
        store: str | os.PathLike[str] | None = None,
        delay: int = 0,
        seed: int = 0,
        update_every: int = 1,
        chunked: bool = False,
        estimator: Estimator | None = None,
        late: str = "refuse",
        like: tuple[Any, Any] | None = None,
    ):
        kernel = Kernel(
            make,
            update,
            loss=loss,
            delay=delay,
            seed=seed,
            update_every=update_every,
            chunked=chunked,
            estimator=estimator,
            like=like,
        )
        self._set_up(kernel, slots, store, late)

    @classmethod
    def of(
        cls,
        kernel: Kernel,
        *,
        slots: int = 10_000,
        store: str | os.PathLike[str] | None = None,
        late: str = "refuse",
    ) -> Fleet:
        """A fleet of a kernel that may be there already: fleets of one kernel share its compiled programs."""
        fleet = cls.__new__(cls)
        fleet._set_up(kernel, slots, store, late)
        return fleet

    def _set_up(self, kernel: Kernel, slots: int, store: str | os.PathLike[str] | None, late: str) -> None:
        if isinstance(slots, bool) or not isinstance(slots, int) or slots < 1:
            raise ValueError(f"slots must be an integer >= 1, got {slots!r}: it is how many learners stay in memory.")
        self.kernel, self.slots, self._torn = kernel, slots, False
        self._table: Table | None = None
        self._store = Store(store)
        try:
            self._clocks = Clocks(late, self._store.note("late") or 0)
            if self._store.note("forecaster") is not None:
                raise FleetError(
                    f"{self._store.path} holds forecasters, of sg.fleet.Forecasters or `streamgrad fleet`: open it "
                    "with these, or give another file as store."
                )
            self._known = self._store.note("learner")
            if self._known is not None and self._known["forms"] is not None:
                self._open(*map(from_json, self._known["forms"]))
            elif self.kernel.is_open:
                self._begin()
        except BaseException:
            self._store.close()
            raise

    # Learning and asking.

    def update(self, keys: Any, xs: Any, targets: Any, resets: Any = None, *, times: Any = None) -> Output:
        """Predict, then learn, row by row: `Output(prediction, loss, learned)` of each, NumPy arrays in the order of
        the rows.

        - `keys`: one for each row; new ones begin here;
        - `xs`, `targets`: arrays, or trees of them, with a leading axis of rows. A NaN target is missing;
        - `resets`: where an episode of its key begins;
        - `times`: integers, or dates (`datetime64`), that grow from row to row of a key.

        Rows of a key are taken in turn. Raises `TypeError` and `ValueError` before anything is learned."""
        with self._whole(asks=True):
            names = listed(keys)
            inputs = self.kernel.inputs(len(names), xs, targets, resets)
            self._begin()
            on_time, last = self._clocks.look(names, times, self._last)
        with self._whole():
            if on_time.all():
                return self._learn(names, inputs, last)
            kept = np.flatnonzero(on_time)
            out = self._learn([names[k] for k in kept], jax.tree.map(lambda leaf: leaf[kept], inputs), last)
            return jax.tree.map(lambda leaf: _spread(leaf, kept, len(names)), out)

    def _learn(self, names: list[Key], inputs: Any, last: dict[Key, int]) -> Output:
        table = self._begin()

        def load(keys, rows):
            places = table.admit([key for some in keys for key in some])
            for some, its in _parts(places, rows):
                np.take(table.rows, some, axis=0, out=its, mode="clip")

        def save(keys, rows):
            keys = [key for some in keys for key in some]
            places = np.fromiter((table.slot[key] for key in keys), np.int64, len(keys))
            for some, its in _parts(places, rows):
                table.rows[some] = its
            table.dirty[places] = True
            if last:
                table.clocks[places] = [last[key] for key in keys]

        return Output(*self.kernel.learn(names, inputs, load, save, self.slots))

    def predict(self, keys: Any, xs: Any) -> PyTree:
        """The prediction of each key's learner for its x, from all that it has seen; changes nothing. A key that never
        came is asked as it would begin."""
        names, xs = listed(keys), as_arrays(xs)
        if lengths(xs) != {len(names)}:
            raise ValueError(f"predict expects an x for each key, got {len(names)} keys, {lengths(xs)} inputs.")
        programs, now = self.kernel.programs, forms(xs, 1)
        if in_words(now) != in_words(programs.x):
            raise ValueError(f"Each row has an input of {in_words(programs.x)} here, got {in_words(now)}.")
        with self._whole(asks=True) as table:
            typed = jax.tree.map(lambda leaf, like: np.asarray(leaf).astype(like.dtype, copy=False), xs, programs.x)
            found = []
            for start in range(0, max(len(names), 1), programs.room):
                some = slice(start, start + programs.room)
                rows = table.look(names[some])
                found.append(self.kernel.predict(rows, jax.tree.map(lambda leaf, some=some: leaf[some], typed)))
            return jax.tree.map(lambda *leaves: np.concatenate(leaves), *found)

    # Keys.

    def __len__(self) -> int:
        """How many keys have a learner."""
        with self._whole(asks=True) as table:
            return self._store.count if table is None else len(table)

    def __contains__(self, key: Any) -> bool:
        with self._whole(asks=True) as table:
            key = canonical(key)
            return key in (self._store if table is None else table)

    def keys(self) -> Iterator[Key]:
        """All keys; do not learn while you go through them."""
        with self._whole(asks=True) as table:
            return (self._store if table is None else table).keys()

    def __iter__(self) -> Iterator[Key]:
        return self.keys()

    def __getitem__(self, key: Any) -> Any:
        """The model of a key with its present weights. Raises `KeyError` for a key that has no learner."""
        return self.kernel.model(self._row(key))

    def state(self, key: Any) -> bytes:
        """The state of a key as `sg.fleet.apply` takes it. Raises `KeyError` for a key that has no learner."""
        return self.kernel.codec.encode(self._row(key))

    def drop(self, keys: Any) -> None:
        """Forget a key, or a list of keys: should one come again, it begins anew. Raises `KeyError`, before any is
        forgotten, for a key that has no learner."""
        names = [canonical(keys)] if isinstance(keys, str | bytes | int | np.generic) else listed(keys)
        names = list(dict.fromkeys(names))
        for name in names:
            if name not in self:
                raise KeyError(name)
        with self._whole() as table:
            (self._store.delete if table is None else table.drop)(names)

    def warnings(self, keys: Any = None) -> dict[Key, list[str]]:
        """What is growing out of bounds or was skipped, with the likely cause, by key: of all keys, or of some. Empty
        when all is well."""
        if keys is not None:
            names = [canonical(key) for key in ([keys] if isinstance(keys, str | bytes | int) else listed(keys))]
            return self.kernel.warnings(names, np.stack([self._row(name) for name in names])) if names else {}
        with self._whole(asks=True) as table:
            if table is None:
                return {}
            names, places = list(table.slot), list(table.slot.values())
            found, room = {}, self.kernel.programs.room
            for start in range(0, len(names), room):
                some = slice(start, start + room)
                found |= self.kernel.warnings(names[some], table.rows[places[some]])
            away = ((key, state) for key, state in self._store.items() if key not in table.slot)
            for some in _batches(away, room):
                rows = np.stack([self.kernel.codec.decode(state, key) for key, state in some])
                found |= self.kernel.warnings([key for key, _ in some], rows)
            return found

    # The store.

    @property
    def offset(self) -> Any:
        """What the last commit was given as `offset`, None before there was one: up to where the source was read."""
        return self._store.note("offset")

    @property
    def late(self) -> int:
        """Rows that were skipped since their time was not after their key's last one."""
        return self._clocks.late

    def commit(self, offset: Any = None) -> None:
        """Bring all states and the source's offset to the disk, at once or not at all.

        - `offset`: anything that JSON can hold; None keeps the last one.

        Raises `FleetError` where the disk refuses, or another process took the store: open it anew."""
        with self._whole() as table:
            if table is not None:
                table.write()
                forms = [to_json(form) for form in (self.kernel.programs.x, self.kernel.programs.target)]
                self._store.write_note(
                    "learner",
                    {
                        "seed": self.kernel.seed,
                        "forms": None if None in forms else forms,
                        "description": self.kernel.description,
                    },
                )
            if offset is not None:
                self._store.write_note("offset", offset)
            self._store.write_note("late", self._clocks.late)
            self._store.commit()

    def close(self) -> None:
        """Let go of the store. What was not committed is forgotten."""
        self._torn = True
        self._store.close()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def shard(self, mesh: Mesh) -> Fleet:
        """This fleet, with the learners of a wave over the devices of a mesh: see `sg.sharding.streams`."""
        self.kernel.over(mesh.local_devices)  # a fleet belongs to one process
        return self

    # Its parts.

    def _open(self, x: PyTree, target: PyTree) -> None:
        self.kernel.open(x, target)
        self._begin()

    def _begin(self) -> Table:
        """The slots, from when it is known what rows are like; refuses a store of another learner."""
        if self._table is None:
            if self._known is not None:
                found = difference(self._known["description"], self.kernel.description)
                if self._known["seed"] != self.kernel.seed:
                    found = f"seed was {self._known['seed']} and is now {self.kernel.seed}"
                if found:
                    raise FleetError(
                        f"{self._store.path} is of another fleet: {found}. Give what it was made with, or another "
                        "file as store."
                    )
            self._table = Table(self.kernel, self._store, self.slots)
        return self._table

    def _row(self, key: Any) -> np.ndarray:
        key = canonical(key)
        with self._whole(asks=True) as table:
            if table is None or key not in table:
                raise KeyError(key)
            return table.look([key])[0]

    def _last(self, keys: Sequence[Key]) -> dict[Key, int | None]:
        """The times of the last rows of keys."""
        table = self._begin()
        away = [key for key in keys if key not in table.slot]
        here = {key: int(table.clocks[table.slot[key]]) for key in keys if key in table.slot}
        return self._store.clocks(away) | here

    @contextlib.contextmanager
    def _whole(self, asks: bool = False) -> Iterator[Any]:
        """A call that is done wholly, or ends this fleet: half of one is nothing that a commit may keep."""
        if self._torn:
            raise FleetError(
                "This fleet is closed, or an earlier call was interrupted in mid-course: open it again from its store, "
                "which is as it was at the last commit."
            )
        self._torn = not asks
        yield self._table
        self._torn = False


def _parts(places: np.ndarray, rows: list[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The places of each device's rows, and the rows."""
    return zip(np.split(places, np.cumsum([len(its) for its in rows])[:-1]), rows, strict=True)


def _spread(leaf: np.ndarray, kept: np.ndarray, count: int) -> np.ndarray:
    """The outputs of the rows that were kept; of all others nothing: NaN, False, 0."""
    missing = np.nan if np.issubdtype(leaf.dtype, np.inexact) else 0
    full = np.full((count, *leaf.shape[1:]), missing, leaf.dtype)
    full[kept] = leaf
    return full


def _batches(items: Iterator, size: int) -> Iterator[list]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
