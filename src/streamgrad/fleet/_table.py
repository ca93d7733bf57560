"""The slots of a fleet: the states of keys that were busy of late, in memory; all others in the store."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ._kernel import Kernel
from ._keys import Key
from ._store import Store

#: The clock of a key that never had one.
NEVER = np.iinfo(np.int64).min


class Table:
    """Rows by slot. A key that is asked for gets a slot, from the store or newborn; the slots of keys that were not
    asked for the longest are given away, and what changed in them goes to the store."""

    def __init__(self, kernel: Kernel, store: Store, slots: int):
        self.kernel, self.store, self.slots = kernel, store, slots
        words = kernel.programs.rows.words
        try:
            self.rows = np.zeros((slots, words), np.uint32)  # memory is taken as slots are used
        except MemoryError:
            raise ValueError(
                f"{slots:,} slots of {4 * words:,} bytes, a learner each, are {4e-9 * words * slots:,.0f} GB, more "
                "than this machine gives: take fewer slots, or a learner that keeps less."
            ) from None
        self.clocks = np.full(slots, NEVER)
        self.used = np.zeros(slots, np.int64)  # when a slot's key was last asked for, 0: a free slot
        self.dirty = np.zeros(slots, bool)
        self.stored = np.zeros(slots, bool)
        self.names: list[Key | None] = [None] * slots
        self.slot: dict[Key, int] = {}
        self._free = list(range(slots - 1, -1, -1))
        self._now = 0

    def __len__(self) -> int:
        return self.store.count + len(self.slot) - int(self.stored.sum())

    def __contains__(self, key: Key) -> bool:
        return key in self.slot or key in self.store

    def keys(self) -> Iterator[Key]:
        """All keys, those in the store first."""
        yield from self.store.keys()
        yield from (key for key, k in self.slot.items() if not self.stored[k])

    def admit(self, keys: list[Key]) -> np.ndarray:
        """The slots of distinct keys, no more than there are slots."""
        self._now += 1
        missing = [key for key in keys if key not in self.slot]
        self.used[[self.slot[key] for key in keys if key in self.slot]] = self._now
        if missing:
            self._make_room(len(missing))
            places = [self._free.pop() for _ in missing]
            rows, clocks, stored = self.read(missing)
            self.rows[places], self.clocks[places], self.stored[places] = rows, clocks, stored
            self.dirty[places], self.used[places] = False, self._now
            for key, place in zip(missing, places, strict=True):
                self.slot[key] = place
                self.names[place] = key
        return np.fromiter((self.slot[key] for key in keys), np.int64, len(keys))

    def read(self, keys: list[Key]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, clocks, and whether they came from the store, of keys that have no slot; admits none."""
        found, codec = self.store.get(keys), self.kernel.codec
        stored = np.fromiter((key in found for key in keys), bool, len(keys))
        rows = np.empty((len(keys), self.rows.shape[1]), np.uint32)
        clocks = np.full(len(keys), NEVER)
        for k in np.flatnonzero(stored):
            state, clock = found[keys[k]]
            rows[k] = codec.decode(state, keys[k])
            clocks[k] = NEVER if clock is None else clock
        rows[~stored] = self.kernel.born([key for key, there in zip(keys, stored, strict=True) if not there])
        return rows, clocks, stored

    def look(self, keys: list[Key]) -> np.ndarray:
        """The rows of keys, wherever they are; changes nothing."""
        places = np.fromiter((self.slot.get(key, -1) for key in keys), np.int64, len(keys))
        rows = self.rows[places]
        if (away := np.flatnonzero(places < 0)).size:
            distinct = list(dict.fromkeys(keys[k] for k in away))
            at = dict(zip(distinct, self.read(distinct)[0], strict=True))
            for k in away:
                rows[k] = at[keys[k]]
        return rows

    def write(self) -> None:
        """Bring all that changed into the store."""
        self._save(np.flatnonzero(self.dirty))

    def drop(self, keys: list[Key]) -> None:
        """Forget keys."""
        self.store.delete(keys)
        self._release([self.slot[key] for key in keys if key in self.slot])

    def _make_room(self, count: int) -> None:
        """Free slots for so many keys, and some more at once: looking for the oldest takes a look at all."""
        if len(self._free) >= count:
            return
        idle = np.flatnonzero((self.used > 0) & (self.used < self._now))
        wanted = min(max(count - len(self._free), self.slots // 16), len(idle))
        oldest = idle[np.argpartition(self.used[idle], wanted - 1)[:wanted]]
        self._save(oldest[self.dirty[oldest]])
        self._release(oldest.tolist())

    def _save(self, places: np.ndarray) -> None:
        encode, names = self.kernel.codec.encode, self.names
        clock = lambda k: None if self.clocks[k] == NEVER else int(self.clocks[k])
        states = [(names[k], encode(self.rows[k]), clock(k)) for k in places.tolist()]
        self.store.put(states, new=int((~self.stored[places]).sum()))
        self.stored[places], self.dirty[places] = True, False

    def _release(self, places: list[int]) -> None:
        for k in places:
            self.slot.pop(self.names[k])  # pyright: ignore[reportCallIssue, reportArgumentType]
            self.names[k] = None
        self.used[places], self.dirty[places], self.stored[places] = 0, False, False
        self._free.extend(places)
