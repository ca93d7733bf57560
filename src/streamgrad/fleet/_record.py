"""A fleet of forecasters on a source: killed at any instant, it goes on to the same bytes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import numpy as np

from ..data import Source, SourceError
from ..forecast._cells import RowError, plain_text
from ..forecast._clock import stamp
from ..forecast._feed import converters, late_row
from ..forecast._journal import Journal
from ..forecast._pass import NO_ROWS, Pass, at_least_one, plain_bytes
from ._forecasters import Forecasters

TOGETHER = 32  # rows of a key in a call, about: many make a row cheap
FEWEST, MOST = 256, 131_072  # rows of a call
FIRST_CODE = -(2.0**50)  # of keys as numbers, which nobody declares to mean missing


class Record(Pass):
    """Forecasters by key on a source, with all that they say in a folder: call it to learn.

    - `fleet`, `source`: what learns, and from where rows come; `key`: the column of keys;
    - `folder`: for the predictions and what is measured;
    - `commit_every`: rows between two commits; None: as the time goes.

    Raises `SourceError` for columns that are not there, and `ValueError` for a key that is a target or a feature, too,
    or was another column before.
    """

    other_rows = "are not those that the store was made from"
    short_of = "up to where the store has learned"
    others, anew = "streamgrad fleet - --continues ... < FILE", "with --overwrite"

    def __init__(
        self,
        fleet: Forecasters,
        source: Source,
        key: str,
        folder: str | os.PathLike[str],
        *,
        commit_every: int | None = None,
    ):
        at_least_one(commit_every=commit_every)
        super().__init__(source, folder, commit_every)
        if not isinstance(key, str):
            raise TypeError(f"key must be the name of a column, got {key!r}.")
        self.fleet, self.key = fleet, key
        names = [str(name) for name in fleet.columns.names]
        if key in names:
            raise ValueError(f"the key {key!r} is a target, a feature or the time, too: a column is one of these only.")
        source.check([key, *names])
        kept = fleet.offset or {"rows": 0, "fingerprint": NO_ROWS.hex(), "key": key}
        if kept["key"] != key:
            raise ValueError(
                f"the store's keys are of the column {kept['key']!r}, and {key!r} was asked for: give that, or another "
                "store."
            )
        self._row = self._saved = kept["rows"]
        self._marked, self._lengths = bytes.fromhex(kept["fingerprint"]), kept.get("lengths")
        self.keys: list[str] = []  # by code, of this pass
        self.ratio = float("nan")  # of root mean square errors of the newest rows, to the last value's
        self._codes: dict[str, int] = {}
        self._room = FEWEST

    @property
    def row(self) -> int:
        """Rows learned so far."""
        return self._row

    def _header(self) -> list[str]:
        return ["row", "key", *self.fleet.learn([], self.fleet.columns.none)]

    def _keep(self, journal: Journal) -> None:
        journal.metrics({"row": self.row, "keys": len(self.fleet), "error_to_last_value": self.ratio})
        kept = {"rows": self.row, "fingerprint": self._marked.hex(), "key": self.key}
        self.fleet.commit(offset=kept | {"lengths": journal.sync(), "source": self.source.name})

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

    def _pieces(self, rows: np.ndarray) -> Iterable[bytes]:
        return [key.encode() + b"\0" + row for key, row in zip(self._named(rows), plain_bytes(rows[:, 1:]))]

    def _gathered(self, batches: Iterator[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Many rows at a time, so that each key has several; of what is live, those that are there."""
        held: list[np.ndarray] = []
        try:
            for batch in batches:
                held.append(batch)
                if self._live or sum(map(len, held)) >= self._room:
                    rows, held = np.concatenate(held), []
                    yield rows, self._ahead(rows)
        except SourceError:
            if held:  # good rows before a bad one
                rows = np.concatenate(held)
                yield rows, self._ahead(rows)
            raise
        if held:
            rows = np.concatenate(held)
            yield rows, self._ahead(rows)

    # Learning.

    def _learn(self, rows: np.ndarray, ahead: np.ndarray, journal: Journal) -> None:
        keys = self._named(rows)
        good = self.fleet.in_order(keys, rows[:, 1:])
        if good:
            self._whole = False
            said = self.fleet.learn(keys[:good], rows[:good, 1:])
            self._marked = self._mark(self._marked, rows[:good])
            where = {"row": np.arange(self.row, self.row + good), "key": np.array(keys[:good], object)}
            journal.predictions(where | said)
            self._row += good
            self.ratio = _ratio(said)
            self._whole = True
            self._room = int(np.clip(TOGETHER * len(set(keys)), FEWEST, MOST))
        if good < len(rows):
            raise late_row(
                self.source,
                self.row - self._before,
                f"the time of key {keys[good]!r} goes back to {stamp(rows[good, -1])}. Sort the rows of each key by "
                "time, leave the time column out, or skip and count such rows with --late skip.",
            )


def _ratio(said: dict[str, np.ndarray]) -> float:
    """Root mean square error over the last value's, of scored rows, each key in its own unit only as the rows are."""
    if "last_value" not in said:
        return float("nan")
    error, last = (said[name] - said["truth"] for name in ("network", "last_value"))
    scored = np.isfinite(error) & np.isfinite(last)
    scale = np.sqrt((last[scored] ** 2).sum())
    return float(np.sqrt((error[scored] ** 2).sum()) / scale) if scale > 0 else float("nan")
