"""Blocks of bytes, unpacked and brought to UTF-8, by content."""

from __future__ import annotations

import bz2
import codecs
import lzma
import re
import zlib
from collections.abc import Callable, Generator, Iterator
from typing import Any

SMALL = 1 << 10  # bytes unpacked at a time: damage takes along what a step has unpacked
LARGE = 1 << 16  # bytes handed on at a time

Blocks = Generator[bytes, None, None]


class Damage(Exception):
    """Bytes cannot be had beyond this point; the message is the reason, without place and name."""


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
    """The decompressor for these first bytes; None for plain data.

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
            if size >= LARGE or not block:
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
