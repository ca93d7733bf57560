"""One pass over a stream that can be stopped at any moment: forecasts in files, and checkpoints to go on from.

Nothing here depends on how the rows are portioned: the same rows give the same bits whether they come from a file in
blocks, from a pipe one by one, or after a crash and a resumption.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .. import checkpoint
from ..data import Extremes, Source, SourceError
from ._cells import RowError
from ._columns import Columns
from ._feed import PORTION, ahead_of, converters, with_ahead
from ._forecaster import Forecaster
from ._journal import Journal
from ._said import named_columns
from ._target import Said

NO_ROWS = np.frombuffer(hashlib.sha256(b"rows").digest(), np.uint8)
PATIENCE = 30.0  # seconds after which a slow stream is checkpointed, whatever the number of rows


class Record:
    """A forecaster on a source, with all that it says in a folder.

    **Arguments:**

    - `forecaster`, `source`: what learns, and from where rows come.
    - `folder`: for everything that is written.
    - `log_every`: rows between two lines of metrics.
    - `checkpoint_every`: rows between two checkpoints; `keep`: how many are kept.

    Raises `SourceError` for columns that are not there.
    """

    def __init__(
        self,
        forecaster: Forecaster,
        source: Source,
        folder: Path,
        *,
        log_every: int = 200,
        checkpoint_every: int = 5000,
        keep: int = 3,
    ):
        self.forecaster, self.source, self.folder = forecaster, source, folder
        self.log_every, self.checkpoint_every, self.keep = log_every, checkpoint_every, keep
        self.config = {**forecaster.settings, "log_every": log_every}
        self.fingerprint = NO_ROWS  # of the rows learned
        self.extremes = Extremes([str(name) for name in forecaster.columns.names])
        self.first: float | None = None  # clock when the first forecast was made
        self.speed: float | None = None  # rows a second, the first portion (compiling) left out
        self._lengths: dict[str, int] | None = None
        self._saved_row = -1
        self._whole = True  # the parts of the state are all at the same row
        self._again = False  # what is learned now will be read again after a resumption
        source.check([str(name) for name in forecaster.columns.names])

    # What a checkpoint holds.

    def _state(self) -> dict[str, Any]:
        return {**self.forecaster.state, "fingerprint": self.fingerprint, "extremes": self.extremes.state}

    def resume(self) -> checkpoint.Checkpoint:
        """Go on from the newest valid checkpoint. Raises `CheckpointError` where there is none."""
        saved = checkpoint.load(self.checkpoints, self._state(), config=self.config)
        self.forecaster.state = saved.tree
        self.fingerprint, self.extremes.state = saved.tree["fingerprint"], saved.tree["extremes"]
        self._saved_row = saved.step
        self._lengths = saved.meta["lengths"]
        return saved

    @property
    def checkpoints(self) -> Path:
        """Their folder."""
        return self.folder / "checkpoints"

    @property
    def row(self) -> int:
        """Rows learned so far."""
        return self.forecaster.row

    def _save(self, journal: Journal) -> None:
        if self._again or self.row in (0, self._saved_row):
            return
        meta = {"lengths": journal.sync(), "source": self.source.name}
        checkpoint.save(self.checkpoints, self._state(), step=self.row, meta=meta, config=self.config, keep=self.keep)
        self._saved_row = self.row

    # The loop.

    def __call__(
        self,
        *,
        replay: bool = True,
        seen: Callable[[Record], None] = lambda record: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Learn from the source until it ends, or until `stop` says so, and return whether it ended.

        With `replay=False` the source goes on where the checkpoint stopped, instead of beginning again. `seen` is
        called after each portion. Either way what was learned is on the disk. Raises `SourceError` for bad input,
        after saving what came before."""
        journal = Journal(self.folder, self._header(), self._lengths)
        live = self.source.fraction() is None and self.source.rows is None
        began, from_row, last_saved = 0.0, -1, time.monotonic()
        with contextlib.closing(journal):
            try:
                for rows, ahead, last in self._batches(replay):
                    for part, known in self._portions(rows, ahead):
                        self._learn(part, known, journal)
                        if from_row < 0 and len(part):
                            began, from_row = time.monotonic(), self.row
                            self.first = began
                        seen(self)
                        late = time.monotonic() - last_saved > PATIENCE
                        if self.row - max(0, self._saved_row) >= self.checkpoint_every or late:
                            self._save(journal)
                            last_saved = time.monotonic()
                        if stop():
                            break
                    if live and len(rows):
                        journal.flush()
                    if stop():
                        break
                    if last is not None:
                        # The file may still grow: its last line had no end, or rows wait for what is known of later
                        # ones. They are learned, after a checkpoint from which they will be read again.
                        self._save(journal)
                        self._again = True
                        for part, known in self._portions(last, ahead_of(self.forecaster, last)):
                            self._learn(part, known, journal)
                            seen(self)
                            if stop():
                                break
            finally:
                if self.row > from_row >= 0:
                    self.speed = (self.row - from_row) / max(time.monotonic() - began, 1e-9)
                if self._whole:  # not where a full disk stopped it in the middle of a portion
                    self._save(journal)
        return not stop()

    def _header(self) -> list[str]:
        return ["row", *(name for said in self._nothing() for name in said)]

    def _nothing(self) -> list[dict[str, np.ndarray]]:
        """What is said of no rows: names and types of columns."""
        return self._named(self.forecaster.learn(self.forecaster.columns.none))

    def _named(self, said: list[Said]) -> list[dict[str, np.ndarray]]:
        f = self.forecaster
        ends = [""] if f.alone else [f"_{name}" for name in f.columns.targets]
        return [named_columns(each, f.methods, f.levels, end) for each, end in zip(said, ends, strict=True)]

    @property
    def texts(self) -> list[str]:
        """Columns of the predictions that hold texts."""
        return [name for said in self._nothing() for name, column in said.items() if column.dtype == object]

    def _batches(self, replay: bool) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
        """Rows, what is known in advance of each, and at last those that will be read again on resuming."""
        f, rows, last = self.forecaster, (self._after() if replay else self._read(0)), []

        def finished() -> Iterator[np.ndarray]:
            for batch in rows:
                if self.source.unfinished and len(batch):
                    last.append(batch[-1:])
                    batch = batch[:-1]
                yield batch

        for batch, ahead in with_ahead(f, finished()):
            if ahead is None:
                last.insert(0, batch)
            else:
                yield batch, ahead, None
        if last:
            yield f.columns.none, np.empty((0, len(f.columns.known))), np.concatenate(last)

    def _read(self, start: int) -> Iterator[np.ndarray]:
        columns = self.forecaster.columns
        names = [str(name) for name in columns.names]
        return self.source.read(names, start, convert=converters(columns))

    def _after(self) -> Iterator[np.ndarray]:
        """The rows after those that were learned, which must be the first ones of the source.

        Raises `SourceError` where they are others."""
        row = self.row  # it grows while these rows are used
        at, found = 0, NO_ROWS.tobytes()
        for rows in self._read(0):
            learned = rows[: row - at]
            at, found = at + len(learned), _fingerprint(found, learned)
            if at == row and len(learned) and found != self.fingerprint.tobytes():
                raise SourceError(
                    f"the first {row:,} rows of {self.source.name} are not those that the checkpoint was made from, so "
                    "nothing was learned. Give the same stream; to go on with new rows that a file of its own holds, "
                    f"`streamgrad learn - --resume --continues --out {self.folder} ... < FILE`; or start anew without "
                    "--resume."
                )
            yield rows[len(learned) :]
        if at < row:
            raise SourceError(
                f"{self.source.name} ends before data row {row}, where the checkpoint was made: it is another or a "
                "shortened stream. Give the same one, or start anew without --resume."
            )

    def _portions(self, rows: np.ndarray, ahead: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Cut at the rows where metrics are written and where a portion is full.

        An empty array passes as it is: it says that a live source has nothing for now."""
        at = 0
        while at < len(rows) or len(rows) == 0:
            room = self.log_every - self.row % self.log_every
            n = min(room, PORTION, len(rows) - at)
            n = self.forecaster.in_order(rows[at : at + n])
            yield rows[at : at + n], ahead[at : at + n]
            at += n
            if len(rows) == 0:
                return

    def _learn(self, rows: np.ndarray, ahead: np.ndarray, journal: Journal) -> None:
        n, f = len(rows), self.forecaster
        if n == 0:
            return
        self._whole, first = False, f.row
        try:
            said = f.learn(rows, ahead)
        except RowError:  # nothing was learned
            self._whole = True
            raise
        self.fingerprint = np.frombuffer(_fingerprint(self.fingerprint.tobytes(), rows), np.uint8)
        self.extremes(self._measured(rows))
        columns: dict[str, np.ndarray] = {"row": np.arange(first, first + n)}
        for named in self._named(said):
            columns |= named
        journal.predictions(columns)
        if f.row % self.log_every == 0:
            journal.metrics({"row": f.row, **self._metrics()})
        self._whole = True

    def _measured(self, rows: np.ndarray) -> np.ndarray:
        """The rows without outcomes, of which no value stands for a missing one."""
        numbers = np.array(self.forecaster.columns.kinds)
        return np.where(np.isin(numbers, ("event", "count", "class")), np.nan, rows)

    def _metrics(self) -> dict[str, Any]:
        """Errors of the newest rows and of all, and the weights of the experts, of each target."""
        found = {}
        for name, target in zip(self.forecaster.columns.targets, self.forecaster.targets, strict=True):
            found[str(name)] = {**target.newest(), "weights": target.learner.weights() if target.own else {}}
            target.scores.restart()
        (only,) = found.values() if self.forecaster.alone else (found,)
        return only


def beside(columns: Columns) -> dict[str, Any]:
    """What a checkpoint of a run holds beside the forecaster, before the first row."""
    return {"fingerprint": NO_ROWS, "extremes": Extremes([str(name) for name in columns.names]).state}


def _fingerprint(before: bytes, rows: np.ndarray) -> bytes:
    """After more rows, one by one: the same in whatever portions they come."""
    plain = np.where(np.isnan(rows), np.nan, rows + 0.0).astype("<f8")  # one NaN, one zero
    for row in plain:
        before = hashlib.sha256(before + row.tobytes()).digest()
    return before
