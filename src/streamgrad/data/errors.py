"""What is wrong with a stream, in one sentence for the person who gave it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


class SourceError(ValueError):
    """A stream cannot be read on. The message says what came, what was expected, what to change."""


def unknown_column(name: str, columns: Sequence[str], where: str) -> SourceError:
    """The error for a column that is not there, with the nearest names that are."""
    near = difflib.get_close_matches(name, columns, n=3, cutoff=0.5)
    lower = [column for column in columns if column.lower() == name.lower()]
    near = list(dict.fromkeys(lower + near))
    shown = ", ".join(columns[:20]) + (", ..." if len(columns) > 20 else "")
    hint = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    return SourceError(f"{where} has no column {name!r}: {hint}its columns are {shown}.")


def bad_number(value: str, row: int, column: str, where: str) -> SourceError:
    """The error for text where a number belongs. `row` counts from 0 and is shown from 1."""
    return SourceError(
        f"{where}, data row {row + 1}, column {column!r}: {value!r} is not a number. "
        "Correct the value, leave it empty if it is missing, or choose another column."
    )


def too_large(value: float, row: int, column: str, where: str) -> SourceError:
    """The error for an infinite or absurd value. `row` counts from 0 and is shown from 1."""
    return SourceError(
        f"{where}, data row {row + 1}, column {column!r}: the value is {value:g}, and only finite "
        "numbers up to 1e100 can be learned from. Correct the value or leave it empty: that means missing."
    )
