"""Rows from Parquet and Arrow (Feather) files, a part of the file at a time."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamgrad.data.errors import SourceError, bad_number
from streamgrad.data.sources import Source

ROWS = 8192  # handed on at a time


class _Columnar(Source):
    def __init__(self, path: Path):
        self.name = str(path)
        try:
            self._open(path)
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise SourceError(
                f"{path} cannot be read ({reason}): it seems to be damaged or cut; write it again."
            ) from None

    @abc.abstractmethod
    def _open(self, path: Path) -> None:
        """Open the file and read its schema."""

    def _check_types(self, schema: Any, columns: Sequence[str]) -> None:
        for column in columns:
            kind = schema.field(column).type
            if pa.types.is_dictionary(kind):
                kind = kind.value_type
            number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
            number = number or pa.types.is_boolean(kind) or pa.types.is_decimal(kind)
            text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
            if not (number or text or pa.types.is_null(kind)):
                raise SourceError(
                    f"{self.name}, column {column!r}: it holds {kind}, and numbers were expected; "
                    "choose another column or convert it."
                )

    def _array(self, batch: Any, columns: Sequence[str], row: int) -> tuple[np.ndarray, Any]:
        """One batch as float64 (rows, columns), cut before the first bad value, and its error."""
        out = np.empty((batch.num_rows, len(columns)))
        error, good = None, batch.num_rows
        for j, name in enumerate(columns):
            column = batch.column(name)
            try:
                out[:, j] = _floats(column)
            except pa.ArrowInvalid:
                for i, value in enumerate(column.to_pylist()):
                    if i >= good:
                        break
                    try:
                        out[i, j] = np.nan if value in (None, "") else float(value)
                    except ValueError:
                        good, error = i, bad_number(str(value), row + i, name, self.name)
                        break
        return out[:good], error

    def _rows(self, batches: Iterator[Any], columns: Sequence[str], row: int):
        try:
            for batch in batches:
                array, error = self._array(batch, columns, row)
                yield row, array
                if error is not None:
                    raise error
                row += len(array)
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise SourceError(
                f"{self.name} cannot be read beyond data row {row} ({reason}): it seems to be damaged; write it again."
            ) from None


def _floats(column: Any) -> np.ndarray:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False)  # null becomes NaN


class ParquetSource(_Columnar):
    """A Parquet file, read row group by row group."""

    def _open(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self._file = pq.ParquetFile(path, memory_map=True, pre_buffer=False)
        self.columns = tuple(self._file.schema_arrow.names)
        self.rows = self._file.metadata.num_rows
        self._at = 0

    def _batches(self, columns: Sequence[str], start: int) -> Iterator[tuple[int, np.ndarray]]:
        self._check_types(self._file.schema_arrow, columns)
        metadata, first, groups = self._file.metadata, 0, []
        for group in range(metadata.num_row_groups):  # groups that end before `start` are skipped
            rows = metadata.row_group(group).num_rows
            if groups or first + rows > start:
                groups.append(group)
            else:
                first += rows
        batches = self._file.iter_batches(ROWS, groups, list(columns), use_threads=False)
        for row, array in self._rows(batches, columns, first):
            self._at = row
            yield row, array

    def fraction(self) -> float | None:
        return self._at / max(1, self.rows or 0)


class ArrowSource(_Columnar):
    """An Arrow file or stream; Feather version 2 is the same."""

    def _open(self, path: Path) -> None:
        self._bytes = pa.memory_map(str(path))
        try:
            self._reader = pa.ipc.open_file(self._bytes)
        except pa.ArrowInvalid:
            self._bytes.seek(0)
            self._reader = pa.ipc.open_stream(self._bytes)
        self.columns = tuple(self._reader.schema.names)
        self._fraction = 0.0

    def _batches(self, columns: Sequence[str], start: int) -> Iterator[tuple[int, np.ndarray]]:
        self._check_types(self._reader.schema, columns)
        parts = (b.slice(i, ROWS) for b in self._record_batches() for i in range(0, len(b), ROWS))
        yield from self._rows(parts, columns, 0)

    def _record_batches(self) -> Iterator[Any]:
        if hasattr(self._reader, "num_record_batches"):
            number = self._reader.num_record_batches
            for i in range(number):
                self._fraction = i / number
                yield self._reader.get_batch(i)
        else:
            for batch in self._reader:
                self._fraction = self._bytes.tell() / max(1, self._bytes.size())
                yield batch

    def fraction(self) -> float | None:
        return self._fraction
