"""Rows from text, as it comes: records are cut from the bytes and handed on as soon as they are whole.

Files and what is live take the same path. Bytes are read as Latin-1, one character a byte, so that positions in the
text are positions in the file and no byte is foreign; the cells that are used are read as UTF-8 afterwards.
"""

from __future__ import annotations

import abc
import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from streamgrad.data.blocks import BLOCK, Origin
from streamgrad.data.errors import SourceError, at_byte, bad_number, not_utf8, read_once
from streamgrad.data.numbers import Numbers
from streamgrad.data.source import Convert, Source
from streamgrad.data.unpacking import Blocks, Damage

LONGEST = 1 << 26  # characters of a row; an open quote is the usual reason for more


#: Makes the error for a row when the byte is known at which it begins.
Error = Callable[[int | None], SourceError]


class Piece(NamedTuple):
    """Whole records, cut from a text that begins at `byte`."""

    records: list[Any]
    text: str
    byte: int


class Values(NamedTuple):
    """The rows before the first bad one; `which` records they and the bad one are (None: all, in turn); and what is
    wrong with that one, once its byte is known."""

    array: np.ndarray
    which: list[int] | None = None
    error: Error | None = None


class Text(Source, abc.ABC):
    """A source of records in text.

    **Arguments:**

    - `origin`: where the bytes come from.
    - `columns`: their names.
    - `begin`: the byte at which the first record begins; `head`: the bytes before it.
    - `rest`: of a live origin, what follows these bytes and was read already, and the blocks to come.
    - `ended`: the line before the first record has an end, so that a file that grows has its rows after it.
    """

    def __init__(
        self,
        origin: Origin,
        columns: Sequence[str],
        begin: int,
        head: bytes,
        rest: Blocks | None,
        numbers: Numbers,
        ended: bool = True,
    ):
        self.name, self.columns, self.numbers = origin.name, tuple(columns), numbers
        self._origin, self._begin, self._head, self._rest = origin, begin, head, rest
        self._newest: tuple[int, Piece, list[int] | None] = (0, Piece([], "", begin), None)
        self._from, self._row, self._end, self._ended = (0, begin), 0, begin, ended
        self._at(0, begin)

    # What a kind of text is.

    _before = b"\r\n"  # one of these stands before a record

    @abc.abstractmethod
    def _whole(self, text: str) -> tuple[list[Any], int]:
        """The records that end within the text, whatever may follow, and how much of it they take."""

    @abc.abstractmethod
    def _unended(self, text: str, row: int, byte: int) -> list[Any]:
        """What is left at the end of the text, as records. Raises `SourceError` where it can be none."""

    def _ends(self, byte: int) -> None:
        """Raise `SourceError` where the text may not end so."""

    @abc.abstractmethod
    def _starts(self, text: str) -> Iterator[int]:
        """Where each record of the text begins."""

    @abc.abstractmethod
    def _values(self, records: list[Any], columns: Sequence[str], row: int, convert: Convert) -> Values:
        """The numbers of the records that are rows; the first of them is `row`."""

    # One pass.

    def _begin_at(self, place: tuple[int, int]) -> None:
        if self._origin.live:
            raise SourceError(f"{self.name} is live and has no places to go on from: leave `place` out.")
        if place[1] < self._begin:
            raise SourceError(f"{self.name} has another header than the file that byte {place[1]} is a place of.")
        self._from = place

    def _at(self, row: int, byte: int) -> None:
        self._row, self.place = row, (row, byte) if self._ended else None

    def _numbers(self, columns: Sequence[str], start: int, convert: Convert) -> Iterator[tuple[int, np.ndarray]]:
        (first, begin), self._from = self._from, (0, self._begin)
        self.unfinished = False
        self._at(first, begin)
        for piece in self._pieces(self._blocks(begin), begin):
            row = self._row
            values = self._values(piece.records, columns, row, convert)
            self._newest = row, piece, values.which
            good = row + len(values.array)
            error = None if values.error is None else values.error(self.byte_of(good))
            end = self._end if error is None else self.byte_of(good)
            if self.unfinished:  # it stays behind
                self._row = good
            else:
                self._at(good, self._end if end is None else end)
            yield row, values.array
            if error is not None:
                raise error

    def _pieces(self, blocks: Blocks, byte: int) -> Iterator[Piece]:
        """Whole records as they come; a piece without records says that nothing came for a moment.

        What is left over is looked at again when it has doubled, or when nothing more comes: linear in time."""
        waiting, size, least, damage = [""], 0, 0, None
        while True:
            try:
                block = next(blocks, None)
            except Damage as error:
                block, damage = None, error
            waiting.append((block or b"").decode("latin-1"))
            size += len(block or b"")
            if block and size < least:
                continue
            text = "".join(waiting)
            records, used = self._whole(text)
            self._end = byte + used
            if records or block == b"":
                yield Piece(records, text[:used], byte)
            text, byte = text[used:], byte + used
            if block is None:
                break
            if len(text) > LONGEST:
                raise SourceError(
                    f"{self.name}, data row {self._row + 1}: no end of row within {LONGEST >> 20} MB: is a quotation "
                    f"mark left open, or is this not a table?{at_byte(byte)}"
                )
            waiting, size, least = [text], len(text), 2 * len(text) if len(text) > BLOCK else 0
        if damage is not None:
            raise SourceError(
                f"{self.name} cannot be read beyond data row {self._row} ({damage}): what came before it was read. "
                f"Get the file again, or repair it.{at_byte(byte)}"
            )
        if text and (records := self._unended(text, self._row, byte)):
            self.unfinished = True
            yield Piece(records, text, byte)
        self._ends(byte + len(text))

    def _blocks(self, begin: int) -> Blocks:
        """The bytes from `begin` on: of a file anew, of what is live once."""
        if self._origin.live:
            if self._rest is None:
                raise read_once(self.name)
            rest, self._rest = self._rest, None
            return rest
        if self._start(0, self._begin) != self._head:
            raise SourceError(f"{self.name} has changed since it was opened: its header is another. Open it anew.")
        if begin > self._begin and self._start(begin - 1, 1) not in self._before:
            raise SourceError(
                f"{self.name}: no row begins at byte {begin}: it is not the file that this is a place of."
            )
        return self._origin.blocks(begin)

    def _start(self, byte: int, size: int) -> bytes:
        """A few bytes of the file."""
        blocks, seen = self._origin.blocks(byte), b""
        with contextlib.suppress(Damage):
            while len(seen) < size and (block := next(blocks, None)) is not None:
                seen += block
        blocks.close()
        return seen[:size]

    def byte_of(self, row: int) -> int | None:
        """The byte at which a row begins that was handed out. What lies far back is looked for in the file again."""
        first, piece, which = self._newest
        if row < first:
            again = copy.copy(self)
            passed = () if self._origin.live else again._numbers((), 0, ())
            return next((again.byte_of(row) for at, batch in passed if row < at + len(batch)), None)
        record = row - first if which is None else which[row - first]
        return next((piece.byte + start for i, start in enumerate(self._starts(piece.text)) if i == record), None)

    def fraction(self) -> float | None:
        return self._origin.fraction()

    def _wrong(self, text: str, column: str, row: int, line: str, why: Exception) -> Error:
        """The error for a cell of Latin-1 text that is no number, when its byte is known; `line`: all of the row."""
        try:
            shown = utf8(text)
        except UnicodeDecodeError:
            return lambda byte: not_utf8(text.encode("latin-1"), row, column, self.name, byte)
        line = line.encode("latin-1").decode(errors="replace")
        return lambda byte: bad_number(shown, row, column, self.name, byte, line, why)


def utf8(text: str) -> str:
    """Text that was read as Latin-1, read as UTF-8. Raises `UnicodeDecodeError`."""
    return text if text.isascii() else text.encode("latin-1").decode()
