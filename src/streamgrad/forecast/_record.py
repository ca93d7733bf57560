"""A forecaster on a source: forecasts and metrics in a folder, and checkpoints to go on from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .. import checkpoint
from ..data import Extremes, Source
from ._cells import RowError
from ._columns import Columns
from ._feed import PORTION, ahead_of, converters, in_order, with_ahead
from ._forecaster import Forecaster
from ._journal import Journal
from ._pass import NO_ROWS, Pass, at_least_one, plain_bytes
from ._said import named_columns
from ._target import Said


class Record(Pass):
    """A forecaster on a source, with all that it says in a folder: call it to learn.

    **Arguments:**

    - `forecaster`, `source`: what learns, and from where rows come.
    - `folder`: for everything that is written.
    - `log_every`: rows between two lines of metrics.
    - `checkpoint_every`: rows between two checkpoints; `keep`: how many are kept.

    Raises `SourceError` for columns that are not there.
    """

    anew = "without --resume"

    def __init__(
        self,
        forecaster: Forecaster,
        source: Source,
        folder: str | os.PathLike[str],
        *,
        log_every: int = 200,
        checkpoint_every: int = 5000,
        keep: int = 3,
    ):
        at_least_one(log_every=log_every, checkpoint_every=checkpoint_every, keep=keep)
        super().__init__(source, folder, checkpoint_every)
        self.forecaster, self.log_every, self.keep = forecaster, log_every, keep
        self.config = {**forecaster.settings, "log_every": log_every}
        self.extremes = Extremes([str(name) for name in forecaster.columns.names])
        self.others = f"streamgrad learn - --resume --continues --out {folder} ... < FILE"
        source.check([str(name) for name in forecaster.columns.names])

    # What a checkpoint holds.

    def _state(self) -> dict[str, Any]:
        marked = np.frombuffer(self._marked, np.uint8)
        return {**self.forecaster.state, "fingerprint": marked, "extremes": self.extremes.state}

    def resume(self) -> checkpoint.Checkpoint:
        """Go on from the newest valid checkpoint. Raises `CheckpointError` where there is none."""
        saved = checkpoint.load(self.checkpoints, self._state(), config=self.config)
        self.forecaster.state = saved.tree
        self._marked, self.extremes.state = saved.tree["fingerprint"].tobytes(), saved.tree["extremes"]
        self._saved = saved.step
        self._lengths = saved.meta["lengths"]
        return saved

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def row(self) -> int:
        """Rows learned so far."""
        return self.forecaster.row

    def _keep(self, journal: Journal) -> None:
        meta = {"lengths": journal.sync(), "source": self.source.name}
        checkpoint.save(self.checkpoints, self._state(), step=self.row, meta=meta, config=self.config, keep=self.keep)

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

    def _read(self) -> Iterator[np.ndarray]:
        columns = self.forecaster.columns
        return self.source.read([str(name) for name in columns.names], convert=converters(columns))

    def _pieces(self, rows: np.ndarray) -> Iterable[bytes]:
        return plain_bytes(rows)

    def _gathered(self, batches: Iterator[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for batch, ahead in with_ahead(self.forecaster, batches):
            if ahead is None:  # the rows after these have not come
                self._last.insert(0, batch)
            else:
                yield batch, ahead

    def _ahead(self, rows: np.ndarray) -> np.ndarray:
        return ahead_of(self.forecaster, rows)

    def _portions(self, rows: np.ndarray, ahead: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Cut at the rows where metrics are written and where a portion is full.

        An empty array passes as it is: it says that a live source has nothing for now."""
        at = 0
        while at < len(rows) or len(rows) == 0:
            room = self.log_every - self.row % self.log_every
            n = min(room, PORTION, len(rows) - at)
            n = in_order(self.forecaster, rows[at : at + n], self.source, self.row - self._before)
            yield rows[at : at + n], ahead[at : at + n]
            at += n
            if len(rows) == 0:
                return

    def _learn(self, rows: np.ndarray, ahead: np.ndarray, journal: Journal) -> None:
        n, f = len(rows), self.forecaster
        self._whole, first = False, f.row
        try:
            said = f.learn(rows, ahead)
        except RowError:  # nothing was learned
            self._whole = True
            raise
        self._marked = self._mark(self._marked, rows)
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
    return {
        "fingerprint": np.frombuffer(NO_ROWS, np.uint8),
        "extremes": Extremes([str(name) for name in columns.names]).state,
    }
