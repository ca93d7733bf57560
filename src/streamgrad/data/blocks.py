"""Bytes in blocks, from a file or from what is live; unpacked and brought to UTF-8, by content.

A file can be read again from any byte. What is no regular file (a pipe, a terminal, a socket) is opened once and read
once, and says by an empty block that nothing came for a moment.
"""

from __future__ import annotations

import abc
import bz2
import codecs
import lzma
import os
import re
import select
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

from streamgrad.data.errors import SourceError, read_once

BLOCK = 1 << 16  # bytes read at a time
SMALL = 1 << 10  # bytes unpacked at a time where damage takes along what a step has unpacked
PATIENCE = 0.2  # seconds for which a live source waits before it says that nothing came

Blocks = Generator[bytes, None, None]


class Damage(Exception):
    """Bytes cannot be had beyond this point; the message is the reason, without place and name."""


class Origin(abc.ABC):
    """Where bytes come from. `name` is for messages; `live`: there is no second time."""

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


# Unpacking, and text in other encodings.


def text(blocks: Blocks, suffix: str = "") -> Blocks:
    """Blocks of UTF-8 (or of another encoding by bytes), whatever is packed or in UTF-16 brought to it."""
    start, blocks = _peek(blocks)
    if unpack := unpacker(start, suffix):
        start, blocks = _peek(_grouped(unpack(blocks)))
    if name := encoding(start):
        blocks = _decoded(blocks, name)
    return blocks


def _peek(blocks: Blocks) -> tuple[bytes, Blocks]:
    """The first 16 bytes, or what came before a pause; and all blocks."""
    seen: list[bytes] = []
    error: Damage | None = None
    try:
        for block in blocks:
            seen.append(block)
            size = sum(map(len, seen))
            if size >= 16 or (size and not block):
                break
    except Damage as damage:
        error = damage

    def again() -> Blocks:
        yield from seen
        if error is not None:
            raise error
        yield from blocks

    return b"".join(seen)[:16], again()


def encoding(start: bytes) -> str | None:
    """The encoding that a byte order mark names, unless it is UTF-8."""
    if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    return "utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else None


def _decoded(blocks: Blocks, name: str) -> Blocks:
    decoder = codecs.getincrementaldecoder(name)()
    try:
        for block in blocks:
            yield decoder.decode(block).encode("utf-8", "surrogatepass")
        decoder.decode(b"", True)
    except UnicodeError as error:
        raise Damage(f"it is not {name.upper()} there, as its first bytes say: {error}") from None


