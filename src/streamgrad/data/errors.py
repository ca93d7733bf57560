"""What is wrong with a stream, in one sentence for the person who gave it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

LARGEST = 1e100  # squares and sums of what is larger would overflow
SHOWN = 60  # characters of a cell or a line in a message


class SourceError(ValueError):
    """A stream cannot be read on. The message says what came, what was expected, what to change."""


class CellError(ValueError):
    """A cell whose text does not fit its column. The message names the column, and says what came and was expected."""


def shortened(text: str) -> str:
    """The text in quotation marks, or its beginning where it is long."""
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "...")


def at_byte(byte: int | None) -> str:
    """The end of a sentence: where in the file the row begins, if that is known."""
    return "" if byte is None else f" The row begins at byte {byte}."


def unknown_column(name: str, columns: Sequence[str], where: str, note: str = "") -> SourceError:
    """The error for a missing column, with the nearest names of the table. `note`: a sentence more."""
    if not columns:
        return SourceError(
            f"{where} has no column {name!r}: it has no columns at all. A source of one's own gives its columns to "
            "super().__init__(name, columns)."
        )
    near = difflib.get_close_matches(name, columns, n=3, cutoff=0.5)
    lower = [column for column in columns if column.lower() == name.lower()]
    near = list(dict.fromkeys(lower + near))
    names = [column if len(column) <= SHOWN else column[:SHOWN] + "..." for column in columns[:20]]
    shown = ", ".join(names) + (", ..." if len(columns) > 20 else "")
    hint = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    return SourceError(f"{where} has no column {name!r}: {hint}its columns are {shown}.{' ' * bool(note)}{note}")


def same_name(name: str, where: str) -> SourceError:
    """The error for a name that several columns share, when one of them is asked for."""
    return SourceError(f"{where}: two columns are called {name!r}; rename one of them.")


def bad_number(
    value: str,
    row: int,
    column: str,
    where: str,
    byte: int | None = None,
    line: str = "",
    why: Exception | None = None,
) -> SourceError:
    """The error for text where a number belongs. `row` counts from 0 and is shown from 1; `line` is all of it; `why`:
    what was raised, which counts where it says more."""
    if isinstance(why, CellError):
        return SourceError(f"{where}, data row {row + 1}, {why}{at_byte(byte)}")
    units = row == 0 and line and not re.search(r"\d", line)
    advice = f"If this row holds units, skip it with --comment {line!r}." if units else _advice(value.strip(), column)
    return SourceError(
        f"{where}, data row {row + 1}, column {column!r}: {shortened(value)} is not a number. {advice}{at_byte(byte)}"
    )


def _advice(value: str, column: str) -> str:
    """What to do about text that is no number."""
    if re.fullmatch(r"[-+]?\d*,\d+([eE][-+]?\d+)?", value):
        return "Write a decimal point where it has a decimal comma."
    if value == column:
        return "It is the column's name: remove the header that comes again there."
    return (
        "Correct the value, leave it empty if it is missing, declare it as missing (--missing), or choose "
        "another column."
    )


def not_utf8(value: bytes, row: int, column: str, where: str, byte: int | None = None) -> SourceError:
    """The error for a cell of undecodable bytes in a column of numbers."""
    shown = repr(value[:SHOWN])[1:]
    return SourceError(
        f"{where}, data row {row + 1}, column {column!r}: the bytes {shown} are not UTF-8 text. Correct the value, or "
        f"convert the file to UTF-8.{at_byte(byte)}"
    )


def too_large(value: float, row: int, column: str, where: str, byte: int | None = None) -> SourceError:
    """The error for an infinite or absurd value. `row` counts from 0 and is shown from 1."""
    return SourceError(
        f"{where}, data row {row + 1}, column {column!r}: the value is {value:g}, and only finite "
        "numbers up to 1e100 can be learned from. Correct the value or leave it empty: that means missing."
        f"{at_byte(byte)}"
    )


def ragged(cells: Sequence[str], width: int, row: int, where: str, byte: int | None = None) -> SourceError:
    """The error for a row with another number of values than the header has names."""
    text = ",".join(cells)
    if text.startswith(("#", "%", "//")):
        cause = f"is it a comment? Skip such lines with --comment {text[0]!r}, or delete that row."
    elif len(cells) == width + 1 and not cells[-1].strip():
        cause = "it ends with a delimiter, and the header does not. Put one behind the header, or delete it here."
    elif text.startswith("\0"):
        cause = "it holds zero bytes, as a file has after a power cut. Delete that row."
    else:
        cause = "is the file cut in the middle of a row? Complete or delete that row."
    values = "1 value" if len(cells) == 1 else f"{len(cells)} values"
    return SourceError(
        f"{where}, data row {row + 1} has {values} where {width} were expected ({shortened(text)}): {cause}"
        f"{at_byte(byte)}"
    )


def read_once(where: str) -> SourceError:
    """The error for a second pass over what can be read only once."""
    return SourceError(
        f"{where} can be read only once, and it was: its rows are gone. Open it anew, or put the rows in a file."
    )
