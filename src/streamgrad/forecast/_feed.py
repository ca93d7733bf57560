"""Rows on their way to a forecaster, and what it says on its way to a file."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.errors import at_byte
from ._cells import RowError
from ._columns import Columns

if TYPE_CHECKING:
    from ..data import Source
    from ._forecaster import Forecaster

PORTION = 256  # rows that are learned in one call


class Held(dict[str, np.ndarray]):
    """Columns of numbers as a forecaster reads them, kept to be learned from several times. `source`: theirs."""

    source: Source


def portions(forecaster: Forecaster, rows: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of numbers, and what is known in advance at each of them."""
    source = rows.source if isinstance(rows, Held) else opened(forecaster.columns, rows)
    row = 0
    for part, ahead in with_ahead(forecaster, numbers(forecaster, rows if isinstance(rows, Held) else source)):
        known = ahead_of(forecaster, part) if ahead is None else ahead
        at = 0
        while at < len(part):
            end = at + in_order(forecaster, part[at : at + PORTION], source, row + at)
            yield part[at:end], known[at:end]
            at = end
        row += len(part)


def in_order(forecaster: Forecaster, rows: np.ndarray, source: Source, row: int) -> int:
    """How many of the rows go on in time. `row`: the number of the first one in its source.

    Raises `RowError` with the place in the source where already the first one goes back."""
    if forecaster.columns.time is None or not len(rows):
        return len(rows)
    if not (good := forecaster.clock.in_order(rows[:, -1])):
        raise late_row(source, row, forecaster.clock.back(rows[0, -1]))
    return good


def late_row(source: Source, row: int, what: str) -> RowError:
    """The error for a row that came too late, with its place. `row` counts from 0 and is shown from 1."""
    return RowError(f"{source.name}, data row {row + 1}: {what}{at_byte(source.byte_of(row))}")


def ahead_of(forecaster: Forecaster, rows: np.ndarray) -> np.ndarray:
    """The known columns of the row `horizon` later, for each row; NaN where that row has not come."""
    columns = forecaster.columns
    k, first = len(columns.known), len(columns.targets) + len(columns.features)
    later = rows[forecaster.horizon :, first : first + k]
    return np.concatenate([later, np.full((len(rows) - len(later), k), np.nan)])


def with_ahead(forecaster: Forecaster, batches: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Rows with the known columns of the row `horizon` later, and at the end None in their place.

    Without known columns rows pass as they come; else they wait for what comes `horizon` rows later."""
    columns, h = forecaster.columns, forecaster.horizon
    k, first = len(columns.known), len(columns.targets) + len(columns.features)
    if not k:
        yield from ((batch, np.empty((len(batch), 0))) for batch in batches)
        return
    waiting = np.empty((0, len(columns.names)))
    for batch in batches:
        waiting = np.concatenate([waiting, batch])
        while len(waiting) > h:
            n = min(PORTION, len(waiting) - h)
            yield waiting[:n], waiting[h : h + n, first : first + k]
            waiting = waiting[n:]
    if len(waiting):
        yield waiting, None


def numbers(forecaster: Forecaster, rows: Any) -> Iterator[np.ndarray]:
    """Rows of numbers in the order of the forecaster's columns, from whatever holds rows."""
    if isinstance(rows, Held):
        yield np.stack([rows[str(name)] for name in forecaster.columns.names], axis=1)
        return
    source = opened(forecaster.columns, rows)
    names = [str(name) for name in forecaster.columns.names]
    source.check(names)
    yield from source.read(names, convert=converters(forecaster.columns))


def opened(columns: Columns, rows: Any) -> Source:
    """Rows as a source. Columns without names of their own have those asked for, or theirs are their numbers."""
    from ..data import Source, open_source

    if isinstance(rows, Source):
        return rows
    if isinstance(rows, os.PathLike):
        rows = os.fspath(rows)
    source = open_source(rows)
    if source.named:
        return source
    width, names = len(source.columns), tuple(map(str, columns.names))
    if all(isinstance(name, int) for name in columns.names):
        names = tuple(map(str, range(width)))
    elif width != len(names):
        raise RowError(
            f"{source.name} {'have' if source.name == 'the rows' else 'has'} {width} column{'s' * (width != 1)} "
            f"without names, and {len(names)} were expected ({', '.join(names)}): name columns by number, as "
            "Forecaster(target=0), or give these alone."
        )
    source.columns = names
    return source


def converters(columns: Columns) -> dict[str, Callable[[str], float]]:
    """What makes numbers of the texts of categories and times, by column."""
    kinds = zip(columns.names, columns.kinds, strict=True)
    return {
        str(name): functools.partial(columns.number, kind=kind, name=name) for name, kind in kinds if kind != "number"
    }


def cell(text: Any) -> str:
    """A text as a cell of CSV, in quotes where it needs them; nothing for None."""
    text = "" if text is None else str(text)
    return '"' + text.replace('"', '""') + '"' if any(sign in text for sign in ',"\r\n') else text


def csv_header(names: Iterable[str]) -> str:
    """The first line of CSV."""
    return ",".join(map(cell, names)) + "\n"


def csv_lines(columns: Mapping[str, np.ndarray]) -> str:
    """Rows as lines of CSV: numbers in the shortest form that gives the same double, nothing for NaN and None, 0 or 1
    for truths."""
    from ..data import shortest

    texts = []
    for values in columns.values():
        if values.dtype == bool:
            texts.append(["1" if value else "0" for value in values.tolist()])
        elif values.dtype.kind == "O":
            texts.append(list(map(cell, values.tolist())))
        elif values.dtype.kind == "i":
            texts.append(list(map(str, values.tolist())))
        else:
            texts.append(list(map(shortest, values.tolist())))
    return "".join(",".join(row) + "\n" for row in zip(*texts))
