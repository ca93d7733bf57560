"""Tables from Python as sources: arrays, mappings of columns, data frames, and rows from any iterable."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from streamgrad.data.errors import SourceError, bad_number, read_once
from streamgrad.data.numbers import Numbers
from streamgrad.data.sources import Convert, Layout, Source

ROWS = 4096  # handed on at a time
PATIENCE = 0.05  # seconds for which rows of an iterator are gathered


def open_table(table: Any, layout: Layout, numbers: Numbers) -> Source:
    """What `open_source` does with a table in memory."""
    if isinstance(table, Source):
        raise SourceError(f"{table.name} is open already: read it as it is.")
    for option in ("skip_lines", "comment", "delimiter"):
        if getattr(layout, option):
            raise SourceError(f"{option} is for CSV, and a table in memory was given: leave it out.")
    kind, columns = type(table), layout.columns
    name = f"the {kind.__name__}"
    if isinstance(table, Mapping):
        _refuse_names(columns, name)
        return _mapping(table, name, numbers)
    if isinstance(table, np.ndarray):
        return _array(table, columns, "the array", numbers)
    root = (kind.__module__ or "").partition(".")[0]
    if root == "pyarrow":
        from streamgrad.data.columnar import ArrowTable

        if hasattr(table, "schema"):
            _refuse_names(columns, name)
            return ArrowTable(table, "the Arrow table", numbers)
        return _mapping({(columns or ("value",))[0]: table.to_numpy(zero_copy_only=False)}, name, numbers)
    if root in sys.modules and hasattr(table, "__array__") and root in ("jax", "jaxlib", "torch", "cupy"):
        return _array(np.asarray(table), columns, "the array", numbers)
    if isinstance(table, (str, bytes)) or not (frame := _is_frame(table)) and not isinstance(table, Iterable):
        raise SourceError(
            f"{name} is no stream of rows: a path, an array, a mapping of columns, a pandas, polars or Arrow table, or "
            "an iterable of rows was expected."
        )
    if frame:
        _refuse_names(columns, name)
        return _frame(table, name, numbers)
    return Rows(table, columns, "the rows" if iter(table) is not table else "the iterator", numbers)


def _refuse_names(columns: Any, name: str) -> None:
    if columns is not None:
        raise SourceError(f"{name} has names for its columns already: leave `columns` out, or rename them there.")


class Array(Source):
    """Rows that are in memory already: columns of equal length, each an array of any kind that holds numbers."""

    def __init__(self, name: str, columns: Sequence[str], values: Sequence[np.ndarray], numbers: Numbers | None = None):
        self.name, self.columns, self.numbers = name, tuple(columns), numbers or Numbers()
        self.rows = len(values[0]) if len(values) else 0
        self._values, self._at = values, 0

    def _batches(self, columns: Sequence[str], start: int, convert: Convert) -> Iterator[tuple[int, np.ndarray]]:
        which = [self._values[self.columns.index(column)] for column in columns]
        for values, column, number in zip(which, columns, convert):
            if number is self.numbers:
                _check_kind(values, column, self.name)
        for at in range(start, self.rows or 0, ROWS):
            self._at = at
            parts = [values[at : at + ROWS] for values in which]
            out, error = np.empty((len(parts[0]), len(parts))), None
            for k, (part, name, number) in enumerate(zip(parts, columns, convert)):
                if number is self.numbers and part.dtype.kind not in "OUSTV":
                    out[:, k] = np.ma.filled(part.astype(float), np.nan)[: len(out)]
                    continue
                values = part.tolist() if part.dtype.kind != "M" else [str(each) for each in part]
                for i, value in enumerate(values[: len(out)]):
                    try:
                        out[i, k] = _number(value, number, self.numbers)
                    except ValueError:
                        out, error = out[:i], bad_number(str(value), at + i, name, self.name)
                        break
            yield at, out
            if error is not None:
                raise error
        self._at = self.rows or 0

    def fraction(self) -> float | None:
        return self._at / max(1, self.rows or 0)


def _number(value: Any, number: Any, numbers: Numbers) -> float:
    if number is numbers:
        return numbers.of(value)
    return number("" if value is None or value != value else str(value))


def _check_kind(values: np.ndarray, column: str, where: str) -> None:
    if values.dtype.kind in "cmM" or values.ndim != 1:
        what = f"{values.dtype}" if values.ndim == 1 else f"arrays of shape {values.shape[1:]}"
        raise SourceError(
            f"{where}, column {column!r}: it holds {what}, and numbers were expected; choose another column or convert "
            "it."
        )


def _array(array: np.ndarray, columns: tuple[str, ...] | None, name: str, numbers: Numbers) -> Source:
    """An array of shape (rows,) or (rows, columns), or a structured one, whose fields are the columns."""
    if array.dtype.names is not None and array.ndim == 1:
        _refuse_names(columns, name)
        mask = np.ma.getmaskarray(array) if isinstance(array, np.ma.MaskedArray) else None
        fields = [_field(array, field, mask) for field in array.dtype.names]
        return Array(name, array.dtype.names, fields, numbers)
    if array.ndim not in (1, 2) or array.dtype.kind == "c":
        raise SourceError(
            f"{name} has shape {array.shape} and holds {array.dtype}: real numbers of shape (rows,) or (rows, columns) "
            "were expected."
        )
    if array.ndim == 1:
        array = array[:, None]
    names = columns or (("value",) if array.shape[1] == 1 else tuple(map(str, range(array.shape[1]))))
    if len(names) != array.shape[1]:
        raise SourceError(f"{name} has {array.shape[1]} columns, and {len(names)} names were given for them.")
    return Array(name, names, list(array.T), numbers)


def _field(array: np.ndarray, field: str, mask: np.ndarray | None) -> np.ndarray:
    return array[field] if mask is None else np.ma.masked_array(np.ma.getdata(array)[field], mask[field])


def _mapping(table: Mapping[Any, Any], name: str, numbers: Numbers) -> Source:
    """A mapping from names to columns of equal length."""
    values = [v if isinstance(v, np.ndarray) else _objects(v, str(k), name) for k, v in table.items()]
    lengths = {str(key): len(column) for key, column in zip(table, values)}
    if len(set(lengths.values())) > 1:
        raise SourceError(f"{name} has columns of different lengths: {lengths}.")
    return Array(name, [str(key) for key in table], values, numbers)


def _objects(values: Any, column: str, name: str) -> np.ndarray:
    if hasattr(values, "__array__") and not hasattr(values, "isna"):
        return np.asarray(values)
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise SourceError(
            f"{name}, column {column!r}: {type(values).__name__} was given, and a column of values was expected; a "
            "single row goes in a list, as [row]."
        )
    values = list(values)
    out = np.empty(len(values), object)
    out[:] = [None if type(v).__name__ in ("NAType", "NaTType") else v for v in values]
    return out


# Data frames.


def _is_frame(table: Any) -> bool:
    if not hasattr(table, "columns") and not hasattr(table, "to_list") and not hasattr(table, "__dataframe__"):
        return False
    try:
        import narwhals as nw
    except ImportError:
        raise SourceError(
            f"a {type(table).__name__} is read through the package narwhals, which is not installed: pip install "
            "'streamgrad[tables]' brings it."
        ) from None
    return isinstance(
        nw.from_native(table, pass_through=True, allow_series=True), (nw.DataFrame, nw.LazyFrame, nw.Series)
    )


def _frame(table: Any, name: str, numbers: Numbers) -> Source:
    """A frame or series of any library that Narwhals knows; its columns go through Arrow when they are read."""
    import narwhals as nw

    try:
        frame = nw.from_native(table, allow_series=True)
        if isinstance(frame, nw.LazyFrame):
            frame = frame.collect()
        if isinstance(frame, nw.Series):
            frame = frame.alias(frame.name or "value").to_frame()
    except Exception as error:
        if not hasattr(table, "columns"):
            raise
        raise SourceError(f"{name} cannot be read ({str(error).splitlines()[0]}).") from None
    return Frame(frame, name, numbers)


class Frame(Source):
    """A data frame of Narwhals."""

    def __init__(self, frame: Any, name: str, numbers: Numbers):
        self.name, self.numbers, self._frame = name, numbers, frame
        self.columns, self.rows, self._source = tuple(frame.columns), len(frame), None

    def _batches(self, columns: Sequence[str], start: int, convert: Convert) -> Iterator[tuple[int, np.ndarray]]:
        try:
            arrow = self._frame.select(list(columns)).to_arrow()
        except Exception as error:  # of any library
            raise SourceError(
                f"{self.name} cannot be read ({str(error).splitlines()[0]}): columns of numbers were expected."
            ) from None
        from streamgrad.data.columnar import ArrowTable

        self._source = ArrowTable(arrow, self.name, self.numbers)
        yield from self._source._batches(columns, start, convert)

    def fraction(self) -> float | None:
        return 0.0 if self._source is None else self._source.fraction()


# Rows, one after the other.


class Rows(Source):
    """An iterable of rows: mappings, sequences or single numbers. An iterator is read once.

    Rows are gathered for a moment, so that fast ones are learned many at a time and slow ones as they come. The columns
    are the keys of the first row, or the names that are given.
    """

    def __init__(self, rows: Iterable[Any], columns: tuple[str, ...] | None, name: str, numbers: Numbers):
        self.name, self.numbers, self._rows = name, numbers, rows
        self._once = iter(rows) is rows
        if not self._once and hasattr(rows, "__len__"):
            self.rows = len(rows)  # type: ignore[arg-type]
        first = list(islice(rows, 1))
        if not first:
            raise SourceError(f"{name} are empty: at least one row was expected to tell the columns by.")
        self._first, self._at = first if self._once else [], 0
        self._keyed = isinstance(first[0], Mapping)
        self._single = not self._keyed and (
            isinstance(first[0], (str, bytes)) or not isinstance(first[0], Iterable) or np.ndim(first[0]) == 0
        )
        if self._keyed:
            _refuse_names(columns, name)
            names: Sequence[str] = [str(key) for key in first[0]]
        elif self._single:
            names = columns or ("value",)
        else:
            named = getattr(first[0], "_fields", None)  # of a named tuple
            names = columns or named or [str(i) for i in range(len(first[0]))]
        self.columns = tuple(names)

    def check(self, columns: Iterable[str]) -> None:
        columns = list(columns)
        if self._keyed and not self._once:  # a key may first come later
            late = set(columns) - set(self.columns)
            self.columns += tuple(c for c in columns if c in late and any(c in row for row in self._rows))
        super().check(columns)

    def _batches(self, columns: Sequence[str], start: int, convert: Convert) -> Iterator[tuple[int, np.ndarray]]:
        if self._rows is None:
            raise read_once(self.name)
        rows = self._rows
        if self._once:
            self._rows = None
        which = [self.columns.index(column) for column in columns]
        row, gathered, error = 0, [], None
        began = time.monotonic()
        for part in (self._first, rows):
            for each in part:
                try:
                    gathered.append(self._row(each, columns, which, row + len(gathered), convert))
                except SourceError as bad:
                    error = bad
                if error or len(gathered) >= ROWS or time.monotonic() - began > PATIENCE:
                    self._at = row + len(gathered)
                    yield row, np.array(gathered, float).reshape(-1, len(columns))
                    if error is not None:
                        raise error
                    row, gathered, began = row + len(gathered), [], time.monotonic()
        yield row, np.array(gathered, float).reshape(-1, len(columns))

    def _row(self, each: Any, columns: Sequence[str], which: Sequence[int], row: int, convert: Convert) -> list[float]:
        if self._single:
            each = (each,)
        if isinstance(each, Mapping) != self._keyed or not isinstance(each, Iterable):
            raise SourceError(f"{self.name}, data row {row + 1}: {type(each).__name__} came, unlike the first row.")
        if self._keyed:
            cells = [each.get(column) for column in columns]
        elif len(each) != len(self.columns):  # type: ignore[arg-type]
            raise SourceError(
                f"{self.name}, data row {row + 1} has {len(each)} values where {len(self.columns)} were expected."  # type: ignore[arg-type]
            )
        else:
            cells = [each[j] for j in which]  # type: ignore[index]
        found = []
        for value, column, number in zip(cells, columns, convert):
            try:
                found.append(_number(value, number, self.numbers))
            except (TypeError, ValueError):
                raise bad_number(str(value), row, column, self.name) from None
        return found

    def fraction(self) -> float | None:
        return None if self.rows is None else self._at / max(1, self.rows)
