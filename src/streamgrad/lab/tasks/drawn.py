"""Sequences drawn by a key, token by token: nothing is stored, and a minibatch is as long as its longest sequence."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray


class Token(NamedTuple):
    """A token of every sequence of a minibatch: what is seen, what is to be said, and of which it is asked for."""

    x: Array
    target: Int[Array, " batch"]
    asked: Bool[Array, " batch"]


@runtime_checkable
class Drawn(Protocol):
    """Minibatches of `batch` sequences. A key and a level say all about one of them; the level begins at
    `first` and may rise up to `most`."""

    @property
    def batch(self) -> int: ...
    @property
    def first(self) -> int: ...
    @property
    def most(self) -> int: ...

    def time(self, level: Any) -> Any:
        """The most tokens that a sequence of this level has."""
        ...

    def length(self, key: PRNGKeyArray, level: Int[Array, ""]) -> Int[Array, ""]:
        """Tokens of the longest of these sequences."""
        ...

    def at(self, key: PRNGKeyArray, level: Int[Array, ""], t: Int[Array, ""]) -> Token:
        """Token t of these sequences."""
        ...

    def next(self, level: Int[Array, ""], bits: Float[Array, ""]) -> Int[Array, ""]:
        """The level after a minibatch that cost so many bits a character."""
        ...
