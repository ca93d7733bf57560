"""One pass over a stream that can be stopped at any moment: forecasts in files, and a state to go on from.

Nothing here depends on how the rows are portioned: the same rows give the same bits whether they come from a file in
blocks, from a pipe one by one, or after a crash and a resumption.
"""

from __future__ import annotations

import abc
import contextlib
import hashlib
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from ..data import Source, SourceError
from ._journal import Journal
from ._settings import whole

NO_ROWS = hashlib.sha256(b"rows").digest()  # the fingerprint before the first row
PATIENCE = 30.0  # seconds between two savings of a slow stream, and at least ten times what one takes


class Pass(abc.ABC):
    """What learns from the rows of a source, with all that it says in a folder.

    - `source`, `folder`: where rows come from, and where everything is written;
    - `every`: rows between two savings; None: as the time goes;
    - `first`: the clock when the first forecast was made; `speed`: rows a second, without the first portion.

    A subclass says what is learned from (`_read`), how (`_learn`), and what is kept (`_keep`).
    """

    other_rows = "are not those that the checkpoint was made from"  # for messages, with ...
    short_of = "where the checkpoint was made"
    others, anew = "", ""  # ... how one goes on with rows of a file of their own, and how one starts anew

    def __init__(self, source: Source, folder: str | os.PathLike[str], every: int | None):
        if not isinstance(source, Source):
            raise TypeError(
                f"source must be a streamgrad.data.Source, got {type(source).__name__}: open it, as "
                "streamgrad.data.open_source('demand.csv')."
            )
        self.source, self.folder, self.every = source, Path(folder), every
        self.first: float | None = None
        self.speed: float | None = None
        self._marked = NO_ROWS  # the fingerprint of the rows learned
        self._saved = 0  # the row of the newest saving
        self._before = 0  # rows learned before the first one of the source
        self._lengths: dict[str, int] | None = None  # of the files, at the newest saving
        self._whole = True  # the parts of the state are all at the same row
        self._again = False  # what is learned now will be read again after a resumption
        self._last: list[np.ndarray] = []  # rows that may still grow, or wait for what is known ahead

    def __call__(
        self,
        *,
        replay: bool = True,
        seen: Callable[[Self], None] = lambda record: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Learn from the source until it ends, or until `stop` says so, and return whether it ended.

        With `replay=False` the source goes on where the saved state stands, instead of beginning again. `seen` is
        called after each portion. Either way what was learned is on the disk. Raises `SourceError` and `RowError` for
        bad input, after saving what came before."""
        journal = Journal(self.folder, self._header(), self._lengths, anew=self.anew)
        began, from_row, saved, took = 0.0, -1, time.monotonic(), 0.0
        with contextlib.closing(journal):
            try:
                for rows, ahead in self._all(replay, journal):
                    for part, known in self._portions(rows, ahead):
                        if len(part):
                            self._learn(part, known, journal)
                            if from_row < 0:
                                self.first = began = time.monotonic()
                                from_row = self.row
                        seen(self)
                        now = time.monotonic()
                        if self.row - self._saved >= (self.every or math.inf) or now - saved > max(PATIENCE, 10 * took):
                            self._save(journal)
                            saved = time.monotonic()
                            took = saved - now
                        if stop():
                            break
                    if self._live and len(rows):
                        journal.flush()
                    if stop():
                        break
            finally:
                if self.row > from_row >= 0:
                    self.speed = (self.row - from_row) / max(time.monotonic() - began, 1e-9)
                if self._whole:  # not where a full disk stopped it in the middle of a portion
                    self._save(journal)
        return not stop()

    @property
    def _live(self) -> bool:
        return self.source.fraction() is None and self.source.rows is None

    def _save(self, journal: Journal) -> None:
        if self._again or self.row == self._saved:
            return
        self._keep(journal)
        self._saved = self.row

    # What a pass over a source is.

    @property
    @abc.abstractmethod
    def row(self) -> int:
        """Rows learned so far."""

    @abc.abstractmethod
    def _header(self) -> list[str]:
        """The columns of the predictions."""

    @abc.abstractmethod
    def _read(self) -> Iterator[np.ndarray]:
        """All rows of the source."""

    @abc.abstractmethod
    def _pieces(self, rows: np.ndarray) -> Iterable[bytes]:
        """What stands for each row in the fingerprint."""

    @abc.abstractmethod
    def _learn(self, rows: np.ndarray, ahead: np.ndarray, journal: Journal) -> None:
        """Learn from rows, and write what is said of them."""

    @abc.abstractmethod
    def _keep(self, journal: Journal) -> None:
        """Bring the state to the disk, with the lengths of the files."""

    def _portions(self, rows: np.ndarray, ahead: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The rows in portions that are learned in one call. No rows say that a live source has nothing for now."""
        yield rows, ahead

    def _gathered(self, batches: Iterator[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches as they are learned, with what is known ahead; rows that wait for that go to `_last`."""
        for batch in batches:
            yield batch, self._ahead(batch)

    def _ahead(self, rows: np.ndarray) -> np.ndarray:
        """What is known of later rows, from these rows alone."""
        return np.empty((len(rows), 0))

    # Rows.

    def _all(self, replay: bool, journal: Journal) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The rows to learn from; before the last ones, which will be read again on resuming, the state is saved."""
        self._before, self._last = 0 if replay else self.row, []
        yield from self._gathered(self._finished(replay))
        if self._last:
            self._save(journal)
            self._again, last = True, np.concatenate(self._last)
            yield last, self._ahead(last)

    def _finished(self, replay: bool) -> Iterator[np.ndarray]:
        """The rows to learn from, without one that may still grow."""
        for batch in self._after() if replay else self._read():
            if self.source.unfinished and len(batch):
                self._last.append(batch[-1:])
                batch = batch[:-1]
            yield batch

    def _after(self) -> Iterator[np.ndarray]:
        """The rows after those that were learned, which must be the first ones of the source.

        Raises `SourceError` where they are others."""
        row, expected = self.row, self._marked  # they change while these rows are used
        at, found = 0, NO_ROWS
        for rows in self._read():
            learned = rows[: max(0, row - at)]
            at, found = at + len(learned), self._mark(found, learned)
            if at == row and len(learned) and found != expected:
                raise SourceError(
                    f"the first {row:,} rows of {self.source.name} {self.other_rows}, so nothing was learned. Give the "
                    "same stream; to go on with new rows that a file of its own holds, "
                    f"`{self.others}`; or start anew {self.anew}."
                )
            yield rows[len(learned) :]
        if at < row:
            raise SourceError(
                f"{self.source.name} ends before data row {row:,}, {self.short_of}: it is another or a shortened "
                f"stream. Give the same one, or start anew {self.anew}."
            )

    def _mark(self, before: bytes, rows: np.ndarray) -> bytes:
        """The fingerprint after more rows, one by one: the same in whatever portions they come."""
        for piece in self._pieces(rows):
            before = hashlib.sha256(before + piece).digest()
        return before


def at_least_one(**numbers: Any) -> None:
    """Raise `ValueError` for a number of rows or files that is no whole number of at least 1; None passes."""
    for name, value in numbers.items():
        if value is not None and whole(name, value) < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")


def plain_bytes(rows: np.ndarray) -> Sequence[bytes]:
    """Each row as bytes, with one NaN and one zero."""
    return [row.tobytes() for row in np.where(np.isnan(rows), np.nan, rows + 0.0).astype("<f8")]
