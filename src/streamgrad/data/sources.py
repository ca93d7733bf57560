"""Open a stream of rows: a file of any length, what is live, a bundled real series, or a table in memory."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from streamgrad.data.blocks import File, Live
from streamgrad.data.errors import SourceError
from streamgrad.data.layout import Layout, check_columns
from streamgrad.data.numbers import Numbers, alone
from streamgrad.data.opening import open_text
from streamgrad.data.series import SERIES
from streamgrad.data.source import Source

FORMATS = "CSV, TSV, JSON, Parquet or Arrow (Feather)"


def open_source(
    source: Any,
    *,
    columns: Sequence[str] | None = None,
    missing: Iterable[Any] = (),
    skip_lines: int = 0,
    comment: str | Sequence[str] | None = None,
    delimiter: str | None = None,
) -> Source:
    """Open a path, `-` for standard input, the name of a bundled series, or a table in memory.

    The content, not the ending, decides the format: CSV and TSV (also with semicolons or bars), JSON lines and arrays,
    Parquet, Arrow and Feather files; text may be packed (gzip, bzip2, xz, zstd, lz4) or in UTF-16. What is no regular
    file (a pipe, `/dev/stdin`, process substitution) is opened once and read as it comes.

    A table in memory is a NumPy or JAX array, a mapping from names to columns, a pandas, polars or Arrow table (also
    what else Narwhals knows), or an iterable of rows, each a mapping or a sequence. Iterators are read once.

    **Arguments:**

    - `columns`: names for an array or for rows that are sequences; for CSV, that it has no header and these names.
    - `missing`: values that mean missing, beside an empty cell, NA, NaN, null and the like.
    - `skip_lines`: lines of CSV before the header that are left out.
    - `comment`: what lines of CSV begin with that are left out (one or several).
    - `delimiter`: of CSV, where it is not to be guessed.

    Raises `SourceError` with one sentence where the source cannot be opened.
    """
    numbers = Numbers(missing)
    marks = () if comment is None else tuple(alone(comment))
    if columns is not None:
        check_columns("columns", columns)
    layout = Layout(None if columns is None else tuple(columns), skip_lines, marks, delimiter)
    layout.check()
    if isinstance(source, (str, os.PathLike)):
        return _open_path(os.fspath(source), numbers, layout)
    from streamgrad.data.tables import open_table

    return open_table(source, layout, numbers)


def _open_path(name: str, numbers: Numbers, layout: Layout) -> Source:
    if name == "-":
        return open_text(Live(0, "standard input"), numbers, layout)
    if re.match(r"\w+://", name):
        raise SourceError(
            f"{name} is an address, and nothing is downloaded here: get the file first, or pipe it in as -."
        )
    path = Path(name)
    if not _exists(name, path):
        if name in SERIES:
            layout.refuse(name, "a bundled series")
            return SERIES[name].open(numbers)
        raise _missing(name, path)
    if path.is_dir():
        raise SourceError(f"{name} is a folder, and a file ({FORMATS}) was expected: name one file in it.")
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return open_text(Live(os.open(path, os.O_RDONLY), name, own=True), numbers, layout)
        with open(path, "rb") as file:
            magic = file.read(8)
    except OSError as error:
        raise SourceError(f"{name} cannot be read ({os.strerror(error.errno or 0)}): check its permissions.") from None
    if magic.startswith((b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")):
        from streamgrad.data.columnar import ArrowSource, ParquetSource

        layout.refuse(name, "a file with columns of its own")
        return (ParquetSource if magic.startswith(b"PAR1") else ArrowSource)(path, numbers)
    return open_text(File(path, name), numbers, layout)


def _exists(name: str, path: Path) -> bool:
    try:
        return bool(name) and path.exists()
    except (OSError, ValueError):  # too long, a loop of links, a zero byte
        return False


def _missing(name: str, path: Path) -> SourceError:
    """A file that is not there: with the nearest names among its neighbours and the series."""
    import difflib

    neighbours: list[str] = []
    with contextlib.suppress(OSError, ValueError), os.scandir(path.parent) as entries:
        neighbours = [e.name for _, e in zip(range(10_000), entries) if not e.is_dir(follow_symlinks=False)]
    near = [str(path.parent / n) for n in difflib.get_close_matches(path.name, neighbours, n=2)]
    near += difflib.get_close_matches(name, list(SERIES), n=1)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return SourceError(
        f"there is no file {name[:200]}: {hint}Give a path ({FORMATS}), - for standard input, "
        f"or one of the bundled series {', '.join(SERIES)}."
    )
