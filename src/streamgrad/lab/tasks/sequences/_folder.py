"""Folders of data that the user has fetched and unpacked."""

from __future__ import annotations

import os
from pathlib import Path

from streamgrad.data.errors import SourceError


def existing_folder(folder: str | os.PathLike[str], inner: str, what: str) -> Path:
    """The path of `folder`, or of the folder `inner` within it. The inner one is what the archive of `what` unpacks
    into.

    Raises `SourceError` where there is no such folder.
    """
    path = Path(folder).expanduser()
    if path.is_file():
        raise SourceError(
            f"{path} is a file, and the folder of {what} was expected: unpack it and name the folder {inner}."
        )
    if not path.is_dir():
        raise SourceError(
            f"there is no folder {path}: download {what}, unpack it, and name the folder {inner} that comes out."
        )
    return path / inner if (path / inner).is_dir() else path


def read_bytes(path: Path) -> bytes:
    """The content of a file; `SourceError` where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise SourceError(f"{path} cannot be read ({reason}): check that it is a file and its permissions.") from None