def unpacker(start: bytes, suffix: str = "") -> Callable[[Blocks], Blocks] | None:
    """What unpacks a file that begins so; None where it is not packed.

    gzip, bzip2 and xz go through the standard library, zstd, lz4 and brotli through PyArrow.
    """
    if start.startswith(b"\x1f\x8b"):
        return lambda blocks: _members(blocks, lambda: zlib.decompressobj(31), "gzip")
    if re.match(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", start):
        return lambda blocks: _members(blocks, bz2.BZ2Decompressor, "bzip2")
    if start.startswith(b"\xfd7zXZ\0"):
        return lambda blocks: _members(blocks, lzma.LZMADecompressor, "xz")
    if start.startswith(b"\x28\xb5\x2f\xfd") or re.match(rb"[\x50-\x5f]\x2a\x4d\x18", start):
        return lambda blocks: _through_arrow(blocks, "zstd")
    if start.startswith(b"\x04\x22\x4d\x18"):
        return lambda blocks: _through_arrow(blocks, "lz4")
    if suffix == ".br":  # has no mark of its own
        return lambda blocks: _through_arrow(blocks, "brotli")
    return None


def _members(blocks: Blocks, make: Callable[[], Any], kind: str) -> Blocks:
    """Unpack one member after the other; what could be unpacked before damage comes first."""
    one, fresh = make(), True
    for block in blocks:
        if not block:  # nothing came for a moment
            yield block
            continue
        while block:
            if one.eof:
                block = block.lstrip(b"\0")  # padding
                if not block:
                    break
                one, fresh = make(), True
            try:
                yield from _steps(one, block)
            except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
                raise Damage(f"the {kind} data is damaged: {error}") from None
            fresh, block = False, one.unused_data
    if not one.eof and not fresh:
        raise Damage(f"the {kind} data is cut")


def _steps(one: Any, block: bytes) -> Iterator[bytes]:
    """All that a decompressor makes of a block, in small steps: an error loses no more than the step."""
    if hasattr(one, "unconsumed_tail"):  # zlib's; the others keep what they did not use
        while block and not one.eof:
            yield one.decompress(block, SMALL)
            block = one.unconsumed_tail
        return
    yield one.decompress(block, SMALL)
    while not one.eof and not one.needs_input:
        yield one.decompress(b"", SMALL)


def _grouped(blocks: Blocks) -> Blocks:
    """Small blocks put together; nothing waits where nothing comes or where damage ends it."""
    parts: list[bytes] = []
    size = 0
    try:
        for block in blocks:
            parts.append(block)
            size += len(block)
            if size >= BLOCK or not block:
                yield b"".join(parts)
                parts, size = [], 0
                if not block:
                    yield block
    except Damage as damage:
        yield b"".join(parts)
        raise damage from None
    yield b"".join(parts)


def _through_arrow(blocks: Blocks, kind: str) -> Blocks:
    import pyarrow as pa

    try:
        stream = pa.CompressedInputStream(pa.PythonFile(_Readable(blocks), "r"), kind)
        while block := stream.read(SMALL):
            yield block
    except (pa.ArrowException, OSError) as error:
        raise Damage(f"the {kind} data is cut or damaged: {str(error).splitlines()[0]}") from None


class _Readable:
    """Blocks as the file that PyArrow reads from."""

    closed = False

    def __init__(self, blocks: Blocks):
        self._blocks, self._left = blocks, b""

    def read(self, n: int) -> bytes:
        while not self._left:
            block = next(self._blocks, None)
            if block is None:
                return b""
            self._left = block
        given, self._left = self._left[:n], self._left[n:]
        return given


# What is neither text nor one of the formats with columns.

_OTHER = (
    (rb"PK\x03\x04", "a spreadsheet (xlsx, ods) or a zip archive: save the sheet as CSV, or unpack the archive"),
    (rb"\xd0\xcf\x11\xe0", "an Excel file (xls): save the sheet as CSV"),
    (rb"%PDF-", "a PDF: export the table as CSV"),
    (rb"SQLite format 3", "an SQLite database: export the table as CSV"),
    (rb"\x89HDF", "an HDF5 file: export the table as CSV or Parquet"),
    (rb"CDF[\x01\x02\x05]", "a netCDF file: export the table as CSV or Parquet"),
    (rb"\x93NUMPY", "a NumPy file: give the array itself to streamgrad.data.open_source, or save it as CSV"),
    (rb"\x80[\x02-\x05][\x95c}\](]", "a Python pickle, which is never opened: save the table as CSV or Parquet"),
    (rb"ORC", "an ORC file: convert it to Parquet"),
    (rb"Obj\x01", "an Avro file: convert it to Parquet"),
    (rb"FEA1", "a Feather file of version 1, which is no longer read: write it again as version 2 (Arrow)"),
    (rb"\x1f\x9d", "packed by compress (.Z): unpack it first"),
    (rb"7z\xbc\xaf", "a 7-Zip archive: unpack it first"),
    (rb"Rar!", "a RAR archive: unpack it first"),
    (rb"\s*(?i:<!doctype|<html|<\?xml|<table)", "HTML or XML: export the table as CSV"),
    (rb"\{\\rtf", "a text processor's file (RTF): export the table as CSV"),
    (rb"version https://git-lfs", "a pointer of Git LFS: fetch the file itself with git lfs pull"),
    (rb"(PAR1|ARROW1|\xff\xff\xff\xff)", "a Parquet or Arrow file, which is read by its own path, unpacked"),
)


def refuse_other(start: bytes, name: str) -> None:
    """Raise `SourceError` for what is known to be no table in text, by its first bytes."""
    for pattern, what in _OTHER:
        if re.match(pattern, start) and not (pattern == rb"ORC" and b"\0" not in start):
            raise SourceError(f"{name} is {what}. CSV, TSV, Parquet, Arrow (Feather) and JSON are read.")
    if b"\0" in start:
        pairs = start.count(b"\0") * 3 > len(start)
        hint = " It seems to be UTF-16 without a byte order mark: convert it to UTF-8." if pairs else ""
        raise SourceError(f"{name} is not text: CSV, TSV, JSON, Parquet or Arrow (Feather) were expected.{hint}")
