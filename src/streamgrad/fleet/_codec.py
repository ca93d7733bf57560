"""A learner's state as bytes: a header that says whose it is, and a row of words.

"sgfl" | schema, 1 byte | marks of the learner, 4 bytes a part | CRC-32 of the words | the words, little-endian
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import numpy as np

from ._errors import FleetError
from ._identity import Description, marks

MAGIC = b"sgfl"
SCHEMA = 2
_WORDS = np.dtype("<u4")


class Codec:
    """Rows of one kind of learner as bytes, and back; all else is refused by name."""

    def __init__(self, description: Description, words: int):
        self.parts, self.words = tuple(description), words
        self.marks = marks(description)
        self.head = MAGIC + bytes([SCHEMA]) + self.marks

    def encode(self, row: np.ndarray) -> bytes:
        """The bytes of a row."""
        raw = row.astype(_WORDS, copy=False).tobytes()
        return self.head + struct.pack("<I", zlib.crc32(raw)) + raw

    def decode(self, data: bytes, of: object) -> np.ndarray:
        """The row of these bytes. `of`: the key that an error names. Raises `FleetError` for bytes that are not a
        state, are damaged, or belong to another learner or a newer version."""
        data = bytes(data)
        if data[: len(self.head)] != self.head:
            data = self._migrated(data, of)
        start = len(self.head) + 4
        raw = data[start:]
        whole = len(raw) == self.words * _WORDS.itemsize
        if not whole or data[start - 4 : start] != struct.pack("<I", zlib.crc32(raw)):
            raise FleetError(f"the state of {of!r} is damaged: its content does not match its CRC-32. Restore a copy.")
        return np.frombuffer(raw, _WORDS)

    def _migrated(self, data: bytes, of: object) -> bytes:
        """The bytes in the present schema."""
        if data[:4] != MAGIC or len(data) < 5:
            raise FleetError(f"the state of {of!r} is no state of a fleet's learner: it begins with {data[:4]!r}.")
        schema = data[4]
        while schema in MIGRATIONS:
            data = MIGRATIONS[schema](data, len(self.marks))
            schema = data[4]
        if schema != SCHEMA:
            raise FleetError(
                f"the state of {of!r} has schema {schema}, and this version of streamgrad reads up to {SCHEMA}: use "
                "the version that wrote it."
            )
        mark = lambda marks, k: marks[4 * k : 4 * k + 4]
        differ = [part for k, part in enumerate(self.parts) if mark(data[5:], k) != mark(self.marks, k)]
        if differ:
            raise FleetError(
                f"the state of {of!r} is of another learner: its {' and '.join(differ)} differ. Give the make, update, "
                "loss, delay and types of inputs and targets that it was made with."
            )
        return data


def _from_1(data: bytes, marks: int) -> bytes:
    """Schema 1 had no check of the content."""
    raw = data[5 + marks :]
    return MAGIC + b"\2" + data[5 : 5 + marks] + struct.pack("<I", zlib.crc32(raw)) + raw


#: From a schema to the next one.
MIGRATIONS: dict[int, Callable[[bytes, int], bytes]] = {1: _from_1}
