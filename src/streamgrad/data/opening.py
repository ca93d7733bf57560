"""The beginning of a text: is it JSON or CSV, where is the header, what divides its cells?"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Sequence
from itertools import chain, islice, takewhile
from typing import NamedTuple

from streamgrad.data.blocks import Origin
from streamgrad.data.delimited import END, Delimited, Record, cut, records
from streamgrad.data.errors import SourceError, shortened
from streamgrad.data.foreign import refuse_other
from streamgrad.data.json_rows import JsonRows, first_rows
from streamgrad.data.layout import Layout
from streamgrad.data.numbers import Numbers
from streamgrad.data.text import LONGEST, Text, utf8
from streamgrad.data.unpacking import Blocks, Damage

SAMPLE = 1 << 20  # bytes of a file that are looked at before it is opened
MARKS = "\t,;|"
ROWS = 9  # after the header, for a guess
_JSON = re.compile(r"""\s*(\{\s*["'}]|\[\s*[\[{\]"\d-])""")
_LINE = re.compile(r"[^\r\n]*(\r\n|\r|\n|)")
_DATE = re.compile(r"\s*\d{4}-\d\d?-\d\d?|\s*\d\d?[./]\d\d?[./]\d{2,4}|\s*\d\d?:\d\d")
_SEP = re.compile(r'"?sep=(.)"?[\r\n]+', re.IGNORECASE)


class Header(NamedTuple):
    columns: list[str]
    delimiter: str
    end: int  # where the rows begin


def open_text(origin: Origin, numbers: Numbers, layout: Layout) -> Text:
    """CSV or JSON, by its beginning. What is live is read no further than its header asks for."""
    try:
        blocks = origin.blocks()
    except Damage as damage:
        raise SourceError(f"{origin.name} cannot be read: {damage}.") from None
    seen, mark, least, ended = bytearray(), b"", 0, False
    while True:
        try:
            block = next(blocks, None)
        except Damage as damage:
            if not seen.strip():
                raise SourceError(f"{origin.name} cannot be read: {damage}.") from None
            block, blocks = None, _again(damage)
        ended = ended or block is None
        seen += block or b""
        if not ended and (len(seen) < least or (not origin.live and len(seen) < SAMPLE)):
            continue
        refuse_other(bytes(seen[:4096]), origin.name)
        mark = codecs.BOM_UTF8 if seen.startswith(codecs.BOM_UTF8) else b""
        text = seen[len(mark) :].decode("latin-1")
        if ended and not text.strip():
            raise SourceError(f"{origin.name} is empty: a header and rows (CSV, TSV), or JSON, were expected.")
        more = not ended
        if _JSON.match(text) and (keys := first_rows(text, more, origin.name)) is not None:
            layout.refuse(origin.name, "JSON")
            return JsonRows(origin, keys, len(mark), bytes(mark), _rest(origin, seen, len(mark), blocks), numbers)
        waiting = not text.strip() or text.strip() in ("{", "[") or _JSON.match(text)
        if not (more and waiting) and (header := find_header(text, more, origin.name, layout)) is not None:
            begin = len(mark) + header.end
            rest = _rest(origin, seen, begin, blocks)
            head = bytes(seen[:begin])
            # A header without an end may be cut; one that ends in a return may go on with the other half of its end.
            ended = begin < len(seen) or head.endswith(b"\n") or not head
            found = Delimited(
                origin, header.columns, begin, head, rest, numbers, ended,
                delimiter=header.delimiter, comment=layout.comment,
            )  # fmt: skip
            found.note = "" if layout.columns else _note(header.columns)
            return found
        if len(seen) > LONGEST:
            raise SourceError(f"{origin.name}: no header within {LONGEST >> 20} MB: is this a table?")
        least = 2 * len(seen) if len(seen) > SAMPLE else 0


def _rest(origin: Origin, seen: bytearray, begin: int, blocks: Blocks) -> Blocks | None:
    """Of a live origin, what comes after the header."""
    if not origin.live:
        blocks.close()
        return None
    return _chained(bytes(seen[begin:]), blocks)


def _chained(first: bytes, blocks: Blocks) -> Blocks:
    yield first
    yield from blocks


def _again(damage: Damage) -> Blocks:
    raise damage
    yield b""


def find_header(text: str, more: bool, name: str, layout: Layout) -> Header | None:
    """The names of the columns and the start of the rows; None where more of the text is needed."""
    whole, at, delimiter = text[: cut(text)] if more else text, 0, layout.delimiter
    for line in range(layout.skip_lines):
        if at >= len(whole) and not more:
            raise SourceError(f"{name} has {line} lines, and {layout.skip_lines} were to be skipped before its header.")
        at = _line_end(whole, at)
    while at < len(whole):
        line = whole[at : _line_end(whole, at)]
        if delimiter is None and (found := _SEP.fullmatch(line)):
            delimiter = found[1]
        elif line.strip() and not (layout.comment and line.startswith(layout.comment)):
            break
        at += len(line)
    rest = whole[at:]
    if more and not rest.strip():
        return None
    if layout.columns is not None:
        return Header(list(layout.columns), delimiter or _delimiter(rest, layout), at)
    if not rest.strip():
        raise SourceError(f"{name} is empty: a header and rows were expected.")
    delimiter = delimiter or _delimiter(rest, layout)
    sample = _sample(rest, delimiter, layout)
    if not sample:
        if more:
            return None
        raise SourceError(f"{name}: a quotation mark is left open in the header ({shortened(rest)}): close it.")
    cells, rows = sample[0].cells, [each.cells for each in sample[1:] if each.cells]
    try:
        columns = [utf8(cell).strip("\ufeff").strip() for cell in cells]
    except UnicodeDecodeError:
        raise SourceError(f"{name}: the header is not UTF-8 text; convert the file to UTF-8.") from None
    first = rest[: _line_end(rest, 0)].strip().encode("latin-1").decode("utf-8", "replace")
    _refuse_comment(columns, rows, first, name)
    _refuse_headless(columns, rows, first, name)
    _refuse_spaces(columns, rows, first, name)
    return Header(columns, delimiter, at + min(sample[0].end, len(rest)))


def _line_end(text: str, at: int) -> int:
    return _LINE.match(text, at).end()  # type: ignore[union-attr]


def _sample(text: str, delimiter: str, layout: Layout) -> list[Record]:
    """The first records, without one in which a quote is open."""
    text += ("" if text.endswith(("\r", "\n")) else "\n") + END + "\n"
    found = islice(records(text, delimiter, layout.comment), 1 + ROWS)
    return list(takewhile(lambda each: not each.cells or not each.cells[-1].endswith((END, END + "\n")), found))


def _delimiter(text: str, layout: Layout) -> str:
    """The mark that cuts header and rows into the most cells, as many in each; else the header alone.

    A mark within quotes cuts through them. Where no other fits, it is one that leaves a quote of the header open."""
    best, most, opened = ",", (False, False, 1), ""
    for mark in MARKS:
        sample = _sample(text, mark, layout)
        rows = [each.cells for each in sample if each.cells]
        if not sample:
            opened = opened or mark
        elif rows and len(rows[0]) > 1:
            alike, clean = len(rows) > 1 and len({len(row) for row in rows}) == 1, '"' not in "".join(rows[0])
            found = (alike, clean, len(rows[0]))
            if found > most:
                best, most = mark, found
    return opened if opened and not most[1] else best


# Beginnings that are no header.


def _is_number(text: str) -> bool:
    try:
        return "_" not in text and math.isfinite(float(text))
    except ValueError:
        return False


def _refuse_comment(cells: Sequence[str], rows: list[list[str]], first: str, name: str) -> None:
    mark = next((mark for mark in ("#", "%", "//") if first.startswith(mark)), None)
    if mark is None or not rows:
        return
    named = len(rows) > 1 and not any(map(_is_number, rows[0])) and any(map(_is_number, rows[1]))
    if len(rows[0]) != len(cells) or named or rows[0][0].startswith(mark):
        raise SourceError(
            f"{name} begins with what seems to be a comment ({shortened(first)}) where the names of the columns were "
            f"expected: skip such lines with --comment '{mark}', or the first ones with --skip-lines."
        )


def _refuse_headless(columns: list[str], rows: list[list[str]], first: str, name: str) -> None:
    """A first line that is like the rows below it, in every column, and holds a number."""
    like = lambda name, cell: _is_number(cell) if _is_number(name) else _shape(name) == _shape(cell)
    below = [[row[j] for row in rows if j < len(row) and row[j].strip()] for j in range(len(columns))]
    alike = rows and all(like(name, cell) for name, cells in zip(columns, below) for cell in cells)
    if all(map(_is_number, columns)) or (alike and any(map(_is_number, columns))):
        raise SourceError(
            f"{name} begins with numbers ({shortened(first)}) where the names of the columns were expected: put "
            "a header line in front, or name the columns (columns=)."
        )


def _note(columns: Sequence[str]) -> str:
    """What is said where no column has the name asked for, and the header may be none."""
    data = [name for name in columns if _is_number(name) or _DATE.match(name)]
    if not data:
        return ""
    return (
        f"Its first line looks like data ({shortened(data[0])} is no name): where the header is missing, put one in "
        "front, or name the columns (columns= of open_source)."
    )


def _shape(text: str) -> str:
    """The text with every digit as 0: what times have in common."""
    return re.sub(r"\d", "0", text.strip())


def _refuse_spaces(cells: Sequence[str], rows: list[list[str]], first: str, name: str) -> None:
    """One column of several words: cells that are divided by spaces."""
    if len(cells) > 1 or not rows or any(len(row) != 1 for row in rows):
        return
    words = [row[0].split() for row in rows]
    if {len(each) for each in words} == {len(cells[0].split())} != {1} and all(map(_is_number, chain(*words))):
        raise SourceError(
            f"{name} has cells that are divided by spaces ({shortened(first)}): write it with commas, or name the "
            "delimiter where it is a single space."
        )
