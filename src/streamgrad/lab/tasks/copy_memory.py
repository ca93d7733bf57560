"""Copy memory: repeat a pattern of bits after a pause."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import UInt8


@dataclasses.dataclass(frozen=True)
class CopyMemory:
    """A pattern of `length` steps of `bits` random bits, a pause, a marker, and then the pattern to be recalled.

    A sequence has `time = 2 * length + pause + 1` steps (48). Inputs: the bits and one more channel for the marker;
    all zero in the pause and during the recall.
    """

    bits: int = 7
    length: int = 20
    pause: int = 7

    def __post_init__(self):
        for name, low in (("bits", 1), ("length", 1), ("pause", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"CopyMemory: {name} must be at least {low}, got {getattr(self, name)}.")

    @property
    def time(self) -> int:
        """Steps of a sequence."""
        return 2 * self.length + self.pause + 1

    @property
    def in_size(self) -> int:
        """Inputs of a step: the bits and the marker."""
        return self.bits + 1

    def draw(
        self, count: int, rng: np.random.Generator
    ) -> tuple[UInt8[np.ndarray, "count time channels"], UInt8[np.ndarray, "count length bits"]]:
        """`count` sequences and their patterns, which the last `length` steps must say."""
        pattern = rng.integers(2, size=(count, self.length, self.bits), dtype=np.uint8)
        xs = np.zeros((count, self.time, self.in_size), np.uint8)
        xs[:, : self.length, : self.bits] = pattern
        xs[:, self.length + self.pause, self.bits] = 1
        return xs, pattern
