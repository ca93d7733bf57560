"""How a text file is laid out, where the user says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from streamgrad.data.errors import SourceError


@dataclass(frozen=True)
class Layout:
    """How a text file is laid out, where that is not to be guessed. See `open_source`."""

    columns: tuple[str, ...] | None = None
    skip_lines: int = 0
    comment: tuple[str, ...] = ()
    delimiter: str | None = None

    def check(self) -> None:
        """Raise `SourceError` for what no file can be laid out like."""
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n\0'):
            raise SourceError(
                f"delimiter {self.delimiter!r}: it has to be one character, no quotation mark or line end."
            )
        if self.skip_lines < 0:
            raise SourceError(f"skip_lines {self.skip_lines}: it has to be at least 0.")
        if "" in self.comment:
            raise SourceError("comment '': every line begins so; name what comments begin with, such as '#'.")

    def refuse(self, name: str, what: str) -> None:
        """Raise `SourceError` where any of it is given for what is no CSV."""
        given = [option for option in ("columns", "skip_lines", "comment", "delimiter") if getattr(self, option)]
        if given:
            raise SourceError(f"{name} is {what}, and {', '.join(given)} is for CSV: leave it out.")


def refuse_names(columns: Any, name: str) -> None:
    """Raise `SourceError` where names are given for what has some."""
    if columns is not None:
        raise SourceError(f"{name} has names for its columns already: leave `columns` out, or rename them there.")
