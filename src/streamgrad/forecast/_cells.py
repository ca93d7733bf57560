"""Cells of a row as numbers: measurements, outcomes, and texts of categories and classes."""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np

from ..data import Numbers
from ..data.errors import CellError

BUCKETS = 8  # of a category
numbers = Numbers()


class RowError(CellError):
    """A row that cannot be read. The message says what came and what was expected."""


def number(value: Any, kind: str, name: Any) -> float:
    """A cell as a number; NaN where it is missing. Raises `RowError` for what is none."""
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
