"""Columns of a row as numbers: what is given, what is known in advance, categories, and the calendar.

A row of numbers has the targets, the features, the columns that are known in advance, the categories (each a bucket,
which its text decides for ever) and the time in seconds. `Columns.expanded` makes of it what an encoder sees: known
columns twice, now and `horizon` rows ahead; a 0 or 1 for each bucket of a category; and sine and cosine of the day, of
the week and of the year at the time of the forecast's row.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from ..data import Numbers
from ..data.errors import CellError
from ..data.rows import named_row

BUCKETS = 8  # of a category
DAY = 86400.0
CALENDAR = (DAY, 7 * DAY, 365.2425 * DAY)  # seconds
LATEST = 1e11  # seconds, in the year 5138; what is larger is counted in milliseconds or nanoseconds
DAY_IN_DIGITS = re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])", re.ASCII)
numbers = Numbers()


class RowError(CellError):
    """A row that cannot be read. The message says what came and what was expected."""


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
        """Of each column: "number", "class", "count", "event", "category" or "time"."""
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

    def row(self, given: Mapping[Any, Any] | Sequence[Any] | np.ndarray | float) -> list[float]:
        """A row of numbers from what has names (a mapping, a row of a data frame, a named tuple), from values in the
        order of `names`, from a row of an array whose columns `names` are the numbers of, or from the one value."""
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
        return self.classes.code(value, name) if kind == "class" else number(value, kind, name)

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


def number(value: Any, kind: str, name: Any) -> float:
    """A cell as a number; NaN where it is missing. Raises `RowError` for what is none."""
    if kind == "category":
        return bucket(value)
    if kind == "time":
        return seconds(value, name)
    try:
        found = numbers.of(value)
    except ValueError:
        raise RowError(
            f"column {name!r}: {value!r} is not a number; give a number, or None where it is missing."
        ) from None
    if abs(found) > 1e100:
        raise RowError(f"column {name!r}: {value!r} is infinite or too large; numbers up to 1e100 can be learned from.")
    if kind in OUTCOMES and found == found and not OUTCOMES[kind][0](found):
        raise RowError(f"column {name!r}: {value!r} is no {kind}: {OUTCOMES[kind][1]}")
    return found


#: What a number must be to be an outcome, and what to do where it is not.
OUTCOMES = {
    "event": (
        lambda y: y in (0.0, 1.0),
        '1 or 0 was expected, for what came or did not (of texts, use outcome="class").',
    ),
    "count": (
        lambda y: y >= 0 and y == math.floor(y) and y <= 1e15,
        'a whole number from 0 to 1e15 was expected (of other numbers, use outcome="number").',
    ),
}
MOST, LONGEST = 16, 80  # classes, and bytes of the text of one


class Classes:
    """The texts of classes, whose place is their code: in the order in which they are read. `state` (an array) has
    them."""

    def __init__(self):
        self.texts: list[str] = []

    def code(self, value: Any, name: Any) -> float:
        """The code of a class; NaN where it is missing. Numbers count by their value: 1, 1.0 and "1" are one.

        Raises `RowError` for the 17th class, and for a text that is none."""
        text = plain_text(value)
        if text is None:
            return math.nan
        if text not in self.texts:
            if len(text.encode()) > LONGEST or not text.isprintable():
                raise RowError(
                    f"column {name!r}: {text[:40]!r} is no class: printable text of up to {LONGEST} bytes was expected."
                )
            if len(self.texts) == MOST:
                raise RowError(
                    f"column {name!r}: {text!r} is a 17th class, beside {', '.join(map(repr, self.texts))}, and up to "
                    f"{MOST} can be forecast: put rare ones together, or use a numeric outcome."
                )
            self.texts.append(text)
        return float(self.texts.index(text))

    @property
    def state(self) -> np.ndarray:
        """The texts as UTF-8, each filled up with zeros."""
        found = np.zeros((MOST, LONGEST), np.uint8)
        for row, text in zip(found, self.texts):
            row[: len(text.encode())] = np.frombuffer(text.encode(), np.uint8)
        return found

    @state.setter
    def state(self, state: np.ndarray) -> None:
        texts = [bytes(row).rstrip(b"\0").decode() for row in np.asarray(state)]
        self.texts = [text for text in texts if text]


def plain_text(value: Any) -> str | None:
    """A category as text; None where it is missing."""
    if value is None or value is np.ma.masked or value != value:
        return None
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    text = str(value).strip()
    return None if text.casefold() in numbers.texts else text


def bucket(value: Any) -> float:
    """The bucket of a category; NaN where it is missing. Numbers count by their value: 1, 1.0 and "1" are one."""
    text = plain_text(value)
    return math.nan if text is None else float(zlib.crc32(text.encode()) % BUCKETS)


def seconds(value: Any, name: Any) -> float:
    """A time in seconds since 1970: a number as it is, a date, or ISO 8601 text. NaN where it is missing.

    Digits alone are a number of seconds, but for eight that are a day between 1900 and 2100, as 20240501."""
    if value is None or (isinstance(value, str) and value.strip().casefold() in numbers.texts):
        return math.nan
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str) and value.strip().isdecimal() and not DAY_IN_DIGITS.fullmatch(value.strip()):
        value = numbers(value)
    if isinstance(value, np.datetime64):
        return math.nan if np.isnat(value) else float((value - np.datetime64(0, "s")) / np.timedelta64(1, "s"))
    if isinstance(value, datetime.datetime | datetime.date | str):
        try:
            when = datetime.datetime.fromisoformat(value.strip() if isinstance(value, str) else value.isoformat())
        except ValueError:
            try:
                return _seconds(numbers.of(value), value, name)
            except ValueError:
                raise _no_time(value, name) from None
        zone = when.tzinfo or datetime.UTC
        return when.replace(tzinfo=zone).timestamp()
    try:
        return _seconds(numbers.of(value), value, name)
    except ValueError:
        raise _no_time(value, name) from None


def _seconds(found: float, value: Any, name: Any) -> float:
    """A number of seconds. Raises `RowError` where it must be of another unit."""
    if abs(found) > LATEST:
        raise _no_time(value, name)
    return found


def _no_time(value: Any, name: Any) -> RowError:
    return RowError(
        f"column {name!r}: {value!r} is no time: ISO 8601 (2024-05-01 12:30, with or without an offset) or a number of "
        f"seconds up to {LATEST:g} was expected; divide milliseconds by 1,000."
    )


class Clock:
    """The times of rows: whether they go forward, by which step, and when a later row will come.

    `state` (an array): newest time, usual step, rows, gaps, repeated times, missing times."""

    def __init__(self):
        self.state = np.array([np.nan, np.nan, 0.0, 0.0, 0.0, 0.0])

    def __call__(self, times: Float[np.ndarray, " n"], horizon: int) -> Float[np.ndarray, " n"]:
        """The time at which the row `horizon` after each of n rows is due. Raises `RowError` where time goes back."""
        last, step, rows, gaps, repeated, missing = self.state.tolist()
        then = []
        for time in times.tolist():
            rows += 1
            if time != time:
                missing += 1
                time = last + step
            elif last == last:
                away = time - last
                if away < 0:
                    raise RowError(
                        f"time goes back at data row {int(rows) - 1}: {stamp(time)} comes after {stamp(last)}. Sort "
                        "the rows by time, or leave the time column out; local times, which go back in autumn, need "
                        "their offset (2024-10-27T02:30+01:00)."
                    )
                if away == 0:
                    repeated += 1
                elif step != step:
                    step = away
                elif away > 1.5 * step:
                    gaps += 1
                elif away < step * 0.999:
                    step = away if rows < 16 else step
            last = time if time == time else last
            then.append(last + horizon * step)
        self.state = np.array([last, step, rows, gaps, repeated, missing])
        return np.array(then)

    def in_order(self, times: Float[np.ndarray, " n"]) -> int:
        """How many of the times, from the first on, do not go back."""
        known = np.concatenate([self.state[:1], times])
        before = np.fmax.accumulate(known)[:-1]
        back = np.flatnonzero(times < before)
        return int(back[0]) if len(back) else len(times)

    def remarks(self) -> list[str]:
        """What is not regular, in words."""
        _, step, _, gaps, repeated, missing = self.state.tolist()
        counted = (
            (gaps, f"gaps in time (more than 1.5 steps of {length(step)})"),
            (repeated, "rows with the time of the row before"),
            (missing, "rows without a time"),
        )
        return [f"{int(count):,} {what}" for count, what in counted if count]


def stamp(time: float) -> str:
    """Seconds as a time, if they can be one of our days."""
    if 1e8 < abs(time) < 1e10:
        return datetime.datetime.fromtimestamp(time, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f"{time:g}"


def length(step: float) -> str:
    """Seconds in the unit that fits."""
    for name, size in (("days", DAY), ("hours", 3600.0), ("minutes", 60.0)):
        if step >= size:
            return f"{step / size:g} {name}"
    return f"{step:g} s"
