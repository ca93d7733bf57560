"""Bytes in blocks, from a file or from what is live.

A file can be read again from any byte. What is no regular file (a pipe, a terminal, a socket) is opened once and read
once, and says by an empty block that nothing came for a moment.
"""

from __future__ import annotations

import abc
import os
import select
from pathlib import Path
from typing import Any

from streamgrad.data.errors import read_once
from streamgrad.data.unpacking import Blocks, Damage, encoding, text, unpacker

BLOCK = 1 << 16  # bytes read at a time
PATIENCE = 0.2  # seconds for which a live source waits before it says that nothing came


class Origin(abc.ABC):
    """The source of bytes. `name` is for messages; `live`: there is no second time."""

    name: str
    live: bool
    packed = False  # positions are those of the unpacked text

    @abc.abstractmethod
    def blocks(self, byte: int = 0) -> Blocks:
        """The bytes from `byte` of the text on. Raises `Damage` after the good ones."""

    def fraction(self) -> float | None:
        """How much was read, 0 to 1, or None where the size is not known."""
        return None


class File(Origin):
    """A regular file. Each call of `blocks` opens it anew."""

    live = False

    def __init__(self, path: Path, name: str | None = None):
        self.path, self.name = path, name or str(path)
        self._at = 0

    def blocks(self, byte: int = 0) -> Blocks:
        try:
            with open(self.path, "rb", buffering=0) as file:
                start = file.read(16)
                plain = unpacker(start, self.path.suffix) is None and encoding(start) is None
                self.packed = not plain
                if plain:
                    self._at = file.seek(byte)
                    yield from self._raw(file)
                else:
                    self._at = file.seek(0)
                    yield from _after(text(self._raw(file), self.path.suffix), byte)
        except OSError as error:
            raise _damage(error) from None

    def _raw(self, file: Any) -> Blocks:
        while block := file.read(BLOCK):
            self._at += len(block)
            yield block

    def fraction(self) -> float:
        size = self.path.stat().st_size if self.path.exists() else 0
        return min(1.0, self._at / size) if size else 1.0


class Live(Origin):
    """What arrives at a file descriptor: each read returns what is there, at once. `own`: it is closed at the end."""

    live = True

    def __init__(self, descriptor: int, name: str, own: bool = False):
        self.name, self._descriptor, self._own, self._used = name, descriptor, own, False

    def blocks(self, byte: int = 0) -> Blocks:
        if self._used:
            raise read_once(self.name)
        self._used = True
        return _after(text(self._raw()), byte)

    def _raw(self) -> Blocks:
        try:
            while True:
                ready, _, _ = select.select([self._descriptor], [], [], PATIENCE)
                if not ready:
                    yield b""
                    continue
                block = os.read(self._descriptor, BLOCK)
                if not block:
                    return
                yield block
        except (OSError, ValueError) as error:
            raise _damage(error) from None
        finally:
            if self._own:
                os.close(self._descriptor)


def _damage(error: Exception) -> Damage:
    return Damage(os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error))


def _after(blocks: Blocks, byte: int) -> Blocks:
    """The blocks without their first bytes."""
    for block in blocks:
        yield block[byte:]
        byte -= min(byte, len(block))
