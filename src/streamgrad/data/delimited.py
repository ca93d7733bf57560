"""Rows from CSV and TSV, read with the standard library's `csv`: what that calls a row is a row here."""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from streamgrad.data.errors import SourceError, at_byte, ragged, shortened
from streamgrad.data.source import Convert
from streamgrad.data.text import LONGEST, Error, Text, Values, utf8

END = "\0"  # a record after the last one: it is found again unless a quote is open before it
_LIMIT = threading.Lock()


class Record(NamedTuple):
    begin: int
    end: int
    cells: list[str]


class Delimited(Text):
    """CSV or TSV. `delimiter` and `comment` are what the header was found with."""

    def __init__(self, *arguments: Any, delimiter: str, comment: tuple[str, ...]):
        super().__init__(*arguments)
        self._delimiter, self._comment = delimiter, comment

    def _whole(self, text: str) -> tuple[list[list[str]], int]:
        end = cut(text)
        if not end:
            return [], 0
        rows = parse(text[:end] + END + "\n", self._delimiter, self._comment)
        if rows.pop() == [END]:
            return rows, end
        # A quote is open: what stands before its row is whole.
        ends = [each.end for each in islice(records(text[:end], self._delimiter, self._comment), len(rows))]
        return rows, ends[-1] if rows else 0

    def _unended(self, text: str, row: int, byte: int) -> list[list[str]]:
        rows = parse(text + "\n" + END + "\n", self._delimiter, self._comment)
        if rows and rows.pop() != [END]:
            raise SourceError(
                f"{self.name}: a quotation mark is left open in data row {row + 1} ({shortened(text)}), and all that "
                f"follows is within it: close it, or delete that row.{at_byte(byte)}"
            )
        return rows

    def _starts(self, text: str) -> Iterator[int]:
        for each in records(text, self._delimiter, self._comment):
            yield each.begin

    def _values(self, records: list[list[str]], columns: Sequence[str], row: int, convert: Convert) -> Values:
        rows, which, error = self._rows(records, row)
        array = np.empty((len(rows), len(columns)))
        for k, (name, number) in enumerate(zip(columns, convert)):
            j = self.columns.index(name)
            cells = [row[j] for row in rows]
            if number is self.numbers and (numbers := _plain(cells)) is not None:
                array[:, k] = numbers
                continue
            for i, cell in enumerate(cells):
                try:
                    array[i, k] = number(utf8(cell))
                except ValueError as why:  # no number, or no UTF-8
                    error = self._wrong(cell, name, row + i, self._delimiter.join(rows[i]), why)
                    array, rows = array[:i], rows[:i]
                    break
        return Values(array, which, error)

    def _rows(self, records: list[list[str]], row: int) -> tuple[list[list[str]], list[int] | None, Error | None]:
        """The records that are rows, before the first one of another length."""
        width = len(self.columns)
        if set(map(len, records)) <= {width}:
            return records, None, None
        rows: list[list[str]] = []
        which: list[int] = []
        for i, cells in enumerate(records):
            if len(cells) == width or (not cells and width == 1):
                rows.append(cells or [""])
                which.append(i)
            elif cells and (len(cells) > 1 or cells[0].strip(" \t\x1a")):  # \x1a ends files of DOS
                return rows, [*which, i], self._ragged(cells, row + len(rows))
        return rows, which, None

    def _ragged(self, cells: list[str], row: int) -> Error:
        shown = [text.encode("latin-1").decode("utf-8", "replace") for text in cells]
        return lambda byte: ragged(shown, len(self.columns), row, self.name, byte)


def _plain(cells: list[str]) -> np.ndarray | None:
    """Numbers without more ado; None where a cell has to be looked at."""
    try:
        return None if "_" in "".join(cells) else np.fromiter(map(float, cells), float, len(cells))
    except ValueError:
        return None


def cut(text: str) -> int:
    """The end of the last complete line. A return at the very end may be the first half of its line's end."""
    size = len(text) - text.endswith("\r")
    return max(text.rfind("\n", 0, size), text.rfind("\r", 0, size)) + 1


def parse(text: str, delimiter: str, comment: tuple[str, ...]) -> list[list[str]]:
    """The records of a text, as the standard library's `csv` reads them, without lines of comment."""
    if comment:
        return [each.cells for each in records(text, delimiter, comment)]
    read = lambda: list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    try:
        return read()
    except csv.Error:  # a long cell
        return _unlimited(read)


def records(text: str, delimiter: str, comment: tuple[str, ...] = ()) -> Iterator[Record]:
    """The same, one after the other, each with the places where it begins and ends."""
    lines = io.StringIO(text, newline="")
    begin = 0
    while line := lines.readline():
        if comment and line.startswith(comment):
            begin = lines.tell()
            continue
        lines.seek(begin)
        try:
            cells = next(csv.reader(lines, delimiter=delimiter))
        except csv.Error:
            lines.seek(begin)
            cells = _unlimited(lambda: next(csv.reader(lines, delimiter=delimiter)))
        end = lines.tell()
        yield Record(begin, end, cells)
        begin = end


def _unlimited(read: Callable[[], Any]) -> Any:
    """What `read` gives, with cells of any length. The limit of `csv` belongs to the whole process."""
    with _LIMIT:
        before = csv.field_size_limit(2 * LONGEST)
        try:
            return read()
        finally:
            csv.field_size_limit(before)
