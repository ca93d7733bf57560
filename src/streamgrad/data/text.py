"""Rows from CSV, TSV and JSON lines: whole lines are cut from the bytes and parsed with PyArrow.

Files and standard input take the same path, so a live stream is read exactly as a file is: what
has come is cut at its last complete line, and the rest waits for more.
"""

from __future__ import annotations

import csv as std_csv
import io
import json
import os
import select
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from streamgrad.data.errors import SourceError, bad_number
from streamgrad.data.sources import Source

BLOCK = 1 << 16  # bytes read at a time
LONGEST = 1 << 26  # no row is longer than this; an open quote is the usual reason
PATIENCE = 0.2  # seconds for which a live source waits before it says that nothing came
MISSING = ("", "NA", "N/A", "n/a", "na", "NaN", "nan", "-nan", "null", "NULL", "None", "none", "?")


def file_source(path: Path, name: str | None = None) -> Source:
    """A text file, compressed or not (.gz, .bz2, .zst)."""
    import pyarrow as pa

    stream = pa.input_stream(str(path), compression="detect", buffer_size=0)
    packed = path.suffix in (".gz", ".bz2", ".zst", ".lz4", ".br")

    def blocks() -> Iterator[bytes]:
        while block := stream.read(BLOCK):
            yield block

    source = _sniff(name or str(path), blocks())
    source.size = None if packed else path.stat().st_size
    return source


def live_source(descriptor: int, name: str) -> Source:
    """What arrives at a file descriptor: each read returns what is there, at once."""

    def blocks() -> Iterator[bytes]:
        while True:
            ready, _, _ = select.select([descriptor], [], [], PATIENCE)
            if not ready:
                yield b""
                continue
            block = os.read(descriptor, BLOCK)
            if not block:
                return
            yield block

    return _sniff(name, blocks())


def _sniff(name: str, blocks: Iterator[bytes]) -> _Text:
    """CSV, TSV or JSON lines, by the first line."""
    first = bytearray()
    for block in blocks:
        first += block
        if b"\n" in first.lstrip() or len(first) > LONGEST:
            break
    if not first.strip():
        raise SourceError(f"{name} is empty: a header and rows, or JSON lines, were expected.")
    start = bytes(first).removeprefix(b"\xef\xbb\xbf")
    if b"\0" in start[:4096]:
        raise SourceError(
            f"{name} is not text: CSV, TSV or JSON lines were expected here (UTF-8). Parquet and "
            "Arrow files are read by their path, not from standard input."
        )
    kind = JsonLines if start.lstrip().startswith(b"{") else Delimited
    return kind(name, start, blocks)


class _Text(Source):
    """Lines of text. `size` is the number of bytes where it is known."""

    size: int | None = None

    def __init__(self, name: str, first: bytes, blocks: Iterator[bytes]):
        self.name, self._pending, self._blocks, self._read = name, first, blocks, 0

    def _lines(self, cut: Callable[[bytes], int]) -> Iterator[bytes]:
        """Blocks of complete lines; an empty one says that nothing came for a moment.

        `cut(block)` is the length of the complete lines in a block. The last line may lack its
        newline.
        """
        pending = self._pending
        if length := cut(pending):
            self._read += length
            yield pending[:length]
            pending = pending[length:]
        for block in self._blocks:
            pending += block
            length = cut(pending) if block else 0
            if not length and len(pending) > LONGEST:
                raise SourceError(
                    f"{self.name}: no end of row within {LONGEST >> 20} MB: is a quotation mark "
                    "left open, or is this not a table?"
                )
            self._read += length
            yield pending[:length]
            pending = pending[length:]
        if pending.strip():
            self._read += len(pending)
            yield pending

    def fraction(self) -> float | None:
        return None if not self.size else min(1.0, self._read / self.size)


