"""Tables from Python as sources: arrays, mappings of columns and data frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np

from streamgrad.data.errors import SourceError
from streamgrad.data.layout import Layout, refuse_names
from streamgrad.data.numbers import Numbers
from streamgrad.data.source import Convert, Source

ROWS = 4096  # handed on at a time


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
        refuse_names(columns, name)
        return _mapping(table, name, numbers)
    if isinstance(table, np.ndarray):
        return _array(table, columns, "the array", numbers)
    root = (kind.__module__ or "").partition(".")[0]
    if root == "pyarrow":
        from streamgrad.data.columnar import ArrowTable

        if hasattr(table, "schema"):
            refuse_names(columns, name)
            return ArrowTable(table, "the Arrow table", numbers)
        values = table.to_numpy(zero_copy_only=False)
        return Array(name, columns or ("value",), [values], numbers, named=columns is not None)
    if hasattr(table, "__array__") and root in ("jax", "jaxlib", "torch", "cupy", "numpy"):
        return _array(np.asarray(table), columns, "the array", numbers)
    if isinstance(table, Set):
        raise SourceError(f"{name} has no order, and rows in turn were expected: give a list.")
    frame = _is_frame(table)
    if isinstance(table, (str, bytes)) or not (frame or isinstance(table, Iterable)):
        raise SourceError(
            f"{name} is no stream of rows: a path, an array, a mapping of columns, a pandas, polars or Arrow table, or "
            "an iterable of rows was expected."
        )
    if frame:
        refuse_names(columns, name)
        return _frame(table, name, numbers)
    from streamgrad.data.rows import Rows

    return Rows(table, columns, "the rows" if iter(table) is not table else "the iterator", numbers)


class Array(Source):
    """Rows that are in memory already: columns of equal length, each an array of any kind that holds numbers."""

    def __init__(
        self,
        name: str,
        columns: Sequence[str],
        values: Sequence[np.ndarray],
        numbers: Numbers | None = None,
        named: bool = True,
    ):
        self.name, self.columns, self.numbers, self.named = name, tuple(columns), numbers or Numbers(), named
        self.rows = len(values[0]) if len(values) else 0
        self._values, self._at = values, 0

    def _numbers(self, columns: Sequence[str], start: int, convert: Convert) -> Iterator[tuple[int, np.ndarray]]:
        which = [self._values[self.columns.index(column)] for column in columns]
        for values, column, number in zip(which, columns, convert):
            if number is self.numbers:
                _check_kind(values, column, self.name)
        for at in range(start, self.rows or 0, ROWS):
            self._at = at
            out, error = self._converted([values[at : at + ROWS] for values in which], columns, at, convert)
            yield at, out
            if error is not None:
                raise error
        self._at = self.rows or 0

    def fraction(self) -> float | None:
        return self._at / max(1, self.rows or 0)


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
        refuse_names(columns, name)
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
    if not names:
        raise SourceError(f"{name} has shape {array.shape}: at least one column was expected.")
    if len(names) != array.shape[1]:
        raise SourceError(f"{name} has {array.shape[1]} columns, and {len(names)} names were given for them.")
    return Array(name, names, list(array.T), numbers, named=columns is not None)


def _field(array: np.ndarray, field: str, mask: np.ndarray | None) -> np.ndarray:
    return array[field] if mask is None else np.ma.masked_array(np.ma.getdata(array)[field], mask[field])


def _mapping(table: Mapping[Any, Any], name: str, numbers: Numbers) -> Source:
    """A mapping from names to columns of equal length."""
    if not table:
        raise SourceError(f"{name} is empty: names of columns, each with its values, were expected.")
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
    try:
        known = nw.from_native(table, pass_through=True, allow_series=True)
    except Exception:  # a frame, though one that cannot be read: `_frame` says why
        return True
    return isinstance(known, (nw.DataFrame, nw.LazyFrame, nw.Series))


def _frame(table: Any, name: str, numbers: Numbers) -> Source:
    """A frame or series of any library that Narwhals knows; its columns go through Arrow when they are read."""
    import narwhals as nw

    try:
        frame = nw.from_native(table, allow_series=True)
        if isinstance(frame, nw.LazyFrame):
            frame = frame.collect()
        if isinstance(frame, nw.Series):
            named = bool(frame.name)
            frame = frame.alias(str(frame.name) if named else "value").to_frame()
            return Frame(frame, name, numbers, named=named)
        return Frame(frame, name, numbers)
    except Exception as error:  # of any library
        raise SourceError(f"{name} cannot be read ({' '.join(str(error).split())}): change it there.") from None


class Frame(Source):
    """A data frame of Narwhals. Names of its columns that are no texts are known by their texts."""

    def __init__(self, frame: Any, name: str, numbers: Numbers, named: bool = True):
        self.name, self.numbers, self._frame, self.named = name, numbers, frame, named
        self.columns, self.rows, self._source = tuple(map(str, frame.columns)), len(frame), None

    def check(self, columns: Iterable[str]) -> None:
        import narwhals as nw

        index = nw.maybe_get_index(self._frame)
        lacking = set(columns) - set(self.columns)
        if index is not None and lacking & set(map(str, index.names)):
            raise SourceError(
                f"{self.name} has {sorted(lacking)[0]!r} as its index, and a column was expected: reset_index() makes "
                "it one."
            )
        super().check(columns)

    def _numbers(self, columns: Sequence[str], start: int, convert: Convert) -> Iterator[tuple[int, np.ndarray]]:
        from streamgrad.data.columnar import ArrowTable

        places = [self.columns.index(name) for name in columns]
        frame = self._frame[:, places].rename({self._frame.columns[k]: self.columns[k] for k in places})
        try:
            self._source = ArrowTable(frame.to_arrow(), self.name, self.numbers)
        except Exception:  # what Arrow does not hold: foreign byte order, mixed types
            self._source = Array(self.name, columns, [frame[name].to_numpy() for name in columns], self.numbers)
        yield from self._source._numbers(columns, start, convert)

    def fraction(self) -> float | None:
        return 0.0 if self._source is None else self._source.fraction()
