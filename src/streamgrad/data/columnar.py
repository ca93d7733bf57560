"""Rows from Parquet and Arrow (Feather) files, a part of the file at a time."""

from __future__ import annotations

import abc
import decimal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamgrad.data.errors import SourceError, bad_number, read_once
from streamgrad.data.numbers import Numbers
from streamgrad.data.source import Convert, Source

ROWS = 8192  # handed on at a time
_ERRORS = (pa.ArrowException, OSError, ValueError, OverflowError, decimal.DecimalException)


class Columnar(Source, abc.ABC):
    """Record batches of Arrow, whatever they come from."""

    schema: pa.Schema

    @abc.abstractmethod
    def _record_batches(self, columns: Sequence[str], start: int) -> Iterator[tuple[int, Any]]:
        """Pairs of the first row's number and a record batch that has the columns."""

    def _numbers(self, columns: Sequence[str], start: int, convert: Convert) -> Iterator[tuple[int, np.ndarray]]:
        for column, number in zip(columns, convert):
            if number is self.numbers:
                check_type(self.schema.field(column).type, column, self.name)
        row = 0
        try:
            for row, batch in self._record_batches(columns, start):
                array, error = self._array(batch, columns, row, convert)
                row += len(array)
                yield row - len(array), array
                if error is not None:
                    raise error
        except SourceError:
            raise
        except _ERRORS as error:
            raise SourceError(
                f"{self.name} cannot be read beyond data row {row} ({_reason(error)}): it seems to be damaged; write "
                "it again."
            ) from None

    def _array(
        self, batch: Any, columns: Sequence[str], row: int, convert: Convert
    ) -> tuple[np.ndarray, SourceError | None]:
        """One batch as float64 (rows, columns), cut before the first bad value, and its error."""
        out = np.empty((batch.num_rows, len(columns)))
        error, good = None, batch.num_rows
        for j, (name, number) in enumerate(zip(columns, convert)):
            column = batch.column(batch.schema.get_field_index(name))
            plain = number is self.numbers
            if plain and (floats := _floats(column)) is not None:
                out[:, j] = floats
                continue
            for i, value in enumerate(column.to_pylist()[:good]):
                try:
                    out[i, j] = self.numbers.of(value) if plain else number("" if value is None else str(value))
                except ValueError as why:
                    good, error = i, bad_number(str(value), row + i, name, self.name, why=why)
                    break
        return out[:good], error


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def check_type(kind: Any, column: str, where: str) -> None:
    """Raise `SourceError` for a type of Arrow that holds neither numbers nor text."""
    named = kind
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if not (number or pa.types.is_decimal(kind) or pa.types.is_null(kind) or _is_text(kind)):
        raise SourceError(
            f"{where}, column {column!r}: it holds {named}, and numbers were expected; "
            "choose another column or convert it."
        )


def _is_text(kind: Any) -> bool:
    view = getattr(pa.types, "is_string_view", lambda kind: False)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or view(kind)


def _floats(column: Any) -> np.ndarray | None:
    """The column as float64, null as NaN; None where each value has to be looked at by itself."""
    kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        return None
    # Integers beyond 2^53 are rounded, as text is.
    return pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False)


class _File(Columnar):
    def __init__(self, path: Path, numbers: Numbers):
        self.name, self.numbers, self._path = str(path), numbers, path
        try:
            self._open()
        except _ERRORS as error:
            raise SourceError(
                f"{path} cannot be read ({_reason(error)}): it seems to be damaged or cut; write it again."
            ) from None
        self.columns = tuple(self.schema.names)

    @abc.abstractmethod
    def _open(self) -> None:
        """Open the file and read its schema."""


class ParquetSource(_File):
    """A Parquet file, read row group by row group."""

    def _open(self) -> None:
        import pyarrow.parquet as pq

        self._file = pq.ParquetFile(self._path, memory_map=True, pre_buffer=False, page_checksum_verification=True)
        self.schema = self._file.schema_arrow
        self.rows = self._file.metadata.num_rows
        self._at = 0

    def _record_batches(self, columns: Sequence[str], start: int) -> Iterator[tuple[int, Any]]:
        metadata, row, groups = self._file.metadata, 0, []
        for group in range(metadata.num_row_groups):  # groups that end before `start` are skipped
            rows = metadata.row_group(group).num_rows
            if groups or row + rows > start:
                groups.append(group)
            else:
                row += rows
        for batch in self._file.iter_batches(ROWS, groups, list(columns), use_threads=False):
            self._at = row
            yield row, batch
            row += batch.num_rows

    def fraction(self) -> float | None:
        return self._at / max(1, self.rows or 0)


class ArrowSource(_File):
    """An Arrow file or stream; Feather version 2 is the same."""

    def _open(self) -> None:
        self._fraction, self._again = 0.0, self._reader()
        self.schema = self._again[1].schema

    def _reader(self) -> tuple[Any, Any]:
        file = pa.memory_map(str(self._path))
        try:
            return file, pa.ipc.open_file(file)
        except pa.ArrowInvalid:
            file.seek(0)
            return file, pa.ipc.open_stream(file)

    def _record_batches(self, columns: Sequence[str], start: int) -> Iterator[tuple[int, Any]]:
        file, reader = self._reader()  # anew: a stream is read once
        if reader.schema != self.schema:
            raise SourceError(f"{self.name} has changed since it was opened: its columns are others. Open it anew.")
        row = 0
        for batch in self._all(file, reader):
            for i in range(0, len(batch), ROWS):
                part = batch.slice(i, ROWS)
                yield row, part
                row += len(part)

    def _all(self, file: Any, reader: Any) -> Iterator[Any]:
        if hasattr(reader, "num_record_batches"):
            number = reader.num_record_batches
            for i in range(number):
                self._fraction = i / number
                yield reader.get_batch(i)
        else:
            for batch in reader:
                self._fraction = file.tell() / max(1, file.size())
                yield batch

    def fraction(self) -> float | None:
        return self._fraction


class ArrowTable(Columnar):
    """A table of Arrow in memory, or a reader of record batches, which is read once."""

    def __init__(self, table: Any, name: str, numbers: Numbers):
        self.name, self.numbers, self.schema, self._table = name, numbers, table.schema, table
        self.columns = tuple(self.schema.names)
        self._once = not hasattr(table, "num_rows")
        self.rows = None if self._once else table.num_rows
        self._at = 0

    def _record_batches(self, columns: Sequence[str], start: int) -> Iterator[tuple[int, Any]]:
        if self._table is None:
            raise read_once(self.name)
        table = self._table
        if self._once:
            self._table = None
        row = 0
        for batch in table if self._once else pa.Table.to_batches(_as_table(table).select(list(columns))):
            for i in range(0, len(batch), ROWS):
                self._at, part = row, batch.slice(i, ROWS)
                yield row, part
                row += len(part)

    def fraction(self) -> float | None:
        return None if self.rows is None else self._at / max(1, self.rows)


def _as_table(table: Any) -> Any:
    return pa.Table.from_batches([table]) if isinstance(table, pa.RecordBatch) else table
