"""Rows from JSON: an object a line, objects one after the other, or an array of objects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from streamgrad.data.errors import SourceError, at_byte, bad_number, same_name, shortened
from streamgrad.data.numbers import shortest
from streamgrad.data.source import Convert
from streamgrad.data.text import Error, Text, Values
from streamgrad.data.unpacking import Damage

_BETWEEN = re.compile(r"[\s,\x1e]*", re.ASCII)
_SLACK = 12  # characters: an error so near to the end of what has come may go away with what comes
_ROWS = 1000  # at the beginning, whose keys are the columns
_DECODER = json.JSONDecoder(parse_int=float)  # an integer of any number of digits is a number


class Row(NamedTuple):
    start: int
    end: int
    text: str
    value: dict[str, Any]


class Broken(Exception):
    """What stands at `at` is no row; `more`: it may become one when more has come."""

    def __init__(self, at: int, reason: str, more: bool):
        super().__init__(reason)
        self.at, self.more = at, more


def rows_of(text: str) -> Iterator[Row]:
    """The objects of a text that begins before one of them. Raises `Broken` after those before the damage."""
    at = _BETWEEN.match(text).end()  # type: ignore[union-attr]
    if text.startswith("[", at):
        at = _BETWEEN.match(text, at + 1).end()  # type: ignore[union-attr]
    while at < len(text):
        if text[at] == "]":
            if text[at + 1 :].strip():
                raise Broken(at, "something follows the end of the array", False)
            return
        try:
            value, end = _DECODER.raw_decode(text, at)
            part = text[at:end]
            if not part.isascii():  # read as Latin-1 so far
                part = part.encode("latin-1").decode("utf-8", "surrogateescape")
                value = _DECODER.decode(part)
        except RecursionError:
            raise Broken(at, "it is nested too deeply", False) from None
        except json.JSONDecodeError as error:
            more = error.pos >= len(text) - _SLACK or error.msg.startswith("Unterminated string")
            raise Broken(at, f"{error.msg}, {error.pos - at} characters on", more) from None
        if not isinstance(value, dict):
            raise Broken(at, 'it is not a JSON object; rows such as {"time": 1, "value": 2.5} were expected', False)
        yield Row(at, end, part, value)
        at = _BETWEEN.match(text, end).end()  # type: ignore[union-attr]


def first_rows(text: str, more: bool, name: str) -> list[str] | None:
    """The keys of the first rows, in order; None where more of the text is needed."""
    rows: list[Row] = []
    try:
        rows.extend(islice(rows_of(text), _ROWS))
    except Broken as error:
        if not rows and more and error.more:
            return None
        if not rows:
            raise _not_json(name, 0, error, text[error.at :], error.at) from None
    if len(rows) == 1 and not more:
        for key in (key for key, value in rows[0].value.items() if isinstance(value, list)):
            raise SourceError(
                f"{name} is one JSON object, whose {key!r} holds a list: rows were expected, each an object. "
                f"Write them so, for instance by jq -c '.{key}[]' if they are objects."
            )
    keys = list(dict.fromkeys(key for row in rows for key in row.value))
    if not keys and not more:
        raise SourceError(f"{name} is JSON without rows: objects with keys and values were expected.")
    return keys or None


def _not_json(name: str, row: int, error: Broken, text: str, byte: int) -> SourceError:
    cut = " Is the file cut in the middle of a row?" if error.more else ""
    return SourceError(
        f"{name}, data row {row + 1} is not a JSON object ({error}): {shortened(text[:100].strip())}.{cut} Complete or "
        f"delete that row.{at_byte(byte)}"
    )


class JsonRows(Text):
    """JSON objects. The columns are the keys of the first thousand; a key that is absent is a missing value.

    Of a file, `check` and `read` also find a column whose key comes later.
    """

    _before = b"}, \t\r\n\x1e"

    def check(self, columns: Iterable[str]) -> None:
        columns = list(columns)
        late = set(columns) - set(self.columns)
        if late and not self._origin.live:
            self.columns += tuple(c for c in columns if c in self._later(late))
        super().check(columns)

    def _later(self, late: set[str]) -> set[str]:
        """Which of the keys are somewhere in the file."""
        found: set[str] = set()
        try:
            for piece in self._pieces(self._origin.blocks(self._begin), self._begin):
                for row in piece.records:
                    found |= late & row.value.keys()
                if found == late:
                    break
        except (SourceError, Damage):  # reading will say it
            pass
        self.unfinished = False
        return found

    _open = False  # an array has begun, and its end has not come

    def _ends(self, byte: int) -> None:
        if self._open:
            raise SourceError(
                f"{self.name} ends after data row {self._row} at byte {byte} without the ] of its array: is it cut?"
            )

    def _whole(self, text: str) -> tuple[list[Row], int]:
        rows: list[Row] = []
        self._open = bool(re.match(r"\s*\[", text)) or (self._open and self._end > self._begin)
        try:
            rows.extend(rows_of(text))
        except Broken as error:
            if not rows and not error.more:
                byte = self._end + error.at
                raise _not_json(self.name, self._row, error, text[error.at :], byte) from None
            return rows, rows[-1].end if rows else 0
        if "]" in text[rows[-1].end if rows else 0 :]:
            self._open = False
        return rows, len(text)

    def _unended(self, text: str, row: int, byte: int) -> list[Row]:
        try:
            return list(rows_of(text))
        except Broken as error:
            raise _not_json(self.name, row, error, text[error.at :], byte + error.at) from None

    def _starts(self, text: str) -> Iterator[int]:
        for row in rows_of(text):
            yield row.start

    def _values(self, records: list[Row], columns: Sequence[str], row: int, convert: Convert) -> Values:
        array = np.empty((len(records), len(columns)))
        quoted = [json.dumps(column) for column in columns]
        for i, record in enumerate(records):
            for k, (name, number) in enumerate(zip(columns, convert)):
                value = record.value.get(name)
                if record.text.count(quoted[k]) > 1 and _twice(record.text, name):
                    return Values(array[:i], None, self._namesakes(name, row + i))
                try:
                    array[i, k] = self.numbers.of(value) if number is self.numbers else number(_text(value))
                except ValueError as why:
                    return Values(array[:i], None, self._bad(value, name, row + i, why))
        return Values(array)

    def _namesakes(self, column: str, row: int) -> Error:
        error = same_name(column, self.name)
        return lambda byte: SourceError(f"{error} It is so in data row {row + 1}.{at_byte(byte)}")

    def _bad(self, value: Any, column: str, row: int, why: Exception) -> Error:
        shown = value if isinstance(value, str) else json.dumps(value)
        shown = shown.encode("utf-8", "backslashreplace").decode()
        return lambda byte: bad_number(shown, row, column, self.name, byte, why=why)


def _text(value: Any) -> str:
    """A value as the text that a CSV file would have."""
    return "" if value is None else shortest(value) if isinstance(value, float) else str(value)


def _twice(text: str, key: str) -> bool:
    """Whether the outermost object has the key twice."""
    pairs: list[list[tuple[str, Any]]] = []
    json.loads(text, object_pairs_hook=lambda each: pairs.append(each) or dict(each), parse_int=float)
    return [name for name, _ in pairs[-1]].count(key) > 1
