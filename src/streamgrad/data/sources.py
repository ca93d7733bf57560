"""Open a stream of rows: a file of any length, standard input, or a bundled real series.

Whatever the format, a `Source` hands out arrays of float64 with one column per name asked for;
NaN is a missing value. Only a part of the file is in memory at a time.
"""

from __future__ import annotations

import abc
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import final

import numpy as np

from streamgrad.data.errors import SourceError, too_large, unknown_column
from streamgrad.data.series import SERIES

LARGEST = 1e100  # squares and sums of what is larger would overflow
FORMATS = "CSV, TSV, Parquet, Arrow (Feather) or JSON lines"


class Source(abc.ABC):
    """Rows of numbers in the order in which they came.

    `name` is for messages, `columns` are the names that can be asked for, and `rows` is their
    number where the format tells it beforehand.
    """

    name: str
    columns: tuple[str, ...]
    rows: int | None = None

    @abc.abstractmethod
    def _batches(self, columns: Sequence[str], start: int) -> Iterator[tuple[int, np.ndarray]]:
        """Pairs of the first row's number and a float64 array (rows, columns).

        May begin before `start` where seeking is not worth its while.
        """

    def fraction(self) -> float | None:
        """How much of the source was read: 0 to 1, or None where its size is not known."""
        return None

    @final
    def read(self, columns: Sequence[str], start: int = 0) -> Iterator[np.ndarray]:
        """The rows from `start` on, as float64 arrays of shape (rows, len(columns)).

        A live source yields an empty array when nothing has come for a moment. Good rows before
        a bad one are yielded first; then `SourceError` names the row and the column.
        """
        for column in columns:
            if column not in self.columns:
                raise unknown_column(column, self.columns, self.name)
        end = self.rows or 0
        for first, batch in self._batches(columns, start):
            end = max(end, first + len(batch))
            batch = batch[max(0, start - first) :]
            bad = np.abs(batch) > LARGEST  # a missing value is NaN, and that is no larger
            if bad.any():
                row, column = (int(i) for i in np.argwhere(bad)[0])
                yield batch[:row]
                raise too_large(batch[row, column], max(first, start) + row, columns[column], self.name)
            yield batch
        if end < start:
            raise SourceError(
                f"{self.name} ends before data row {start}, where the checkpoint was made: it is "
                "another or a shortened stream. Give the same one, or start anew without --resume."
            )


class ArraySource(Source):
    """Rows that are in memory already: an array of shape (rows, columns)."""

    def __init__(self, name: str, columns: Sequence[str], values: np.ndarray):
        self.name, self.columns, self.rows = name, tuple(columns), len(values)
        self._values, self._at = values, 0

    def _batches(self, columns: Sequence[str], start: int) -> Iterator[tuple[int, np.ndarray]]:
        which = [self.columns.index(column) for column in columns]
        for at in range(start, len(self._values), 4096):
            self._at = at
            yield at, self._values[at : at + 4096, which]
        self._at = len(self._values)

    def fraction(self) -> float | None:
        return self._at / max(1, len(self._values))


def open_source(name: str) -> Source:
    """Open `name`: a path, `-` for standard input, or the name of a bundled series.

    The content, not the ending, decides the format: CSV and TSV (also with semicolons), JSON
    lines, Parquet, Arrow and Feather files; text may be compressed (.gz, .bz2, .zst).

    Raises `SourceError` with one sentence where the source cannot be opened.
    """
    if name == "-":
        from streamgrad.data.text import live_source

        return live_source(0, "standard input")
    path = Path(name)
    if not path.exists():
        if name in SERIES:
            return SERIES[name].open()
        raise _missing(name, path)
    if path.is_dir():
        raise SourceError(f"{name} is a folder, and a file ({FORMATS}) was expected: name one file in it.")
    try:
        with open(path, "rb") as file:
            magic = file.read(8)
    except OSError as error:
        raise SourceError(f"{name} cannot be read ({os.strerror(error.errno or 0)}): check its permissions.") from None
    if not magic and path.stat().st_size == 0 and path.is_file():
        raise SourceError(f"{name} is empty: a header and rows ({FORMATS}) were expected.")
    if magic.startswith(b"PAR1"):
        from streamgrad.data.columnar import ParquetSource

        return ParquetSource(path)
    if magic.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        from streamgrad.data.columnar import ArrowSource

        return ArrowSource(path)
    if magic.startswith(b"FEA1"):
        raise SourceError(
            f"{name} is a Feather file of version 1, which is no longer read: write it again as version 2 (Arrow)."
        )
    from streamgrad.data.text import file_source

    return file_source(path)


def _missing(name: str, path: Path) -> SourceError:
    """A file that is not there: with the nearest names among its neighbours and the series."""
    import difflib

    neighbours: list[str] = []
    if path.parent.is_dir():
        with os.scandir(path.parent) as entries:
            neighbours = [e.name for _, e in zip(range(10_000), entries) if e.is_file()]
    near = [str(path.parent / n) for n in difflib.get_close_matches(path.name, neighbours, n=2)]
    near += difflib.get_close_matches(name, list(SERIES), n=1)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return SourceError(
        f"there is no file {name}: {hint}Give a path ({FORMATS}), - for standard input, "
        f"or one of the bundled series {', '.join(SERIES)}."
    )
