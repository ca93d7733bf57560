"""Rows on their way to a forecaster, and what it says on its way to a file."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ._columns import Columns, RowError

if TYPE_CHECKING:
    from ..data import Source
    from ._forecaster import Forecaster

PORTION = 256  # rows that are learned in one call


class Held(dict[str, np.ndarray]):
    """Columns of numbers as a forecaster reads them, kept to be learned from several times."""


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
    if isinstance(rows, Held):
        yield np.stack([rows[str(name)] for name in forecaster.columns.names], axis=1)
        return
    source = opened(forecaster.columns, rows)
    names = [str(name) for name in forecaster.columns.names]
    source.check(names)
    yield from source.read(names, convert=converters(forecaster.columns))


def opened(columns: Columns, rows: Any) -> Source:
    """Rows as a source. An array without names of its own has the columns' names, or theirs are its numbers."""
    from ..data import Source, open_source

    if isinstance(rows, Source):
        return rows
    if isinstance(rows, os.PathLike):
        rows = os.fspath(rows)
    names = None
    if isinstance(rows, np.ndarray) and rows.dtype.names is None and not all(isinstance(n, int) for n in columns.names):
        width = 1 if rows.ndim < 2 else rows.shape[1]
        if width != len(columns.names):
            raise RowError(
                f"the array has {width} column{'s' * (width != 1)} without names, and {len(columns.names)} were "
                f"expected ({', '.join(map(str, columns.names))}): name columns by number, as Forecaster(target=0), or "
                "give these alone."
            )
        names = [str(name) for name in columns.names]
    return open_source(rows, columns=names) if names else open_source(rows)


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