class Delimited(_Text):
    """CSV or TSV with a header; commas, tabs or semicolons, by what the header holds."""

    def __init__(self, name: str, first: bytes, blocks: Iterator[bytes]):
        header, _, rest = first.lstrip().partition(b"\n")
        super().__init__(name, rest, blocks)
        self._read = len(first) - len(rest)
        try:
            text = header.decode()
        except UnicodeDecodeError:
            raise SourceError(f"{name}: the header is not UTF-8 text; convert the file to UTF-8.") from None
        counts = {mark: text.count(mark) for mark in ("\t", ",", ";")}
        self._delimiter = max(counts, key=lambda mark: counts[mark]) if any(counts.values()) else ","
        fields = next(std_csv.reader([text.rstrip("\r")], delimiter=self._delimiter))
        self.columns = tuple(field.strip() for field in fields)
        if len(set(self.columns)) != len(self.columns):
            twice = next(c for c in self.columns if self.columns.count(c) > 1)
            raise SourceError(f"{name}: two columns are called {twice!r}; rename one of them.")
        if all(_is_number(field) for field in self.columns):
            raise SourceError(
                f"{name} begins with numbers ({text[:60].strip()}) where the names of the columns "
                "were expected: put a header line in front."
            )

    def _cut(self, block: bytes) -> int:
        """The end of the last complete row: a newline outside quotation marks."""
        end = block.rfind(b"\n") + 1
        while end and block.count(b'"', 0, end) % 2:
            end = block.rfind(b"\n", 0, end - 1) + 1
        return end

    def _batches(self, columns: Sequence[str], start: int) -> Iterator[tuple[int, np.ndarray]]:
        row = 0
        for block in self._lines(self._cut):
            if not block.strip(b"\r\n") and (not block or len(self.columns) > 1):
                yield row, np.empty((0, len(columns)))
                continue
            if block.count(b'"') % 2:
                raise SourceError(
                    f"{self.name}: a quotation mark is left open after data row {row}: is the file "
                    "cut in the middle of a row? Close it or delete that row."
                )
            array, error = self._parse(block, columns, row)
            yield row, array
            if error is not None:
                raise error
            row += len(array)

    def _parse(self, block: bytes, columns: Sequence[str], row: int):
        """The rows of a block before the first bad one, and what is wrong with that one."""
        import pyarrow as pa

        try:
            table, ragged = self._arrow(block, columns, pa.float64())
            good, error = table.num_rows, None
        except pa.ArrowInvalid:  # find the value, for the message
            table, ragged = self._arrow(block, columns, pa.string())
            good, error = table.num_rows, None
        if ragged is not None:
            good = ragged.number - 1
            what = f"{ragged.actual_columns} values where {ragged.expected_columns} were expected"
            error = SourceError(
                f"{self.name}, data row {row + good + 1} has {what} ({ragged.text[:60]!r}): is the "
                "file cut in the middle of a row? Complete or delete that row."
            )
        out = np.empty((good, len(columns)))
        for j, name in enumerate(columns):
            column = table.column(name).slice(0, good)
            if pa.types.is_floating(column.type):
                out[:, j] = column.to_numpy()
                continue
            for i, text in enumerate(column.slice(0, len(out)).to_pylist()):
                if text is None or _is_number(text):
                    out[i, j] = np.nan if text is None else float(text)
                else:
                    out, error = out[:i], bad_number(text, row + i, name, self.name)
                    break
        return out, error

    def _arrow(self, block: bytes, columns: Sequence[str], kind: Any):
        import pyarrow.csv as csv

        ragged: list[Any] = []
        skip = lambda bad: (ragged.append(bad), "skip")[1]
        table = csv.read_csv(
            io.BytesIO(block),
            csv.ReadOptions(column_names=list(self.columns), use_threads=False, block_size=len(block) + 1),
            csv.ParseOptions(
                delimiter=self._delimiter,
                newlines_in_values=b'"' in block,
                ignore_empty_lines=len(self.columns) > 1,  # in one column it is a missing value
                invalid_row_handler=skip,
            ),
            csv.ConvertOptions(
                include_columns=list(columns),
                column_types=dict.fromkeys(columns, kind),
                null_values=list(MISSING),
                strings_can_be_null=True,
            ),
        )
        return table, (ragged[0] if ragged else None)


class JsonLines(_Text):
    """One JSON object a line. The columns are the keys of the first; an absent key is missing."""

    def __init__(self, name: str, first: bytes, blocks: Iterator[bytes]):
        super().__init__(name, first, blocks)
        line = first.lstrip().partition(b"\n")[0]
        self.columns = tuple(self._object(line, 0))

    def _object(self, line: bytes, row: int) -> dict[str, Any]:
        try:
            value = json.loads(line)
        except ValueError as error:  # also bytes that are not UTF-8
            raise SourceError(
                f"{self.name}, line {row + 1} is not JSON ({error}): is the file cut in the middle "
                "of a line? Complete or delete that line."
            ) from None
        if not isinstance(value, dict):
            raise SourceError(
                f"{self.name}, line {row + 1} is not a JSON object: "
                'lines such as {"time": 1, "value": 2.5} were expected.'
            )
        return value

    def _batches(self, columns: Sequence[str], start: int) -> Iterator[tuple[int, np.ndarray]]:
        row = 0
        for block in self._lines(lambda block: block.rfind(b"\n") + 1):
            values: list[list[float]] = []
            error: SourceError | None = None
            for line in block.splitlines():
                if not line.strip():
                    continue
                try:
                    here = self._object(line, row + len(values))
                    values.append([self._number(here, c, row + len(values)) for c in columns])
                except SourceError as caught:
                    error = caught
                    break
            yield row, np.asarray(values, float).reshape(-1, len(columns))
            if error is not None:
                raise error
            row += len(values)

    def _number(self, values: dict[str, Any], column: str, row: int) -> float:
        value = values.get(column)
        if value is None or (isinstance(value, str) and value.strip() in MISSING):
            return np.nan
        try:
            return float(value)
        except (TypeError, ValueError):
            raise bad_number(str(value), row, column, self.name) from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # Python's digit groups are not numbers in a table
