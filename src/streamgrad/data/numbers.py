"""One rule for numbers and missing values in every format, and for how a number is written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

#: Spellings of a missing value, in any case, with spaces around them or not.
MISSING = frozenset(
    (
        *("", "na", "n/a", "#n/a", "#na", "<na>", "#n/a n/a", "nan", "+nan", "-nan", "nat", "null", "none", "?"),
        *("1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan"),
    )
)


def alone(values: Any) -> Iterable[Any]:
    """Several values; a text or a number alone is one."""
    return (values,) if isinstance(values, str | bytes) or not isinstance(values, Iterable) else values


class Numbers:
    """Turns a cell into a float: `numbers(text)` for text, `numbers.of(value)` for any Python value.

    A missing value becomes NaN. Spaces around a number count for nothing. Digits in groups (`1_000`) are no number.

    **Arguments:**

    - `missing`: values that stand for a missing one, beside the usual spellings: texts, or numbers in any notation
      (`"-200"` stands for -200.0 too).
    """

    def __init__(self, missing: Iterable[Any] = ()):
        declared = [str(value).strip().casefold() for value in alone(missing)]
        self.texts = MISSING | frozenset(declared)
        plain, values = Numbers.__new__(Numbers), set()
        plain.texts = MISSING
        for text in declared:
            try:
                values |= {plain(text), float(np.float32(plain(text)))}
            except (ValueError, OverflowError):
                continue
        self.values = np.array(sorted(value for value in values if value == value))

    def __call__(self, text: str) -> float:
        """The number that the text is; NaN where it says that it is missing. Raises `ValueError`."""
        try:
            value = float(text)
            if "_" not in text:
                return value
        except ValueError:
            pass
        text = text.strip()
        if text.casefold() in self.texts:
            return np.nan
        if "_" in text:
            raise ValueError(f"{text!r} is not a number")
        return float(text.replace("\N{MINUS SIGN}", "-"))

    def of(self, value: Any) -> float:
        """The number that a Python value is. Raises `ValueError`."""
        if isinstance(value, float):
            return value
        if value is None or value is np.ma.masked or type(value).__name__ in ("NAType", "NaTType"):
            return np.nan
        if isinstance(value, bytes):
            value = value.decode("utf-8", "backslashreplace")
        if isinstance(value, str):
            return self(value)
        if isinstance(value, np.generic) and value.dtype.kind not in "biuf":
            raise ValueError(f"{value!r} is not a number")
        try:
            return float(value)
        except OverflowError:
            return np.inf if value > 0 else -np.inf  # type: ignore[operator]
        except (TypeError, ArithmeticError):  # a signalling NaN of a decimal, too
            raise ValueError(f"{value!r} is not a number") from None

    def without(self, batch: np.ndarray) -> np.ndarray:
        """The array, with NaN in the place of numbers declared as missing."""
        return np.where(np.isin(batch, self.values), np.nan, batch) if self.values.size else batch


def shortest(value: float) -> str:
    """The shortest decimal form that gives the same double again; empty for NaN.

    >>> shortest(1_700_000_000.25), shortest(5.0), shortest(0.1 + 0.2)
    ('1700000000.25', '5', '0.30000000000000004')
    """
    return "" if value != value else repr(float(value)).removesuffix(".0")
