"""The order of rows within a key."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ._keys import Key

ADVICE = 'Sort the rows of each key, or give Fleet(late="skip") to leave such rows out and count.'


class Clocks:
    """Refuses, or counts, rows at or before the time of their key's last row.

    - `late`: `"refuse"` or `"skip"`; `count`: rows skipped before;
    - `advice`: what to do about a refused row, for the message.
    """

    def __init__(self, late: str, count: int, advice: str = ADVICE):
        if late not in ("refuse", "skip"):
            raise ValueError(f'late must be "refuse" or "skip", got {late!r}: it is what to do with rows out of order.')
        self.skips, self.late, self._advice = late == "skip", count, advice

    def look(
        self, keys: Sequence[Key], times: Any, last: Callable[[Sequence[Key]], dict[Key, int | None]]
    ) -> tuple[np.ndarray, dict[Key, int]]:
        """Which rows are on time, and the last time of each key after them. `last`: of the times before; `times`: None
        where order is not looked at.

        Raises `ValueError` for a row out of order where such are refused, `TypeError` for times of a wrong type."""
        if times is None:
            return np.ones(len(keys), bool), {}
        times = np.asarray(times)
        if times.dtype.kind == "M":
            times = times.astype("datetime64[ns]")
            if np.isnat(times).any():
                raise ValueError("times holds a date that is not there (NaT): each row needs a time.")
            times = times.astype(np.int64)
        if times.dtype.kind not in "iu":
            raise TypeError(
                f"times must be integers or dates (datetime64), got {times.dtype}: rounding could make two times one; "
                "give for example (1e6 * t).astype(int)."
            )
        if times.shape != (len(keys),):
            raise ValueError(f"update expects a time for each key, got {len(keys)} keys and times {times.shape}.")
        known = last(list(dict.fromkeys(keys)))
        newest = {key: time for key, time in known.items() if time is not None}
        on_time = np.ones(len(keys), bool)
        for k, (key, time) in enumerate(zip(keys, times.tolist(), strict=True)):
            if key not in newest or time > newest[key]:
                newest[key] = time
            elif self.skips:
                on_time[k] = False
            else:
                raise ValueError(
                    f"Row {k} of {key!r} is out of order: its time {time} is not after {newest[key]}, that of the row "
                    f"before. {self._advice}"
                )
        self.late += int((~on_time).sum())
        return on_time, newest
