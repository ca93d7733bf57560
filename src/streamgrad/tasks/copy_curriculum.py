"""Copy with a curriculum: say a string of bits again, longer and longer ones."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .drawn import Token

DELIMITER, SILENCE = 2, 3


@dataclasses.dataclass(frozen=True)
class CopyCurriculum:
    """Strings of l random bits, a delimiter, and then l silent tokens at which the string is to be said: 2 l + 1.

    At level L the minibatch's l is drawn from U[max(1, L - `spread`), L]; L begins at `first` and rises by 1, up to
    `most`, when a minibatch costs less than `threshold` bits a character (0: never). Inputs: three channels, for a 0,
    a 1 and the delimiter; all zero while the string is said.
    """

    batch: int = 16
    first: int = 1
    spread: int = 5
    threshold: float = 0.15
    most: int = 63

    in_size: ClassVar[int] = 3
    classes: ClassVar[int] = 2

    def __post_init__(self):
        for name, low in (("batch", 1), ("first", 1), ("spread", 0), ("threshold", 0), ("most", self.first)):
            if getattr(self, name) < low:
                raise ValueError(f"CopyCurriculum: {name} must be at least {low}, got {getattr(self, name)}.")

    def time(self, level):
        """Tokens of the longest sequence of a level."""
        return 2 * level + 1

    def _string(self, key: PRNGKeyArray, level: Int[Array, ""]) -> Int[Array, ""]:
        """l, the length of the string."""
        shortest = jnp.maximum(1, level - self.spread)
        return jax.random.randint(key, (), shortest, level + 1, jnp.int32)

    def length(self, key: PRNGKeyArray, level: Int[Array, ""]) -> Int[Array, ""]:
        """Tokens of these sequences."""
        return 2 * self._string(key, level) + 1

    def at(self, key: PRNGKeyArray, level: Int[Array, ""], t: Int[Array, ""]) -> Token:
        """Token t: a bit, the delimiter, or silence in which the same bit is asked for."""
        length = self._string(key, level)
        asked = t > length
        place = jnp.where(asked, t - length - 1, t)
        drawn = jax.random.bits(jax.random.fold_in(key, place + 1), (self.batch,), jnp.uint8)
        bit = (drawn & 1).astype(jnp.int32)
        symbol = jnp.where(asked, SILENCE, jnp.where(t == length, DELIMITER, bit))
        return Token(jax.nn.one_hot(symbol, self.in_size), bit, asked)

    def next(self, level: Int[Array, ""], bits: Float[Array, ""]) -> Int[Array, ""]:
        """One more when the minibatch was said well enough."""
        return jnp.where(bits < self.threshold, jnp.minimum(level + 1, self.most), level)
