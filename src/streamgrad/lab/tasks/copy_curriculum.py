"""Copy with a curriculum: say a string of bits again, longer and longer ones."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from .drawn import Token

DELIMITER, SILENCE = 2, 3


@dataclasses.dataclass(frozen=True)
class CopyCurriculum:
    """Strings of l random bits, a delimiter, and then l silent tokens at which the string is to be said: 2 l + 1.

    At level L, l is drawn from U[max(1, L - `spread`), L]; L begins at `first` and rises by 1, up to `most`, when a
    minibatch costs less than `threshold` bits a character (0: never). Inputs: three channels, for a 0, a 1 and the
    delimiter; all zero while the string is said, and behind it.

    - `lengths`: "one": all strings of a minibatch have the same l; "own": each draws its own, and those that were said
      wait for the longest.
    """

    batch: int = 16
    first: int = 1
    spread: int = 5
    threshold: float = 0.15
    most: int = 63
    lengths: Literal["one", "own"] = "one"

    in_size: ClassVar[int] = 3
    classes: ClassVar[int] = 2

    def __post_init__(self):
        if self.lengths not in ("one", "own"):
            raise ValueError(f"CopyCurriculum: lengths must be one or own, got {self.lengths!r}.")
        for name, low in (("batch", 1), ("first", 1), ("spread", 0), ("threshold", 0), ("most", self.first)):
            if getattr(self, name) < low:
                raise ValueError(f"CopyCurriculum: {name} must be at least {low}, got {getattr(self, name)}.")

    def time(self, level):
        """Tokens of the longest sequence of a level."""
        return 2 * level + 1

    def _strings(self, key: PRNGKeyArray, level: Int[Array, ""]) -> Int[Array, " batch"]:
        """l, the length of each string."""
        shortest = jnp.maximum(1, level - self.spread)
        shape = (self.batch,) if self.lengths == "own" else ()
        return jnp.broadcast_to(jax.random.randint(key, shape, shortest, level + 1, jnp.int32), (self.batch,))

    def length(self, key: PRNGKeyArray, level: Int[Array, ""]) -> Int[Array, ""]:
        """Tokens of the longest of these sequences."""
        return 2 * jnp.max(self._strings(key, level)) + 1

    def at(self, key: PRNGKeyArray, level: Int[Array, ""], t: Int[Array, ""]) -> Token:
        """Token t: a bit, the delimiter, silence in which the same bit is asked for, or silence behind it."""
        lengths = self._strings(key, level)
        silent = t > lengths
        place = jnp.where(silent, t - lengths - 1, t)
        bit = (self._drawn(key, place) & 1).astype(jnp.int32)
        symbol = jnp.where(silent, SILENCE, jnp.where(t == lengths, DELIMITER, bit))
        return Token(jax.nn.one_hot(symbol, self.in_size), bit, silent & (t <= 2 * lengths))

    def _drawn(self, key: PRNGKeyArray, place: Int[Array, " batch"]) -> UInt8[Array, " batch"]:
        """Random numbers, one for each place in each string."""
        if self.lengths == "one":  # the same place everywhere
            return jax.random.bits(jax.random.fold_in(key, place[0] + 1), (self.batch,), jnp.uint8)
        draw = lambda stream, place: jax.random.bits(jax.random.fold_in(stream, place), (), jnp.uint8)
        return jax.vmap(draw)(jax.random.split(jax.random.fold_in(key, 1), self.batch), place)

    def next(self, level: Int[Array, ""], bits: Float[Array, ""]) -> Int[Array, ""]:
        """One more when the minibatch was said well enough."""
        return jnp.where(bits < self.threshold, jnp.minimum(level + 1, self.most), level)
