"""Rows on their way to a forecaster, and what it says on its way to a file."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ._columns import Columns, RowError, number

if TYPE_CHECKING:
    from ._forecaster import Forecaster

PORTION = 256  # rows that are learned in one call


def portions(forecaster: Forecaster, rows: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of numbers, and what is known in advance at each of them."""
    return with_ahead(forecaster, numbers(forecaster, rows))


def with_ahead(forecaster: Forecaster, batches: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows with the known columns of the row `horizon` later; the last rows of a stream have none.

    Without known columns rows pass as they come; else they wait for what comes `horizon` rows later."""
    columns, h = forecaster.columns, forecaster.horizon
    k, first = len(columns.known), len(columns.targets) + len(columns.features)
    if not k:
        for batch in batches:
            for at in range(0, len(batch), PORTION):
                part = batch[at : at + PORTION]
                yield part, np.empty((len(part), 0))
        return
    waiting = np.empty((0, len(columns.names)))
    for batch in batches:
        waiting = np.concatenate([waiting, batch])
        while len(waiting) > h:
            n = min(PORTION, len(waiting) - h)
            yield waiting[:n], waiting[h : h + n, first : first + k]
            waiting = waiting[n:]
    for at in range(0, len(waiting), PORTION):
        part = waiting[at : at + PORTION]
        later = waiting[at + h : at + h + len(part), first : first + k]
        rest = np.full((len(part) - len(later), k), np.nan)
        yield part, np.concatenate([later, rest])


def numbers(forecaster: Forecaster, rows: Any) -> Iterator[np.ndarray]:
    """Rows of numbers in the order of the forecaster's columns, from whatever holds rows."""
    columns = forecaster.columns
    if isinstance(rows, str | os.PathLike):
        from ..data import open_source

        rows = open_source(os.fspath(rows))
    if hasattr(rows, "read") and hasattr(rows, "columns"):  # a source
        convert = converters(columns)
        yield from rows.read(columns.names, **({"convert": convert} if convert else {}))
        return
    if isinstance(rows, np.ndarray) and rows.dtype.names is None:
        yield _array(forecaster, rows)
        return
    if isinstance(rows, Mapping):
        rows = _mapping(rows, columns.names)
    gathered: list[list[float]] = []
    for row in rows:
        gathered.append(columns.row(row))
        if len(gathered) == PORTION:
            yield np.array(gathered)
            gathered = []
    if gathered:
        yield np.array(gathered)


def converters(columns: Columns) -> dict[Any, Callable[[str], float]]:
    """What makes numbers of the texts of categories and times, by column."""
    kinds = zip(columns.names, columns.kinds, strict=True)
    return {name: functools.partial(number, kind=kind, name=name) for name, kind in kinds if kind != "number"}


def _mapping(table: Mapping[Any, Any], names: tuple) -> Iterator[dict[Any, Any]]:
    """The rows of a mapping from names to columns."""
    if lacking := [name for name in names if name not in table]:
        raise RowError(f"there is no column {lacking[0]!r}; there are {', '.join(map(repr, list(table)[:10]))}.")
    columns = [table[name] for name in names]
    if len({len(column) for column in columns}) > 1:
        raise RowError(f"the columns have different lengths: {', '.join(str(len(c)) for c in columns)}.")
    return (dict(zip(names, row)) for row in zip(*columns))


def _array(forecaster: Forecaster, rows: np.ndarray) -> np.ndarray:
    """A two-dimensional array whose columns are known by number, or of which there are as many as names."""
    names = forecaster.columns.names
    if np.ma.isMaskedArray(rows):
        rows = np.ma.filled(rows.astype(float), np.nan)  # type: ignore[attr-defined]
    if rows.ndim == 1:
        rows = rows[:, None]
    if rows.ndim != 2 or rows.dtype.kind not in "fiub":
        raise RowError(
            f"an array of shape {rows.shape} and type {rows.dtype} cannot be learned from: numbers of shape "
            "(rows, columns) were expected."
        )
    if all(isinstance(name, int) for name in names):
        if (most := max(map(int, names))) >= rows.shape[1]:
            raise RowError(f"there is no column {most}: the array has {rows.shape[1]} columns, from 0 on.")
        rows = np.take(rows, np.array(names, int), axis=1)
    elif rows.shape[1] != len(names):
        raise RowError(
            f"the array has {rows.shape[1]} columns without names, and {len(names)} were expected "
            f"({', '.join(map(str, names))}): name columns by number, as Forecaster(target=0), or give these alone."
        )
    rows = rows.astype(float)
    if (bad := abs(rows) > 1e100).any():
        row, column = np.argwhere(bad)[0].tolist()
        raise RowError(f"row {row}, column {names[column]!r}: {rows[row, column]} is infinite or too large to learn.")
    return rows


def csv_lines(columns: Mapping[str, np.ndarray]) -> str:
    """Rows as lines of CSV: numbers in the shortest form that gives the same double, nothing for NaN, 0 or 1 for
    truths."""
    texts = []
    for values in columns.values():
        if values.dtype == bool:
            texts.append(["1" if value else "0" for value in values.tolist()])
        elif values.dtype.kind == "i":
            texts.append(list(map(str, values.tolist())))
        else:
            texts.append(["" if value != value else _shortest(value) for value in values.tolist()])
    return "".join(",".join(row) + "\n" for row in zip(*texts))


def _shortest(value: float) -> str:
    return repr(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
