"""A fleet of forecasters: the default forecaster of `sg.forecast`, one for each key, on one file."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float

from ..forecast import Forecaster
from ..forecast._cells import RowError
from ..forecast._said import Forecasts
from ._codec import Codec
from ._errors import FleetError
from ._identity import difference
from ._keys import Key, canonical, listed
from ._leaves import Leaves
from ._store import Store, refuse_offset

MEMORY = 2**30  # bytes of states in memory, if `slots` is not given


class Forecasters:
    """One `sg.forecast.Forecaster` for each key: rows of any keys in any order, on one file.

        fleet = sg.fleet.Forecasters("demand", horizon=24, store="fleet.db")
        said  = fleet.learn(keys, rows)           # a column for each thing that is said, in the order of the rows
        fleet.commit(offset=1234)                 # all states and the source's offset, at once or not at all

    - `target` and `settings`: as for `Forecaster`, the same for all keys; one target, no `known`, no classes;
    - `store`: a file, made where it is not there yet, gone on with where it is; None for memory alone;
    - `slots`: forecasters in memory, as many as 1 GiB holds if None; those not asked for the longest wait in the store;
    - `late`: what to do with a row whose time is before its key's last one: `"refuse"`, or `"skip"` and count;
    - `anew`: whether forecasters that the store holds are forgotten, from the first commit on.

    What is said of a key is, to the bit, what a forecaster of its rows alone says: it does not depend on other keys, on
    how rows come together in calls, on `slots`, or on restarts. All keys share the compiled programs of one forecaster,
    whose state changes from key to key.

    Nothing lasts before `commit`: a process that ends without it, however it ends, leaves the store as it was.

    Raises `FleetError` for a store that is damaged, in use, of other settings or of a newer version, and `ValueError`
    for settings that cannot be meant.
    """

    def __init__(
        self,
        target: str | int,
        *,
        store: str | os.PathLike[str] | None = None,
        slots: int | None = None,
        late: str = "refuse",
        anew: bool = False,
        **settings: Any,
    ):
        if late not in ("refuse", "skip"):
            raise ValueError(f'late must be "refuse" or "skip", got {late!r}: it is what to do with rows out of order.')
        if not isinstance(target, str | int):
            raise ValueError(f"target must be one column, got {target!r}: make a fleet for each target.")
        self._one = Forecaster(target, **settings)
        _check(self._one)
        born = self._one.state
        self._leaves = Leaves(born)
        self._born = self._leaves.pack(born)
        kept = {name: repr(value) for name, value in sorted(self._one.settings.items())}
        self.description = {"settings": kept, "arrays": self._leaves.described()}
        self._codec = Codec(self.description, self._leaves.words)
        self.slots = max(1, MEMORY // self.bytes) if slots is None else slots
        if isinstance(self.slots, bool) or not isinstance(self.slots, int) or self.slots < 1:
            raise ValueError(f"slots must be an integer >= 1, got {slots!r}: so many forecasters stay in memory.")
        self._states: OrderedDict[Key, Any] = OrderedDict()  # those asked for last at the end
        self._dirty: set[Key] = set()
        self._stored: set[Key] = set()  # of those in memory, which have a state in the store
        self._skips, self._closed = late == "skip", False
        self._store = Store(store)
        try:
            self._recognise(anew)
        except BaseException:
            self._store.close()
            raise
        self._late = self._store.note("late") or 0

    def _recognise(self, anew: bool) -> None:
        """Refuse a store of something else."""
        if self._store.note("learner") is not None:
            raise FleetError(
                f"{self._store.path} holds the learners of an sg.Fleet, no forecasters: give another file as store."
            )
        known = self._store.note("forecaster")
        if anew:
            self._store.clear()
        elif known is not None and (found := difference(known, self.description)):
            raise FleetError(
                f"{self._store.path} is of other forecasters: {found}. Give what it was made with, or another file "
                "as store."
            )

    # Learning.

    @property
    def columns(self) -> Any:
        """The columns of a row: `columns.names` has their order."""
        return self._one.columns

    @property
    def methods(self) -> tuple[str, ...]:
        """What is compared: the forecaster's own forecast, its experts, and what is simple."""
        return self._one.methods

    @property
    def own(self) -> tuple[str, ...]:
        """Those of `methods` that are experts of the forecaster."""
        return tuple(self._one.targets[0].own)

    @property
    def settings(self) -> dict[str, Any]:
        """What all forecasters were made of."""
        return dict(self._one.settings)

    @property
    def measures(self) -> dict[str, str]:
        """Errors that figures have, with their headings."""
        return dict(self._one.targets[0].measures)

    @property
    def headline(self) -> str:
        """The measure that keys are ranked by."""
        return self._one.targets[0].headline

    @property
    def bytes(self) -> int:
        """What a key takes."""
        return 4 * self._leaves.words

    def learn(self, keys: Any, rows: Float[np.ndarray, "n names"]) -> dict[str, np.ndarray]:
        """Learn from rows in turn, and say something of each: columns by the names that `predictions.csv` of
        `streamgrad learn` has (without `row`), in the order of the rows.

        - `keys`: one for each row; new ones begin here;
        - `rows`: numbers in the order of `columns.names`, NaN where missing.

        Where late rows are skipped nothing is said of them. Raises `RowError`, before anything is learned, for a row
        that is late where such are refused."""
        names = listed(keys)
        if np.shape(rows) != (len(names), len(self.columns.names)):
            raise ValueError(
                f"learn expects a row of {len(self.columns.names)} numbers for each key, got {len(names)} keys and "
                f"rows of shape {np.shape(rows)}."
            )
        rows = self.columns.checked(rows)
        self._refuse_closed()
        groups = _grouped(names)
        kept, first = self._on_time(groups, rows)
        if first < len(rows):
            raise RowError(
                f"key {names[first]!r}: time goes back at row {first} of this call. Sort the rows of each key by time, "
                'leave the time column out, or skip such rows (late="skip").'
            )
        self._closed = True  # until all keys stand at the end of these rows
        said = {name: _nothing(len(names), column) for name, column in self._said(self.columns.none).items()}
        for key, at in groups.items():
            at = at[kept[at]]
            if not len(at):
                continue
            self._take(key)
            for name, column in self._said(rows[at]).items():
                said[name][at] = column
            self._states[key] = self._one.state
            self._dirty.add(key)
        self._late += int((~kept).sum())
        self._closed = False
        return said

    def in_order(self, keys: Any, rows: Float[np.ndarray, "n names"]) -> int:
        """How many of the rows, from the first on, `learn` takes before one is refused as late."""
        names = listed(keys)
        return self._on_time(_grouped(names), np.asarray(rows, float))[1]

    def _on_time(self, groups: dict[Key, np.ndarray], rows: np.ndarray) -> tuple[np.ndarray, int]:
        """Which rows are not late, and the number of the first that is refused."""
        kept, first = np.ones(len(rows), bool), len(rows)
        if self.columns.time is None:
            return kept, first
        for key, at in groups.items():
            self._take(key)
            times = rows[at, -1]
            before = np.fmax.accumulate(np.concatenate([self._one.clock.state[:1], times]))[:-1]
            kept[at] = ~(times < before)
        if not self._skips and not kept.all():
            first = int(np.flatnonzero(~kept)[0])
        return kept, first

    def _said(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """What the forecaster at hand says of its rows."""
        columns = Forecasts.of(self._one, self._one.learn(rows)).columns()
        columns.pop("row")
        return columns

    # Keys.

    def __len__(self) -> int:
        """How many keys have a forecaster."""
        return self._store.count + len(self._states.keys() & self._dirty - self._stored)

    def __contains__(self, key: Any) -> bool:
        key = canonical(key)
        return key in self._dirty or key in self._store

    def keys(self) -> Iterator[Key]:
        """All keys; do not learn while you go through them."""
        yield from self._store.keys()
        yield from (key for key in self._states if key in self._dirty and key not in self._stored)

    def __iter__(self) -> Iterator[Key]:
        return self.keys()

    def __getitem__(self, key: Any) -> Forecaster:
        """The forecaster of a key: a copy, which goes its own way. Raises `KeyError` for a key that has none."""
        key = canonical(key)
        if key not in self:
            raise KeyError(key)
        found = Forecaster(**_arguments(self._one))
        found.state = self._leaves.unpack(self._row(key))
        return found

    def drop(self, keys: Any) -> None:
        """Forget a key, or a list of keys: should one come again, it begins anew. Raises `KeyError`, before any is
        forgotten, for a key that has no forecaster."""
        names = [canonical(keys)] if isinstance(keys, str | bytes | int | np.generic) else listed(keys)
        for name in names:
            if name not in self:
                raise KeyError(name)
        for name in names:
            self._states.pop(name, None)
        self._dirty -= set(names)
        self._stored -= set(names)
        self._store.delete(names)

    def figures(self) -> Iterator[tuple[Key, dict[str, Any]]]:
        """Figures of each key: `rows`, `scored`, `missing`, `changes`, `warnings`, and for each measure its errors,
        in the order of `methods`; NaN where there is none yet. Read from the store, those of changed keys written
        before."""
        self._write()
        for key, found in self._store.figures():
            yield key, {name: _numbers(value) for name, value in found.items()}

    # The store.

    @property
    def offset(self) -> Any:
        """What the last commit was given as `offset`, None before there was one: up to where the source was read."""
        return self._store.note("offset")

    @property
    def late(self) -> int:
        """Rows that were skipped since their time was before their key's last one."""
        return self._late

    def commit(self, offset: Any = None) -> None:
        """Bring all states and the source's offset to the disk, at once or not at all.

        - `offset`: anything that JSON can hold; None keeps the last one.

        Raises `FleetError` where the disk refuses."""
        self._refuse_closed()
        refuse_offset(offset)
        self._write()
        self._store.write_note("forecaster", self.description)
        self._store.write_note("late", self._late)
        if offset is not None:
            self._store.write_note("offset", offset)
        self._store.commit()

    def close(self) -> None:
        """Let go of the store. What was not committed is forgotten."""
        self._closed = True
        self._store.close()

    def __enter__(self) -> Forecasters:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # Slots.

    def _refuse_closed(self) -> None:
        if self._closed:
            raise FleetError(
                "This fleet is closed, or an earlier call was interrupted in mid-course: open it again from its store, "
                "which is as it was at the last commit."
            )

    def _take(self, key: Key) -> None:
        """Make the forecaster at hand that of a key."""
        if key in self._states:
            self._states.move_to_end(key)
        else:
            self._make_room()
            stored = self._store.get([key]) if self._store.count else {}
            if stored:
                self._stored.add(key)
            row = self._codec.decode(stored[key][0], key) if stored else self._born
            self._states[key] = self._leaves.unpack(row)
        self._one.state = self._states[key]

    def _row(self, key: Key) -> np.ndarray:
        if key in self._states:
            return self._leaves.pack(self._states[key])
        return self._codec.decode(self._store.get([key])[key][0], key)

    def _make_room(self) -> None:
        """Free a slot, and some more at once."""
        if len(self._states) < self.slots:
            return
        gone = list(self._states)[: max(1, self.slots // 16)]
        self._save([key for key in gone if key in self._dirty])
        for key in gone:
            del self._states[key]
        self._stored -= set(gone)

    def _write(self) -> None:
        self._save([key for key in self._states if key in self._dirty])

    def _save(self, keys: list[Key]) -> None:
        """Bring the states and figures of some keys into the store, a few at a time."""
        for start in range(0, len(keys), 64):
            some = keys[start : start + 64]
            encode = lambda key: self._codec.encode(self._leaves.pack(self._states[key]))
            new = sum(key not in self._stored for key in some)
            self._store.put([(key, encode(key), None) for key in some], new=new)
            self._store.put_figures([(key, self._figures(key)) for key in some])
            self._stored |= set(some)
            self._dirty -= set(some)

    def _figures(self, key: Key) -> dict[str, Any]:
        one = self._one
        one.state = self._states[key]
        found = one.scores()
        figures = {name: [_plain(found[name][method]) for method in self.methods] for name in self.measures}
        counts = {"rows": one.row, "scored": found["rows"], "missing": int(one.missing[0])}
        return {**counts, "changes": one.history[0].changes, "warnings": one.warnings(), **figures}


def _check(one: Forecaster) -> None:
    """Refuse what a fleet has no form for."""
    if one.columns.known:
        raise ValueError("known: a fleet reads no columns ahead yet; leave them out, or take Forecasters one by one.")
    if one.outcome == "class":
        raise ValueError(
            'outcome="class": a fleet has no columns for the classes of each key; number, event and count go.'
        )


def _arguments(one: Forecaster) -> dict[str, Any]:
    from ..forecast._settings import Settings

    return Settings.arguments(one.settings)


def _grouped(names: list[Key]) -> dict[Key, np.ndarray]:
    """The places of each key's rows."""
    places: dict[Key, list[int]] = {}
    for k, name in enumerate(names):
        places.setdefault(name, []).append(k)
    return {name: np.array(each) for name, each in places.items()}


def _nothing(count: int, like: np.ndarray) -> np.ndarray:
    return np.full(count, np.nan if like.dtype.kind == "f" else 0, like.dtype)


def _plain(value: float) -> float | None:
    return None if value != value else value


def _numbers(value: Any) -> Any:
    """None as NaN in a list of errors."""
    if isinstance(value, list) and not any(isinstance(one, str) for one in value):
        return [float("nan") if one is None else one for one in value]
    return value
