"""One pass over a stream: forecast, score what has arrived, learn, write, keep checkpoints.

Nothing here depends on how the rows are portioned: the same rows give the same bits whether they
come from a file in blocks, from a pipe one by one, or after a crash and a resumption.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from streamgrad import checkpoint
from streamgrad.cli.journal import Journal
from streamgrad.cli.progress import Progress, seconds_since_start
from streamgrad.data import Source, SourceError
from streamgrad.tasks.encoding import Encoder
from streamgrad.tasks.floors import Floors
from streamgrad.tasks.forecast import Forecaster
from streamgrad.tasks.scores import Scores

HEALTH = 50_000  # rows between two looks at whether anything grows out of bounds
# What checkpoints of before do not hold.
ADDED = re.compile(r"\['(fingerprint|anchors|newer|recent|level)'\]$|\.sizes\.|\.restarts$")
PATIENCE = 30.0  # seconds after which a slow stream is checkpointed, whatever the number of rows


class Run:
    """The state of a run, and its loop.

    **Arguments:**

    - `source`, `columns`: where rows come from; the first column is the target.
    - `forecaster`, `encoder`, `floors`: made for these columns and one horizon.
    - `folder`: for everything that is written.
    - `config`: what a checkpoint must have been made with, to be resumed.
    - `log_every`: rows between two lines of metrics.
    - `checkpoint_every`: rows between two checkpoints; `keep`: how many are kept.
    """

    def __init__(
        self,
        source: Source,
        columns: tuple[str, ...],
        *,
        forecaster: Forecaster,
        encoder: Encoder,
        floors: Floors,
        folder: Path,
        config: Mapping[str, Any],
        log_every: int,
        checkpoint_every: int,
        keep: int,
    ):
        self.source, self.columns, self.folder, self.config = source, columns, folder, config
        self.forecaster, self.encoder, self.floors = forecaster, encoder, floors
        self.log_every, self.checkpoint_every, self.keep = log_every, checkpoint_every, keep
        self.scores = Scores(["network", *floors.names])
        self.row = 0
        self.missing = np.zeros(len(columns), np.int64)
        self.fingerprint = np.frombuffer(hashlib.sha256(b"rows").digest(), np.uint8)  # of the rows learned
        self.pending = np.full((encoder.horizon, len(self.scores.methods)), np.nan)
        self.first_forecast: float | None = None
        self.speed: float | None = None  # rows a second, the first portion (compiling) left out
        self._lengths: dict[str, int] | None = None
        self._saved_row = -1
        self._said: set[str] = set()
        self._whole = True  # the parts of the state are all at the same row

    # What a checkpoint holds.

    def _state(self) -> dict[str, Any]:
        parts = {"encoder": self.encoder, "floors": self.floors, "scores": self.scores}
        state = {name: part.state for name, part in parts.items()}
        counts = {"missing": self.missing, "pending": self.pending, "fingerprint": self.fingerprint}
        return {**state, "run": counts, "forecaster": self.forecaster.state}

    def resume(self) -> checkpoint.Checkpoint:
        """Go on from the newest valid checkpoint. Raises `CheckpointError` where there is none."""
        unknown = {**self._state(), "run": {**self._state()["run"], "fingerprint": np.zeros_like(self.fingerprint)}}
        saved = checkpoint.load(
            self.checkpoints, unknown, config=self.config, added=lambda name: bool(ADDED.search(name))
        )
        self.encoder.state = saved.tree["encoder"]
        self.floors.state = saved.tree["floors"]
        self.scores.state = saved.tree["scores"]
        self.missing, self.pending, self.fingerprint = (
            saved.tree["run"][name] for name in ("missing", "pending", "fingerprint")
        )
        self.forecaster.state = saved.tree["forecaster"]
        self.row = self._saved_row = saved.step
        self._lengths = saved.meta["lengths"]
        return saved

    @property
    def checkpoints(self) -> Path:
        """Their folder."""
        return self.folder / "checkpoints"

    def _save(self, journal: Journal) -> None:
        if self.row in (0, self._saved_row):
            return
        meta = {"lengths": journal.sync(), "source": self.source.name}
        checkpoint.save(
            self.checkpoints,
            self._state(),
            step=self.row,
            meta=meta,
            config=self.config,
            keep=self.keep,
        )
        self._saved_row = self.row

    # The loop.

    def __call__(self, replay: bool = True) -> str:
        """Learn from the source until it ends.

        With `replay=False` the source goes on where the checkpoint stopped, instead of beginning
        again. Returns "end", or "stopped" after Ctrl-C or a polite kill; either way what was
        learned is on the disk. Raises `SourceError` for bad input, after saving what came before.
        """
        journal = Journal(self.folder, self.scores.methods, self._lengths)
        live = self.source.fraction() is None and self.source.rows is None
        began, from_row = 0.0, -1
        last_saved = time.monotonic()
        with (
            contextlib.closing(journal),
            _Stop() as stop,
            Progress(self.source.name, self.row) as progress,
        ):
            try:
                for rows in self._after() if replay else self.source.read(self.columns):
                    for part in self._portions(rows):
                        self._learn(part, journal)
                        if from_row < 0 and len(part):
                            began, from_row = time.monotonic(), self.row
                        if self.first_forecast is None and np.isfinite(self.pending).any():
                            self.first_forecast = seconds_since_start()
                        if self.row // HEALTH > (self.row - len(part)) // HEALTH:
                            self._look(progress)
                        progress.update(self.row, self.source.fraction(), self._newest())
                        late = time.monotonic() - last_saved > PATIENCE
                        if self.row - max(0, self._saved_row) >= self.checkpoint_every or late:
                            self._save(journal)
                            last_saved = time.monotonic()
                        if stop.asked:
                            break
                    if live and len(rows):
                        journal.flush()
                    if stop.asked:
                        break
            finally:
                if self.row > from_row >= 0:
                    self.speed = (self.row - from_row) / (time.monotonic() - began)
                if self._whole:  # not where a full disk stopped it in the middle of a portion
                    self._save(journal)
        return "stopped" if stop.asked else "end"

    def _after(self) -> Iterator[np.ndarray]:
        """The rows after those that were learned, which must be the first ones of the source.

        Raises `SourceError` where they are others."""
        if not self.fingerprint.any():  # a checkpoint of before: it does not know
            yield from self.source.read(self.columns, self.row)
            return
        row = self.row  # it grows while these rows are used
        at, found = 0, hashlib.sha256(b"rows").digest()
        for rows in self.source.read(self.columns):
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

    def _portions(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Cut at the rows where metrics are written and where the forecaster's portion is full.

        An empty array passes as it is: it says that a live source has nothing for now.
        """
        at = 0
        while at < len(rows) or len(rows) == 0:
            room = self.log_every - self.row % self.log_every
            n = min(room, self.forecaster.portion, len(rows) - at)
            yield rows[at : at + n]
            at += n
            if len(rows) == 0:
                return

    def _learn(self, rows: np.ndarray, journal: Journal) -> None:
        n = len(rows)
        if n == 0:
            return
        self._whole = False
        self.missing = self.missing + np.isnan(rows).sum(axis=0)
        if self.fingerprint.any():
            self.fingerprint = np.frombuffer(_fingerprint(self.fingerprint.tobytes(), rows), np.uint8)
        encoded = self.encoder(rows)
        outputs = self.forecaster(encoded.inputs, encoded.learn)  # runs while the floors are made
        floors = self.floors(encoded)
        ahead = encoded.base + encoded.scale * np.asarray(outputs, float)[:n]
        both = np.concatenate([self.pending, np.concatenate([ahead[:, None], floors], axis=1)])
        due, self.pending = both[:n], both[n:]  # what was said of these rows, h rows before
        self.scores(encoded.truth, due)
        journal.predictions(self.row, encoded.truth, due, ahead)
        self.row += n
        if self.row % self.log_every == 0:
            part = {"rmse": self.scores.rmse(part=True), "mae": self.scores.mae(part=True)}
            whole = {"nrmse": self.scores.nrmse(), "mae": self.scores.mae()}
            counts = {"skipped": self.forecaster.skipped}
            journal.metrics({"row": self.row, "newest": part, "all": whole, **counts})
            self.scores.restart()
        self._whole = True

    def _look(self, progress: Progress) -> None:
        """Say once what is about to go wrong, while the run can still be saved."""
        for warning in self.forecaster.warnings():
            cause = warning.partition(":")[2]
            if cause not in self._said:  # the same cause, whatever the figure
                self._said.add(cause)
                progress.say(f"Warning at row {self.row:,}: {warning}")

    def _newest(self) -> dict[str, float]:
        """Errors for the progress bar: nRMSE so far of the network and of the best floor."""
        errors = self.scores.nrmse()
        network = errors.pop("network")
        best = min(errors, key=lambda name: errors[name])
        return {"nRMSE": network, best: errors[best]}

    def constant_columns(self) -> list[str]:
        """Columns in which nothing ever varied."""
        count, _, variance = self.encoder.state["moments"].T
        return [c for c, n, v in zip(self.columns, count, variance) if n > 1 and v == 0]


def _fingerprint(before: bytes, rows: np.ndarray) -> bytes:
    """After more rows, one by one: the same in whatever portions they come."""
    plain = np.where(np.isnan(rows), np.nan, rows + 0.0).astype("<f8")  # one NaN, one zero
    for row in plain:
        before = hashlib.sha256(before + row.tobytes()).digest()
    return before


class _Stop:
    """Ctrl-C and `kill` ask the loop to end well; a second Ctrl-C ends it at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Stop:
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError):  # not in the main thread
                self._before[number] = signal.signal(number, self._ask)
        return self

    def _ask(self, number: int, _frame: object) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
