"""Columns of a row as numbers: what is given, what is known in advance, categories, and the calendar.

A row of numbers has the targets, the features, the columns that are known in advance, the categories (each a bucket,
which its text decides for ever) and the time in seconds. `Columns.expanded` makes of it what an encoder sees: known
columns twice, now and `horizon` rows ahead; a 0 or 1 for each bucket of a category; and sine and cosine of the day, of
the week and of the year at the time of the forecast's row.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from ..data.errors import LARGEST
from ..data.rows import named_row
from ._cells import BUCKETS, Classes, RowError, bucket, number
from ._clock import DAY, seconds

CALENDAR = (DAY, 7 * DAY, 365.2425 * DAY)  # seconds


@dataclasses.dataclass(frozen=True)
class Columns:
    """Names of columns by their part."""

    targets: tuple[str | int, ...]
    features: tuple[str | int, ...] = ()
    known: tuple[str | int, ...] = ()
    categorical: tuple[str | int, ...] = ()
    time: str | int | None = None
    outcome: str = "number"  # of the targets
    classes: Classes = dataclasses.field(default_factory=lambda: Classes(), compare=False, repr=False)

    def __post_init__(self):
        names = self.names
        if not self.targets:
            raise ValueError("target: at least one column is to be forecast.")
        if odd := [name for name in names if isinstance(name, bool) or not isinstance(name, str | int)]:
            raise ValueError(f"columns are named by texts, or of arrays by numbers, got {odd[0]!r}.")
        if "" in names and self.targets[0] == "":
            raise ValueError("target: the name of a column was expected, got ''.")
        texts = [str(name) for name in names]
        if double := sorted({name for name in texts if texts.count(name) > 1}):
            raise ValueError(
                f"column {double[0]!r} is named twice: a column is a target, a feature, known in advance, categorical "
                "or the time, and one of these only."
            )

    @property
    def names(self) -> tuple[str | int, ...]:
        """All of them, in the order of a row of numbers."""
        time = () if self.time is None else (self.time,)
        return (*self.targets, *self.features, *self.known, *self.categorical, *time)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each column: "number", "class", "count", "event", "category" or "time"."""
        numbers, targets = len(self.features) + len(self.known), [self.outcome] * len(self.targets)
        times = () if self.time is None else ("time",)
        return (*targets, *["number"] * numbers, *["category"] * len(self.categorical), *times)

    @property
    def size(self) -> int:
        """Columns that an encoder sees."""
        numbers = len(self.targets) + len(self.features) + 2 * len(self.known)
        return numbers + BUCKETS * len(self.categorical) + (2 * len(CALENDAR) if self.time is not None else 0)

    @property
    def none(self) -> np.ndarray:
        """No rows of numbers."""
        return np.empty((0, len(self.names)))

    def checked(self, rows: Any) -> Float[np.ndarray, "n names"]:
        """Rows of numbers. Raises `ValueError` for another shape, for texts, and for what is infinite or too large."""
        try:
            rows = np.asarray(rows, float)
        except (TypeError, ValueError):
            raise ValueError(
                f"rows must be numbers, NaN where missing, in the order {', '.join(map(str, self.names))}: texts are "
                "read by Forecaster.update and run."
            ) from None
        if rows.ndim != 2 or rows.shape[1] != len(self.names):
            raise ValueError(f"rows must have the shape (rows, {len(self.names)}), got {rows.shape}.")
        if (bad := np.abs(rows) > LARGEST).any():
            row, column = np.argwhere(bad)[0].tolist()
            raise RowError(
                f"row {row} of this call, column {self.names[column]!r}: {rows[row, column]:g} is infinite or too "
                "large; numbers up to 1e100 can be learned from."
            )
        return rows

    def row(self, given: Mapping[Any, Any] | Sequence[Any] | np.ndarray | float) -> list[float]:
        """A row of numbers, from any form that a row may have. It comes from a mapping, a row of a data frame, a named
        tuple, values in the order of `names`, a row of an array whose columns `names` are the numbers of, or the one
        value."""
        given = named_row(given)
        if isinstance(given, Mapping):
            if lacking := [name for name in self.names if name not in given]:
                raise RowError(
                    f"the row lacks {', '.join(map(repr, lacking[:5]))}; it has "
                    f"{', '.join(map(repr, list(given)[:10]))}. Give None for a value that is missing."
                )
            values = [given[name] for name in self.names]
        else:
            values = [given] if np.ndim(given) == 0 else list(given)  # type: ignore[arg-type]
            places = [name for name in self.names if isinstance(name, int)]
            if len(places) == len(self.names) and max(places) < len(values) and min(places) >= 0:
                values = [values[place] for place in places]
            if len(values) != len(self.names):
                raise RowError(
                    f"the row has {len(values)} value{'s' * (len(values) != 1)}, and {len(self.names)} were expected: "
                    f"{', '.join(map(str, self.names))}."
                )
        return [
            self.number(value, kind=kind, name=name)
            for value, kind, name in zip(values, self.kinds, self.names, strict=True)
        ]

    def number(self, value: Any, *, kind: str, name: Any) -> float:
        """A cell as a number; NaN where it is missing. Raises `RowError` for what is none."""
        if kind == "class":
            return self.classes.code(value, name)
        if kind == "category":
            return bucket(value)
        return seconds(value, name) if kind == "time" else number(value, kind, name)

    def ahead(self, given: Mapping[Any, Any] | None) -> list[float]:
        """What is known in advance of a later row."""
        if given is None:
            return [math.nan] * len(self.known)
        given = named_row(given)
        if not isinstance(given, Mapping):
            raise RowError(f"ahead: a mapping from each known column to its value was expected, got {given!r}.")
        if not self.known:
            raise RowError("ahead: no column is known in advance; name such columns, as Forecaster(known=('price',)).")
        if lacking := [name for name in self.known if name not in given]:
            raise RowError(
                f"ahead: it lacks {', '.join(map(repr, lacking))}; it has {', '.join(map(repr, list(given)[:10]))}. "
                "Give None for a value that is missing."
            )
        return [number(given[name], "number", name) for name in self.known]

    def expanded(
        self, rows: Float[np.ndarray, "n names"], ahead: Float[np.ndarray, "n known"], then: Float[np.ndarray, " n"]
    ) -> Float[np.ndarray, "n size"]:
        """What an encoder sees. `ahead`: known columns of the row to be forecast; `then`: its time."""
        m, f, k, c = map(len, (self.targets, self.features, self.known, self.categorical))
        parts = [rows[:, : m + f + k], ahead]
        for column in rows[:, m + f + k : m + f + k + c].T:
            parts.append((column[:, None] == np.arange(BUCKETS)).astype(float))
        if self.time is not None:
            turns = 2 * np.pi * then[:, None] / np.array(CALENDAR)
            parts.append(np.nan_to_num(np.concatenate([np.sin(turns), np.cos(turns)], axis=1)))
        return np.concatenate(parts, axis=1)
