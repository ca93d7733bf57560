"""How a text file is laid out, where the user says so."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from streamgrad.data.errors import SourceError


@dataclass(frozen=True)
class Layout:
    """The layout of a text file, as far as it is given instead of guessed. See `open_source`."""

    columns: tuple[str, ...] | None = None
    skip_lines: int = 0
    comment: tuple[str, ...] = ()
    delimiter: str | None = None

    def check(self) -> None:
        """Raise `SourceError` for what no file can be laid out like."""
        mark = self.delimiter
        if mark is not None and (not isinstance(mark, str) or len(mark) != 1 or mark in '"\r\n\0'):
            raise SourceError(f"delimiter {mark!r}: it has to be one character, no quotation mark or line end.")
        if isinstance(self.skip_lines, bool) or not isinstance(self.skip_lines, int) or self.skip_lines < 0:
            raise SourceError(f"skip_lines {self.skip_lines!r}: it has to be a whole number of at least 0.")
        if odd := [mark for mark in self.comment if not isinstance(mark, str)]:
            raise SourceError(f"comment {odd[0]!r}: it has to be what comments begin with, such as '#'.")
        if "" in self.comment:
            raise SourceError("comment '': every line begins so; name what comments begin with, such as '#'.")

    def refuse(self, name: str, what: str) -> None:
        """Raise `SourceError` for a layout given with a source that is no CSV."""
        given = [option for option in ("columns", "skip_lines", "comment", "delimiter") if getattr(self, option)]
        if given:
            raise SourceError(f"{name} is {what}, and {', '.join(given)} is for CSV: leave it out.")


def check_columns(what: str, columns: Any) -> None:
    """Raise `SourceError` for names of columns that are none."""
    if isinstance(columns, str | bytes) or not isinstance(columns, Iterable):
        raise SourceError(f"{what} must be a sequence of names, as ['when', 'value'], got {columns!r}.")
    if odd := [name for name in columns if not isinstance(name, str)]:
        raise SourceError(f"{what}: names are texts, got {odd[0]!r}: convert it by str(...).")


def refuse_names(columns: Any, name: str) -> None:
    """Raise `SourceError` where names are given for what has some."""
    if columns is not None:
        raise SourceError(f"{name} has names for its columns already: leave `columns` out, or rename them there.")
