"""What every stream of rows is: arrays of float64 with one column per name asked for, NaN where a value is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, final

import numpy as np

from streamgrad.data.errors import LARGEST, SourceError, bad_number, read_once, same_name, too_large, unknown_column
from streamgrad.data.layout import check_columns
from streamgrad.data.numbers import Numbers

#: For each column asked for, what makes a float of a cell's text; it raises `ValueError` for what it cannot.
Convert = Sequence[Callable[[str], float]]


class Source:
    """A stream of rows, to be read and to be subclassed.

    A source of one's own defines `batches`, and gives its name and its columns to `super().__init__`:

        class Sensor(sg.data.Source):
            def __init__(self, device):
                super().__init__("the sensor", ["when", "temperature"])
                self.device = device

            def batches(self, columns):
                for reading in self.device:
                    yield [[reading[column] for column in columns]]

    Whatever reads streams takes it: `sg.forecast.Forecaster.run`, `sg.forecast.backtest`, `sg.forecast.Record` and
    `sg.fleet.Record`.

    **Arguments:**

    - `name`: of the source, for messages.
    - `columns`: names that can be asked for.
    - `rows`: how many rows there are, where that is known; None: it is live, or not known.
    - `missing`: values that mean missing, beside None, NaN and the usual spellings.
    - `once`: whether the rows can be read only once; a second reading is then refused.

    `place`, while the source is read, is the number of rows handed out and the byte after the last of them, where the
    format has such places: `read(..., place=)` goes on there when the file has grown. `unfinished` says that the newest
    row was the last line of the text and had no end: in a file that grows, it may have been cut. It lies behind
    `place`. `named` is false where nobody gave the columns their names. `note`: what is odd about the names.

    Raises `SourceError` for names that are none.
    """

    name: str = "the source"
    columns: tuple[str, ...] = ()
    rows: int | None = None
    numbers: Numbers = Numbers()
    named: bool = True
    note: str = ""
    once: bool = False
    place: tuple[int, int] | None = None
    unfinished: bool = False
    _begun = False

    def __init__(
        self,
        name: str,
        columns: Sequence[str],
        *,
        rows: int | None = None,
        missing: Iterable[Any] = (),
        once: bool = False,
    ):
        check_columns(f"{name}: columns", columns)
        self.name, self.columns, self.rows, self.once = name, tuple(columns), rows, once
        self.numbers = Numbers(missing)

    def batches(self, columns: Sequence[str]) -> Iterable[Any]:
        """Define this: all rows from the first on, a few at a time, with the cells of these columns in this order.

        A batch has the shape (rows, len(columns)): an array, or a list of rows. Cells are numbers, texts, dates; None
        and NaN are missing. A batch as soon as its rows are there: each is learned from at once. A live source yields
        an empty list when nothing has come for a moment, so that a run can be stopped meanwhile.

        Each call begins anew at the first row; where that cannot be, give `once=True` to `super().__init__`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no rows: a subclass of streamgrad.data.Source defines batches(self, columns), "
            "which yields lists of rows with the cells of these columns."
        )

    def fraction(self) -> float | None:
        """How much of the source was read: 0 to 1, or None where its size is not known."""
        return None

    def byte_of(self, row: int) -> int | None:
        """The byte of the file at which a row begins that `read` handed out; None where there are no bytes."""
        return None

    def check(self, columns: Iterable[str]) -> None:
        """Raise `SourceError` for a column that is not there, or that has a namesake."""
        for column in columns:
            if column not in self.columns:
                raise unknown_column(column, self.columns, self.name, self.note)
            if self.columns.count(column) > 1:
                raise same_name(column, self.name)

    @final
    def read(
        self,
        columns: Sequence[str],
        start: int = 0,
        *,
        place: tuple[int, int] | None = None,
        convert: Mapping[str, Callable[[str], float]] | None = None,
    ) -> Iterator[np.ndarray]:
        """The rows from `start` on, as float64 arrays of shape (rows, len(columns)).

        A live source yields an empty array when nothing has come for a moment. Good rows before a bad one are yielded
        first; then `SourceError` names the row, the column and the byte. A second call reads the same rows anew, or
        raises where they are gone.

        **Arguments:**

        - `columns`: names, in the order wanted.
        - `start`: rows left out at the beginning.
        - `place`: what `self.place` was after some rows; begins there, without a look at what lies before.
        - `convert`: for a column that holds no numbers (times, categories), the function from a cell's text to a
          float; it raises `ValueError` for what it cannot convert.
        """
        check_columns("columns", columns)
        if not columns:
            raise SourceError(f"{self.name}: at least one column was expected; it has {', '.join(self.columns[:20])}.")
        if isinstance(start, bool) or not isinstance(start, int | np.integer) or start < 0:
            raise SourceError(f"start must be a whole number of at least 0 rows, got {start!r}.")
        self.check(columns)
        if place is not None:
            if not isinstance(place, tuple | list) or [*map(type, place)] != [int, int]:
                raise SourceError(f"place must be a pair (row, byte), as `Source.place` is, got {place!r}.")
            self._begin_at((place[0], place[1]))
            start = max(start, place[0])
        each = [(convert or {}).get(column, self.numbers) for column in columns]
        end = self.rows or 0
        for first, batch in self._numbers(columns, start, each):
            end = max(end, first + len(batch))
            batch = self.numbers.without(batch[max(0, start - first) :])
            bad = np.abs(batch) > LARGEST  # a missing value is NaN, and that is no larger
            if bad.any():
                row, column = (int(i) for i in np.argwhere(bad)[0])
                at = max(first, start) + row
                yield batch[:row]
                raise too_large(batch[row, column], at, columns[column], self.name, self.byte_of(at))
            yield batch
        if end < start:
            raise SourceError(
                f"{self.name} ends before data row {start}, where reading was to begin: it has {end} rows, so it is "
                "another or a shortened stream."
            )

    # What the sources here do in ways of their own.

    def _begin_at(self, place: tuple[int, int]) -> None:
        raise SourceError(f"{self.name} has no places to go on from: name the row to start at instead.")

    def _numbers(self, columns: Sequence[str], start: int, convert: Convert) -> Iterator[tuple[int, np.ndarray]]:
        """Pairs of the first row's number and a float64 array (rows, columns).

        May begin before `start` where seeking is not worth its while.
        """
        if self.once and self._begun:
            raise read_once(self.name)
        self._begun, row = True, 0
        for cells in self.batches(columns):
            array, error = self._converted(list(self._shaped(cells, columns, row).T), columns, row, convert)
            yield row, array
            if error is not None:
                raise error
            row += len(array)

    def _shaped(self, cells: Any, columns: Sequence[str], row: int) -> np.ndarray:
        """A batch as an array of shape (rows, columns). Raises `SourceError` for another shape."""
        try:
            table = np.asanyarray(cells if hasattr(cells, "__array__") else np.array(list(cells), object))
        except (TypeError, ValueError):
            table: np.ndarray = np.empty(0)
            shape = f"{type(cells).__name__} whose rows are not alike"
        else:
            if not table.size and (table.ndim < 2 or not len(table)):
                return np.empty((0, len(columns)))
            shape = f"shape {table.shape}"
        if table.ndim != 2 or table.shape[1] != len(columns):
            raise SourceError(
                f"{self.name}: the batch after {row} rows has {shape}, and (rows, {len(columns)}) was expected, a cell "
                f"for each of {', '.join(columns)}."
            )
        return table

    def _converted(
        self, cells: Sequence[np.ndarray], columns: Sequence[str], row: int, convert: Convert
    ) -> tuple[np.ndarray, SourceError | None]:
        """Columns of cells as float64 (rows, columns), cut before the first bad cell, and its error. `row`: the number
        of the first."""
        out, error = np.empty((len(cells[0]), len(cells))), None
        for k, (column, name, number) in enumerate(zip(cells, columns, convert)):
            if number is self.numbers and column.dtype.kind in "biuf":
                out[:, k] = np.ma.filled(column.astype(float), np.nan)[: len(out)]
                continue
            values = column.tolist() if column.dtype.kind != "M" else [str(each) for each in column]
            for i, value in enumerate(values[: len(out)]):
                try:
                    out[i, k] = number_of(value, number, self.numbers)
                except (TypeError, ValueError) as why:
                    out, error = out[:i], bad_number(str(value), row + i, name, self.name, why=why)
                    break
        return out, error


def number_of(value: Any, number: Any, numbers: Numbers) -> float:
    """The float for a Python value, by the rule for numbers or by what the user gave for the column."""
    if number is numbers:
        return numbers.of(value)
    return number("" if value is None or value != value else str(value))
