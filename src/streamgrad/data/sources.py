"""Open a stream of rows: a file of any length, what is live, a bundled real series, or a table in memory.

Whatever it is, a `Source` hands out arrays of float64 with one column per name asked for; NaN is a missing value. Only
a part of a file is in memory at a time.
"""

from __future__ import annotations

import abc
import contextlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from streamgrad.data.errors import LARGEST, SourceError, same_name, too_large, unknown_column
from streamgrad.data.numbers import Numbers
from streamgrad.data.series import SERIES

FORMATS = "CSV, TSV, JSON, Parquet or Arrow (Feather)"

#: For each column asked for, what makes a float of a cell's text; it raises `ValueError` for what it cannot.
Convert = Sequence[Callable[[str], float]]


class Source(abc.ABC):
    """Rows of numbers in the order in which they came.

    `name` is for messages, `columns` are the names that can be asked for, and `rows` is their number where the format
    tells it beforehand. `named` is false where nobody gave the columns their names.

    While it is read, `place` is the number of rows handed out and the byte after the last of them, where the format has
    such places: `read(..., place=)` goes on there when the file has grown. `unfinished` says that the newest row was
    the last line of the text and had no end: in a file that grows, it may have been cut. It lies behind `place`.
    """

    name: str
    columns: tuple[str, ...]
    rows: int | None = None
    numbers: Numbers = Numbers()
    named: bool = True
    place: tuple[int, int] | None = None
    unfinished: bool = False

    @abc.abstractmethod
    def _batches(self, columns: Sequence[str], start: int, convert: Convert) -> Iterator[tuple[int, np.ndarray]]:
        """Pairs of the first row's number and a float64 array (rows, columns).

        May begin before `start` where seeking is not worth its while.
        """

    def fraction(self) -> float | None:
        """How much of the source was read: 0 to 1, or None where its size is not known."""
        return None

    def check(self, columns: Iterable[str]) -> None:
        """Raise `SourceError` for a column that is not there, or that has a namesake."""
        for column in columns:
            if column not in self.columns:
                raise unknown_column(column, self.columns, self.name)
            if self.columns.count(column) > 1:
                raise same_name(column, self.name)

    @final
    def read(
        self,
        columns: Sequence[str],
        start: int = 0,
        *,
        place: tuple[int, int] | None = None,
        convert: Mapping[str, Callable[[str], float]] | None = None,
    ) -> Iterator[np.ndarray]:
        """The rows from `start` on, as float64 arrays of shape (rows, len(columns)).

        A live source yields an empty array when nothing has come for a moment. Good rows before a bad one are yielded
        first; then `SourceError` names the row, the column and the byte. A second call reads the same rows anew, or
        raises where they are gone.

        **Arguments:**

        - `columns`: names, in the order wanted.
        - `start`: rows left out at the beginning.
        - `place`: what `self.place` was after some rows; begins there, without a look at what lies before.
        - `convert`: for a column that holds no numbers (times, categories), the function from a cell's text to a
          float; it raises `ValueError` for what it cannot convert.
        """
        self.check(columns)
        if place is not None:
            self._begin_at(place)
            start = max(start, place[0])
        each = [(convert or {}).get(column, self.numbers) for column in columns]
        end = self.rows or 0
        for first, batch in self._batches(columns, start, each):
            end = max(end, first + len(batch))
            batch = self.numbers.without(batch[max(0, start - first) :])
            bad = np.abs(batch) > LARGEST  # a missing value is NaN, and that is no larger
            if bad.any():
                row, column = (int(i) for i in np.argwhere(bad)[0])
                at = max(first, start) + row
                yield batch[:row]
                raise too_large(batch[row, column], at, columns[column], self.name, self._byte(at))
            yield batch
        if end < start:
            raise SourceError(
                f"{self.name} ends before data row {start}, where the checkpoint was made: it is "
                "another or a shortened stream. Give the same one, or start anew without --resume."
            )

    def _byte(self, row: int) -> int | None:
        """Where a row begins that was handed out just now, if that is known."""
        return None

    def _begin_at(self, place: tuple[int, int]) -> None:
        raise SourceError(f"{self.name} has no places to go on from: name the row to start at instead.")


