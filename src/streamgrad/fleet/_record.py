"""One pass of a fleet of forecasters over a file or a stream: killed at any instant, it goes on to the same bytes."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ..data import Source, SourceError
from ..forecast._cells import RowError, plain_text
from ..forecast._clock import stamp
from ..forecast._feed import converters
from ..forecast._journal import Journal
from ._forecasters import Forecasters

PATIENCE = 30.0  # seconds between two commits at least, and ten times what a commit takes
TOGETHER = 32  # rows of a key in a call, about: many make a row cheap
FEWEST, MOST = 256, 131_072  # rows of a call
FIRST_CODE = -(2.0**50)  # of keys as numbers, which nobody declares to mean missing


class Record:
    """Forecasters by key on a source, with all that they say in a folder.

    - `fleet`, `source`: what learns, and from where rows come; `key`: the column of keys;
    - `folder`: for the predictions and what is measured;
    - `commit_every`: rows between two commits; None: as the time goes.

    Raises `SourceError` for columns that are not there, and `ValueError` for a key that is a target or a feature, too,
    or was another column before.
    """

    def __init__(self, fleet: Forecasters, source: Source, key: str, folder: Path, *, commit_every: int | None = None):
        self.fleet, self.source, self.key, self.folder = fleet, source, key, folder
        self.commit_every = commit_every
        names = [str(name) for name in fleet.columns.names]
        if key in names:
            raise ValueError(f"the key {key!r} is a target, a feature or the time, too: a column is one of these only.")
        source.check([key, *names])
        kept = fleet.offset or {"rows": 0, "fingerprint": hashlib.sha256(b"rows").hexdigest(), "key": key}
        if kept["key"] != key:
            raise ValueError(
                f"the store's keys are of the column {kept['key']!r}, and {key!r} was asked for: give that, or another "
                "store."
            )
        self.row: int = kept["rows"]
        self.begun = self.row  # where this pass went on
        self.keys: list[str] = []  # by code, of this pass
        self.ratio = float("nan")  # of root mean square errors of the newest rows, to the last value's
        self.speed: float | None = None  # rows a second, the first call (compiling) left out
        self.first: float | None = None  # clock when the first forecast was made
        self._codes: dict[str, int] = {}
        self._lengths: dict[str, int] | None = kept.get("lengths")
        self._fingerprint = bytes.fromhex(kept["fingerprint"])
        self._saved, self._room, self._again, self._whole = self.row, FEWEST, False, True

    def __call__(
        self,
        *,
        replay: bool = True,
        seen: Callable[[Record], None] = lambda record: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Learn from the source until it ends, or until `stop` says so, and return whether it ended.

        With `replay=False` the source goes on where the store stands, instead of beginning again. Either way what was
        learned is committed. Raises `SourceError` and `RowError` for bad input, after committing what came before."""
        nothing = self.fleet.learn([], self.fleet.columns.none)
        journal = Journal(self.folder, ["row", "key", *nothing], self._lengths, anew="with --overwrite")
        began, from_row, last, took = 0.0, -1, time.monotonic(), 0.0
        with contextlib.closing(journal):
            try:
                for rows, finished in self._batches(replay):
                    if not finished:
                        self._commit(journal)
                        self._again = True  # these rows will be read again
                    if len(rows):
                        self._learn(rows, journal)
                        if from_row < 0:
                            self.first = began = time.monotonic()
                            from_row = self.row
                    elif self._live:
                        journal.flush()
                    seen(self)
                    now, rows_since = time.monotonic(), self.row - self._saved
                    if rows_since >= (self.commit_every or np.inf) or now - last > max(PATIENCE, 10 * took):
                        self._commit(journal)
                        last, took = time.monotonic(), time.monotonic() - now
                    if stop():
                        break
            finally:
                if self.row > from_row >= 0:
                    self.speed = (self.row - from_row) / max(time.monotonic() - began, 1e-9)
                if self._whole:
                    self._commit(journal)
        return not stop()

    @property
    def _live(self) -> bool:
        return self.source.fraction() is None and self.source.rows is None

    def _commit(self, journal: Journal) -> None:
        if self._again or self.row == self._saved:
            return
        journal.metrics({"row": self.row, "keys": len(self.fleet), "error_to_last_value": self.ratio})
        kept = {"rows": self.row, "fingerprint": self._fingerprint.hex(), "key": self.key}
        self.fleet.commit(offset=kept | {"lengths": journal.sync(), "source": self.source.name})
        self._saved = self.row

    # Rows.

    def _read(self) -> Iterator[np.ndarray]:
        """The rows with the codes of their keys in front."""
        columns = self.fleet.columns
        convert = {self.key: self._code, **converters(columns)}
        return self.source.read([self.key, *(str(name) for name in columns.names)], convert=convert)

    def _code(self, value: str) -> float:
        """The code of a key."""
        text = plain_text(value)
        if text is None:
            raise RowError(f"column {self.key!r}: the key is missing: each row needs one; leave such rows out.")
        code = self._codes.setdefault(text, len(self.keys))
        if code == len(self.keys):
            self.keys.append(text)
        return FIRST_CODE - code

    def _named(self, rows: np.ndarray) -> list[str]:
        return [self.keys[code] for code in (FIRST_CODE - rows[:, 0]).astype(np.int64).tolist()]

    def _batches(self, replay: bool) -> Iterator[tuple[np.ndarray, bool]]:
        """Rows, many at a time, and whether they are at their end: at last those that may still grow."""
        last: list[np.ndarray] = []

        def finished() -> Iterator[np.ndarray]:
            for batch in self._after() if replay else self._read():
                if self.source.unfinished and len(batch):
                    last.append(batch[-1:])
                    batch = batch[:-1]
                yield batch

        held: list[np.ndarray] = []
        try:
            for batch in finished():
                held.append(batch)
                if self._live or sum(map(len, held)) >= self._room:
                    yield np.concatenate(held), True
                    held = []
        except SourceError:
            if held:  # good rows before a bad one
                yield np.concatenate(held), True
            raise
        if held:
            yield np.concatenate(held), True
        if last:
            yield np.concatenate(last), False

    def _after(self) -> Iterator[np.ndarray]:
        """The rows after those that were learned, which must be the first ones of the source.

        Raises `SourceError` where they are others."""
        row, expected = self.row, self._fingerprint
        at, found = 0, hashlib.sha256(b"rows").digest()
        for rows in self._read():
            learned = rows[: max(0, row - at)]
            at, found = at + len(learned), self._marked(found, learned)
            if at == row and len(learned) and found != expected:
                raise SourceError(
                    f"the first {row:,} rows of {self.source.name} are not those that the store was made from, so "
                    "nothing was learned. Give the same stream; to go on with new rows that a file of its own holds, "
                    "`streamgrad fleet - --continues ... < FILE`; or start anew with --overwrite."
                )
            yield rows[len(learned) :]
        if at < row:
            raise SourceError(
                f"{self.source.name} ends before data row {row:,}, up to where the store has learned: it is another or "
                "a shortened stream. Give the same one, or start anew with --overwrite."
            )

    def _marked(self, before: bytes, rows: np.ndarray) -> bytes:
        """The fingerprint after more rows, one by one: the same in whatever portions they come."""
        plain = np.where(np.isnan(rows), np.nan, rows + 0.0).astype("<f8")[:, 1:]  # one NaN, one zero
        for key, row in zip(self._named(rows), plain):
            before = hashlib.sha256(b"%b%b\0%b" % (before, key.encode(), row.tobytes())).digest()
        return before

    # Learning.

    def _learn(self, rows: np.ndarray, journal: Journal) -> None:
        keys = self._named(rows)
        good = self.fleet.in_order(keys, rows[:, 1:])
        if good:
            self._whole = False
            said = self.fleet.learn(keys[:good], rows[:good, 1:])
            self._fingerprint = self._marked(self._fingerprint, rows[:good])
            where = {"row": np.arange(self.row, self.row + good), "key": np.array(keys[:good], object)}
            journal.predictions(where | said)
            self.row += good
            self.ratio = _ratio(said)
            self._whole = True
            self._room = int(np.clip(TOGETHER * len(set(keys)), FEWEST, MOST))
        if good < len(rows):
            raise RowError(self._late(keys[good], rows[good]))

    def _late(self, key: str, row: np.ndarray) -> str:
        return (
            f"data row {self.row + 1}: the time of key {key!r} goes back to {stamp(row[-1])}. Sort the rows of each "
            "key by time, leave the time column out, or skip and count such rows with --late skip."
        )


def _ratio(said: dict[str, np.ndarray]) -> float:
    """Root mean square error over the last value's, of scored rows, each key in its own unit only as the rows are."""
    if "last_value" not in said:
        return float("nan")
    error, last = (said[name] - said["truth"] for name in ("network", "last_value"))
    scored = np.isfinite(error) & np.isfinite(last)
    scale = np.sqrt((last[scored] ** 2).sum())
    return float(np.sqrt((error[scored] ** 2).sum()) / scale) if scale > 0 else float("nan")
