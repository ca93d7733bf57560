"""Files that are written whole or not at all: the one place where a file takes another's."""

from __future__ import annotations

import contextlib
import glob
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HOUR = 3600.0  # seconds after which a temporary file is what a killed process left


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path whose file takes the place of `path` when the block ends: whole, and on the disk.

        with whole_file("table.csv") as temporary:
            temporary.write_text("row,value\\n")

    Whoever reads `path` finds the file of before or the new one, after a crash at any moment, too. Where the block
    raises, the file of before stays. The temporary file lies in the same folder and has the same ending. What is no
    regular file, such as `/dev/stdout`, is written directly.

    Raises `OSError` where the disk refuses.
    """
    target = Path(os.path.realpath(path))  # a link stays, and what it leads to is replaced
    if target.exists() and not target.is_file() and not target.is_dir():
        yield target
        return
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp{target.suffix}")
    try:
        yield temporary
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
        _flush(target.parent)
    except OSError as error:
        if error.filename == str(temporary):
            error.filename = str(target)
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.tmp{glob.escape(target.suffix)}"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > HOUR:
                left.unlink()


def write_whole(path: str | os.PathLike[str], data: str | bytes) -> None:
    """Write text (as UTF-8) or bytes as a whole file, or leave what is there. Raises `OSError`."""
    with whole_file(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def save_figure(figure: Any, path: str | os.PathLike[str]) -> None:
    """Write a Matplotlib figure as a whole file, in the format that its ending names; PNG without one."""
    with whole_file(path if Path(path).suffix else f"{os.fspath(path)}.png") as temporary:
        figure.savefig(temporary)


def _flush(folder: Path) -> None:
    """Bring the folder's entries to the disk."""
    if os.name == "nt":
        return  # a folder cannot be opened there
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
