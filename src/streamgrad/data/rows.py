"""Rows from any iterable of Python: a list, a generator, a queue's iterator."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np

from streamgrad.data.errors import SourceError, bad_number, read_once
from streamgrad.data.layout import refuse_names
from streamgrad.data.numbers import Numbers
from streamgrad.data.source import Convert, Source, number_of

ROWS = 4096  # handed on at a time
PATIENCE = 0.05  # seconds for which rows are gathered


def named_row(row: Any) -> Any:
    """A row whose values have names (of a data frame, a structured array, a named tuple) as a mapping; others as they
    are."""
    if isinstance(row, tuple) and hasattr(row, "_asdict"):
        return row._asdict()  # type: ignore[attr-defined]
    return _keyed(row)


def _keyed(row: Any) -> Any:
    if isinstance(row, (float, Mapping, tuple, list)):
        return row
    if isinstance(row, np.void | np.ndarray) and row.dtype.names is not None and row.ndim == 0:
        return {name: row[name] for name in row.dtype.names}
    to_dict = getattr(row, "to_dict", None)
    return to_dict() if hasattr(row, "keys") and callable(to_dict) else row


class Rows(Source):
    """An iterable of rows: mappings, sequences or single numbers. An iterator is read once.

    Rows are gathered for a moment, so that fast ones are learned many at a time and slow ones as they come. The columns
    are the keys of the first row, or the names that are given.
    """

    def __init__(self, rows: Any, columns: tuple[str, ...] | None, name: str, numbers: Numbers):
        self.name, self.numbers = name, numbers
        self._rows: Any = rows
        self._once = iter(rows) is rows
        if not self._once and hasattr(rows, "__len__"):
            self.rows = len(rows)
        first: list[Any] = list(islice(rows, 1))
        if not first:
            raise SourceError(f"{name} are empty: at least one row was expected to tell the columns by.")
        self._first, self._at = first if self._once else [], 0
        like: Any = _keyed(first[0])
        self._keyed = isinstance(like, Mapping)
        several = isinstance(like, Iterable) and not isinstance(like, (str, bytes)) and getattr(like, "ndim", 1)
        self._single = not self._keyed and not several
        if self._keyed:
            refuse_names(columns, name)
            if odd := [key for key in like if not isinstance(key, str)]:
                raise SourceError(
                    f"{name} have the key {odd[0]!r} in the first: names of columns are text; convert it."
                )
            names: Sequence[str] = list(like)
        elif self._single:
            names, self.named = columns or ("value",), columns is not None
        else:
            named = getattr(like, "_fields", None)  # of a named tuple
            names = columns or named or [str(i) for i in range(len(like))]  # type: ignore[arg-type]
            self.named = bool(columns or named)
        self.columns = tuple(names)

    def check(self, columns: Iterable[str]) -> None:
        columns = list(columns)
        if self._keyed and not self._once:  # a key may first come later
            late = set(columns) - set(self.columns)
            self.columns += tuple(c for c in columns if c in late and any(c in row for row in self._rows))
        super().check(columns)

    def _numbers(self, columns: Sequence[str], start: int, convert: Convert) -> Iterator[tuple[int, np.ndarray]]:
        if self._rows is None:
            raise read_once(self.name)
        rows = self._rows
        if self._once:
            self._rows = None
        which = [self.columns.index(column) for column in columns]
        row, gathered, error = 0, [], None
        iterator, began = chain(self._first, rows), time.monotonic()
        while True:
            try:
                gathered.append(self._row(next(iterator), columns, which, row + len(gathered), convert))
            except Exception as found:  # of whoever makes the rows, too: those before it come first
                error = found
            if error is not None or len(gathered) >= ROWS or time.monotonic() - began > PATIENCE:
                self._at = row + len(gathered)
                yield row, np.array(gathered, float).reshape(-1, len(columns))
                if isinstance(error, StopIteration):
                    return
                if error is not None:
                    raise error
                row, gathered, began = self._at, [], time.monotonic()

    def _row(self, row: Any, columns: Sequence[str], which: Sequence[int], at: int, convert: Convert) -> list[float]:
        each: Any = (row,) if self._single else _keyed(row)
        if isinstance(each, Mapping) != self._keyed or not hasattr(each, "__len__"):
            raise SourceError(f"{self.name}, data row {at + 1}: {type(each).__name__} came, unlike the first row.")
        if self._keyed:
            cells = [each.get(column) for column in columns]
        elif len(each) != len(self.columns):
            raise SourceError(
                f"{self.name}, data row {at + 1} has {len(each)} values where {len(self.columns)} were expected."
            )
        else:
            cells = [each[j] for j in which]
        found = []
        for value, column, number in zip(cells, columns, convert):
            try:
                found.append(number_of(value, number, self.numbers))
            except (TypeError, ValueError) as why:
                raise bad_number(str(value), at, column, self.name, why=why) from None
        return found

    def fraction(self) -> float | None:
        return None if self.rows is None else self._at / max(1, self.rows)