@dataclass(frozen=True)
class Layout:
    """How a text file is laid out, where that is not to be guessed. See `open_source`."""

    columns: tuple[str, ...] | None = None
    skip_lines: int = 0
    comment: tuple[str, ...] = ()
    delimiter: str | None = None

    def check(self) -> None:
        """Raise `SourceError` for what no file can be laid out like."""
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n\0'):
            raise SourceError(
                f"delimiter {self.delimiter!r}: it has to be one character, no quotation mark or line end."
            )
        if self.skip_lines < 0:
            raise SourceError(f"skip_lines {self.skip_lines}: it has to be at least 0.")
        if "" in self.comment:
            raise SourceError("comment '': every line begins so; name what comments begin with, such as '#'.")

    def refuse(self, name: str, what: str) -> None:
        """Raise `SourceError` where any of it is given for what is no CSV."""
        given = [option for option in ("columns", "skip_lines", "comment", "delimiter") if getattr(self, option)]
        if given:
            raise SourceError(f"{name} is {what}, and {', '.join(given)} is for CSV: leave it out.")


def open_source(
    source: Any,
    *,
    columns: Sequence[str] | None = None,
    missing: Iterable[Any] = (),
    skip_lines: int = 0,
    comment: str | Sequence[str] | None = None,
    delimiter: str | None = None,
) -> Source:
    """Open a path, `-` for standard input, the name of a bundled series, or a table in memory.

    The content, not the ending, decides the format: CSV and TSV (also with semicolons or bars), JSON lines and arrays,
    Parquet, Arrow and Feather files; text may be packed (gzip, bzip2, xz, zstd, lz4) or in UTF-16. What is no regular
    file (a pipe, `/dev/stdin`, process substitution) is opened once and read as it comes.

    A table in memory is a NumPy or JAX array, a mapping from names to columns, a pandas, polars or Arrow table (also
    what else Narwhals knows), or an iterable of rows, each a mapping or a sequence. Iterators are read once.

    **Arguments:**

    - `columns`: names for an array or for rows that are sequences; for CSV, that it has no header and these names.
    - `missing`: values that mean missing, beside an empty cell, NA, NaN, null and the like.
    - `skip_lines`: lines of CSV before the header that are left out.
    - `comment`: what lines of CSV begin with that are left out (one or several).
    - `delimiter`: of CSV, where it is not to be guessed.

    Raises `SourceError` with one sentence where the source cannot be opened.
    """
    numbers = Numbers(missing)
    marks = (comment,) if isinstance(comment, str) else tuple(comment or ())
    layout = Layout(None if columns is None else tuple(columns), skip_lines, marks, delimiter)
    layout.check()
    if isinstance(source, (str, os.PathLike)):
        return _open_path(os.fspath(source), numbers, layout)
    from streamgrad.data.tables import open_table

    return open_table(source, layout, numbers)


def _open_path(name: str, numbers: Numbers, layout: Layout) -> Source:
    from streamgrad.data.blocks import File, Live
    from streamgrad.data.opening import open_text

    if name == "-":
        return open_text(Live(0, "standard input"), numbers, layout)
    if re.match(r"\w+://", name):
        raise SourceError(
            f"{name} is an address, and nothing is downloaded here: get the file first, or pipe it in as -."
        )
    path = Path(name)
    if not _exists(name, path):
        if name in SERIES:
            layout.refuse(name, "a bundled series")
            return SERIES[name].open(numbers)
        raise _missing(name, path)
    if path.is_dir():
        raise SourceError(f"{name} is a folder, and a file ({FORMATS}) was expected: name one file in it.")
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return open_text(Live(os.open(path, os.O_RDONLY), name, own=True), numbers, layout)
        with open(path, "rb") as file:
            magic = file.read(8)
    except OSError as error:
        raise SourceError(f"{name} cannot be read ({os.strerror(error.errno or 0)}): check its permissions.") from None
    if magic.startswith((b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")):
        from streamgrad.data.columnar import ArrowSource, ParquetSource

        layout.refuse(name, "a file with columns of its own")
        return (ParquetSource if magic.startswith(b"PAR1") else ArrowSource)(path, numbers)
    return open_text(File(path, name), numbers, layout)


def _exists(name: str, path: Path) -> bool:
    try:
        return bool(name) and path.exists()
    except (OSError, ValueError):  # too long, a loop of links, a zero byte
        return False


def _missing(name: str, path: Path) -> SourceError:
    """A file that is not there: with the nearest names among its neighbours and the series."""
    import difflib

    neighbours: list[str] = []
    with contextlib.suppress(OSError, ValueError), os.scandir(path.parent) as entries:
        neighbours = [e.name for _, e in zip(range(10_000), entries) if not e.is_dir(follow_symlinks=False)]
    near = [str(path.parent / n) for n in difflib.get_close_matches(path.name, neighbours, n=2)]
    near += difflib.get_close_matches(name, list(SERIES), n=1)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return SourceError(
        f"there is no file {name[:200]}: {hint}Give a path ({FORMATS}), - for standard input, "
        f"or one of the bundled series {', '.join(SERIES)}."
    )
