"""Times of rows: what they are in seconds, whether they go forward, and when a later row will come."""

from __future__ import annotations

import datetime
import re
from typing import Any

import numpy as np
from jaxtyping import Float

from ._cells import RowError, numbers

DAY = 86400.0
LATEST = 1e11  # seconds, in the year 5138; what is larger is counted in milliseconds or nanoseconds
DAY_IN_DIGITS = re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])", re.ASCII)


def seconds(value: Any, name: Any) -> float:
    """A time in seconds since 1970: a number as it is, a date, or ISO 8601 text. NaN where it is missing.

    Digits alone are a number of seconds, but for eight that are a day between 1900 and 2100, as 20240501."""
    if value is None or (isinstance(value, str) and value.strip().casefold() in numbers.texts):
        return np.nan
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str) and value.strip().isdecimal() and not DAY_IN_DIGITS.fullmatch(value.strip()):
        value = numbers(value)
    if isinstance(value, np.datetime64):
        return np.nan if np.isnat(value) else float((value - np.datetime64(0, "s")) / np.timedelta64(1, "s"))
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
        if (good := self.in_order(times)) < len(times):
            known = [time for time in times[:good].tolist() if time == time]
            raise RowError(
                (f"row {good} of this call: " if len(times) > 1 else "") + self.back(times[good], *known[-1:])
            )
        last, step, rows, gaps, repeated, missing = self.state.tolist()
        then = []
        for time in times.tolist():
            rows += 1
            if time != time:
                missing += 1
                time = last + step
            elif last == last:
                away = time - last
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

    def back(self, time: float, last: float | None = None) -> str:
        """What is wrong with a time that goes back, and what to do. `last`: the time before, if others were between."""
        before = stamp(self.state[0] if last is None else last)
        return (
            f"time goes back: {stamp(time)} comes after {before}. Sort the rows by time, or leave the time column out; "
            "local times, which go back in autumn, need their offset (2024-10-27T02:30+01:00)."
        )

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
