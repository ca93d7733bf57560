"""The states of a fleet on the disk: one SQLite file, whole at every commit."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ._errors import FleetError
from ._keys import Key

SCHEMA = 3
APPLICATION = 0x7367666C  # "sgfl": how SQLite knows whose file it is
FIGURES = "CREATE TABLE IF NOT EXISTS figures(key PRIMARY KEY NOT NULL, value TEXT NOT NULL)"
_TOGETHER = 500  # keys of one query

State = tuple[bytes, int | None]


class Store:
    """States by key, and what is known of the whole: written in one transaction, which `commit` ends.

    - `path`: of the file; None for memory, which ends with the process.

    States are read as they were written, committed or not. One process writes at a time. A key is kept in its own
    type: 1, "1" and b"1" are three keys."""

    def __init__(self, path: str | os.PathLike[str] | None):
        self.path = ":memory:" if path is None else os.fspath(path)
        if path is not None:
            _refuse_place(Path(path))
        self._db: Any
        try:
            self._db = sqlite3.connect(self.path, isolation_level=None, timeout=1.0)
        except sqlite3.DatabaseError as error:
            raise self._refused(error) from None
        try:
            self._identify()
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise self._refused(error) from None
        except FleetError:
            self._db.close()
            raise
        self.count = self._one("SELECT count(*) FROM states")

    def _identify(self) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._begin()
        application, schema = self._one("PRAGMA application_id"), self._one("PRAGMA user_version")
        if not application and not self._one("SELECT count(*) FROM sqlite_master"):
            self._db.execute("CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT NOT NULL)")
            self._db.execute("CREATE TABLE states(key PRIMARY KEY NOT NULL, state BLOB NOT NULL, clock INTEGER)")
            self._db.execute(f"PRAGMA application_id={APPLICATION}")
            self._db.execute(FIGURES)
            schema = SCHEMA
        elif application != APPLICATION:
            raise FleetError(f"{self.path} is an SQLite file of another program: give another name as store.")
        while schema in MIGRATIONS:
            MIGRATIONS[schema](self._db)
            schema += 1
        if schema != SCHEMA:
            raise FleetError(
                f"{self.path} has schema {schema}, and this version of streamgrad reads up to {SCHEMA}: use the "
                "version that wrote it."
            )
        self._db.execute(f"PRAGMA user_version={SCHEMA}")
        self._db.execute("COMMIT")
        self._begin()

    def _refused(self, error: sqlite3.Error) -> FleetError:
        if "locked" in str(error):
            return FleetError(f"{self.path} is in use by another process: one writes at a time. End it first.")
        if "not a database" in str(error):
            return FleetError(f"{self.path} is no SQLite file: give another name as store.")
        return FleetError(f"the store {self.path} cannot be used: {error}.")

    def _begin(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def _one(self, query: str, *values: Any) -> Any:
        return self._db.execute(query, values).fetchone()[0]

    # What is known of the whole.

    def note(self, name: str) -> Any:
        """What was noted under a name, None where nothing was."""
        found = self._db.execute("SELECT value FROM meta WHERE name=?", (name,)).fetchone()
        return None if found is None else json.loads(found[0])

    def write_note(self, name: str, value: Any) -> None:
        """Note anything that JSON can hold."""
        text = json.dumps(value)
        self._db.execute(
            "INSERT INTO meta VALUES(?, ?) ON CONFLICT(name) DO UPDATE SET value=excluded.value", (name, text)
        )

    # States.

    def __contains__(self, key: Key) -> bool:
        return self._db.execute("SELECT 1 FROM states WHERE key=?", (key,)).fetchone() is not None

    def get(self, keys: Sequence[Key]) -> dict[Key, State]:
        """The states of those keys that have one, with their clocks."""
        return {key: (state, clock) for key, state, clock in self._of("key, state, clock", keys)}

    def clocks(self, keys: Sequence[Key]) -> dict[Key, int | None]:
        """The clocks of those keys that have a state."""
        return dict(self._of("key, clock", keys))

    def _of(self, columns: str, keys: Sequence[Key]) -> Iterator[tuple]:
        for start in range(0, len(keys), _TOGETHER) if self.count else ():
            some = keys[start : start + _TOGETHER]
            yield from self._db.execute(
                f"SELECT {columns} FROM states WHERE key IN ({','.join('?' * len(some))})", some
            )

    def put(self, states: Sequence[tuple[Key, bytes, int | None]], *, new: int) -> None:
        """Write states; `new`: how many of the keys have none yet."""
        self._db.executemany(
            "INSERT INTO states VALUES(?, ?, ?) "
            "ON CONFLICT(key) DO UPDATE SET state=excluded.state, clock=excluded.clock",
            states,
        )
        self.count += new

    def delete(self, keys: Sequence[Key]) -> None:
        """Forget the states and the figures of keys."""
        self._db.executemany("DELETE FROM figures WHERE key=?", [(key,) for key in keys])
        self.count -= self._db.executemany("DELETE FROM states WHERE key=?", [(key,) for key in keys]).rowcount

    def clear(self) -> None:
        """Forget everything."""
        for table in ("states", "figures", "meta"):
            self._db.execute(f"DELETE FROM {table}")
        self.count = 0

    def keys(self) -> Iterator[Key]:
        """All keys that have a state here."""
        return (key for (key,) in self._db.execute("SELECT key FROM states"))

    def items(self) -> Iterator[tuple[Key, bytes]]:
        """All keys and states."""
        yield from self._db.execute("SELECT key, state FROM states")

    # Figures: a short text for each key, which is read without its state.

    def put_figures(self, figures: Sequence[tuple[Key, Any]]) -> None:
        """Write figures, anything that JSON can hold."""
        self._db.executemany(
            "INSERT INTO figures VALUES(?, ?) ON CONFLICT(key) DO UPDATE SET value=excluded.value",
            [(key, json.dumps(value)) for key, value in figures],
        )

    def figures(self) -> Iterator[tuple[Key, Any]]:
        """All keys that have figures, and these."""
        for key, value in self._db.execute("SELECT key, value FROM figures"):
            yield key, json.loads(value)

    def commit(self) -> None:
        """Make all that was written last: it is on the disk, or, after a crash, not there at all."""
        try:
            self._db.execute("COMMIT")
            self._begin()
        except sqlite3.Error as error:
            raise self._refused(error) from None

    def close(self) -> None:
        """Close the file; what was not committed is forgotten."""
        self._db.close()
        self._db = _Closed(self.path)


class _Closed:
    """A database that was closed: whatever is asked of it is refused."""

    def __init__(self, path: str):
        self._path = path

    def close(self) -> None:
        """Once more, which is no fault."""

    def __getattr__(self, name: str) -> Any:
        raise FleetError(f"The store {self._path} is closed: open it again.")


def _refuse_place(path: Path) -> None:
    """Raise `FleetError` where there can be no file of this name."""
    if path.is_dir():
        raise FleetError(f"{path} is a folder, and a file was expected as store: name one, as {path / 'fleet.db'}.")
    if not path.parent.is_dir():
        raise FleetError(f"there is no folder {path.parent} for the store {path}: make it first.")


def refuse_offset(offset: Any) -> None:
    """Raise `TypeError` for an offset that cannot be written."""
    try:
        json.dumps(offset)
    except (TypeError, ValueError) as error:
        raise TypeError(f"offset must be what JSON can hold, got {offset!r}: {error}.") from None


def _from_1(db: sqlite3.Connection) -> None:
    """Schema 1 had no clocks."""
    db.execute("ALTER TABLE states ADD COLUMN clock INTEGER")


def _from_2(db: sqlite3.Connection) -> None:
    """Schema 2 had no figures."""
    db.execute(FIGURES)


#: From a schema to the next one.
MIGRATIONS: dict[int, Callable[[sqlite3.Connection], None]] = {1: _from_1, 2: _from_2}
