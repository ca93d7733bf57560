"""Trace conditioning: one stimulus foretells another after a pause."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import UInt8

from streamgrad.lab.tasks._conditioning import Conditioning, bayes_error, zero_error

__all__ = ["TraceConditioning", "bayes_error", "zero_error"]


@dataclasses.dataclass(frozen=True)
class TraceConditioning(Conditioning):
    """A CS of one bit on one step, and the US `isi` steps later, each time.

    2 inputs, the CS and the US, and distractors if asked for. `isi` is twice that of trace patterning.
    `stream(seed)` gives the stream.
    """

    isi: tuple[int, int] = (48, 72)
    distractors: int = 0

    @property
    def patterns(self) -> UInt8[np.ndarray, "patterns bits"]:
        """The one CS."""
        return np.ones((1, 1), np.uint8)

    @property
    def valid_patterns(self) -> int:
        """It is always followed by the US."""
        return 1
