"""Trace patterning: which patterns foretell an event, and when it comes. Javed et al. (2023), arXiv:2302.05326."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
from jaxtyping import UInt8

from streamgrad.lab.tasks._conditioning import Conditioning, bayes_error, zero_error

__all__ = ["TracePatterning", "bayes_error", "zero_error"]


@dataclasses.dataclass(frozen=True)
class TracePatterning(Conditioning):
    """A conditioning task: valid patterns of `on` out of `bits` bits announce a US `isi` steps later. A pattern comes
    on one step; `valid` of the C(bits, on) patterns, drawn by the seed, are followed by the US, the others by nothing.

    12 inputs: 6 bits, the US, 5 distractors. `stream(seed)` gives the stream. With gamma .9 the mean squared error of
    predicting 0 is .0201, and that of the best prediction .0017.
    """

    bits: int = 6
    on: int = 3
    valid: int = 10

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.on <= self.bits:
            raise ValueError(f"TracePatterning: on must be from 1 to bits={self.bits}, got {self.on}.")
        count = math.comb(self.bits, self.on)
        if not 1 <= self.valid <= count:
            raise ValueError(f"TracePatterning: valid must be from 1 to the {count} patterns, got {self.valid}.")

    @property
    def patterns(self) -> UInt8[np.ndarray, "patterns bits"]:
        """Every way for `on` of the bits to be on."""
        chosen = np.array(list(itertools.combinations(range(self.bits), self.on)))
        patterns = np.zeros((len(chosen), self.bits), np.uint8)
        np.put_along_axis(patterns, chosen, 1, axis=1)
        return patterns

    @property
    def valid_patterns(self) -> int:
        """How many of the patterns are followed by the US."""
        return self.valid
