"""Labelled sequences of one length, how they are divided, and how they are scaled."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, Shaped, UInt8

Values = Float32[np.ndarray, "n time in_size"]
Tokens = UInt8[np.ndarray, "n time"]


@dataclasses.dataclass(frozen=True, eq=False)
class Sequences:
    """n labelled sequences.

    - `xs`: float32 values of shape (n, time, in_size), or uint8 tokens of shape (n, time), each less
      than `in_size`, which `encode` makes one-hot.
    - `labels`: (n,) int32, from 0 to `classes` - 1.
    - `lengths`: (n,) int32, from 1 to `time`: steps that are real. What follows them is padding.
    - `in_size`, `classes`: numbers of inputs and of labels.
    - `name`: of the task.
    - `padding`: the token that stands for padding; None where there is none.

    Raises `ValueError` where these do not fit together.
    """

    xs: Values | Tokens
    labels: Int32[np.ndarray, " n"]
    lengths: Int32[np.ndarray, " n"]
    in_size: int
    classes: int
    name: str
    padding: int | None = None

    def __post_init__(self):
        xs, n = self.xs, len(self.xs)
        tokens = xs.ndim == 2 and xs.dtype == np.uint8
        values = xs.ndim == 3 and xs.dtype == np.float32 and xs.shape[2] == self.in_size
        if not (tokens or values):
            raise ValueError(
                f"{self.name}: xs has shape {xs.shape} and dtype {xs.dtype}; give uint8 tokens (n, time) or "
                f"float32 values (n, time, {self.in_size})."
            )
        if tokens and np.any(xs >= self.in_size):
            raise ValueError(
                f"{self.name}: there is a token {xs.max()}; tokens must be less than in_size={self.in_size}."
            )
        bounds = {"labels": (self.labels, 0, self.classes - 1), "lengths": (self.lengths, 1, self.time)}
        for what, (array, low, high) in bounds.items():
            if array.shape != (n,) or array.dtype != np.int32 or np.any((array < low) | (array > high)):
                raise ValueError(
                    f"{self.name}: {what} have shape {array.shape} and dtype {array.dtype}; give {n} int32 numbers "
                    f"from {low} to {high}, one for each sequence."
                )

    def __len__(self) -> int:
        """The number of sequences."""
        return len(self.xs)

    @property
    def time(self) -> int:
        """Steps in each sequence, padding included."""
        return self.xs.shape[1]

    def take(self, index: Shaped[np.ndarray, " k"] | slice) -> Sequences:
        """The sequences at `index`: whole numbers, a mask, or a slice."""
        some = {"xs": self.xs[index], "labels": self.labels[index], "lengths": self.lengths[index]}
        return dataclasses.replace(self, **some)

    def encode(self, xs: Values | Tokens) -> Values:
        """A batch of `xs` as float32 inputs (n, time, in_size): tokens one-hot, padding zeros, values as they are."""
        return xs if xs.ndim == 3 else self.table[xs]

    @property
    def table(self) -> Float32[np.ndarray, "in_size in_size"]:
        """The input of each token: one-hot, and zeros for padding."""
        table = np.eye(self.in_size, dtype=np.float32)
        if self.padding is not None:
            table[self.padding] = 0
        return table


class Splits(NamedTuple):
    """One task in three parts; no example is in two of them."""

    train: Sequences
    valid: Sequences
    test: Sequences


def split(sequences: Sequences, sizes: tuple[int, ...], seed: int) -> list[Sequences]:
    """Parts of the given sizes, disjoint, each in random order and with every label in proportion.

    What is left over belongs to no part. Raises `ValueError` where the parts together are larger than the
    whole, or a size is negative.
    """
    return [sequences.take(part) for part in divide(sequences.name, sequences.labels, sizes, seed)]


def divide(name: str, labels: Shaped[np.ndarray, " n"], sizes: tuple[int, ...], seed: int) -> list[np.ndarray]:
    """The places in `labels` that make up each part of `split`."""
    n = len(labels)
    if min(sizes) < 0 or sum(sizes) > n:
        raise ValueError(
            f"{name}: {n} sequences cannot be divided into parts of {', '.join(map(str, sizes))}; "
            f"give sizes from 0 on that add up to {n} or less."
        )
    rng = np.random.default_rng(seed)
    # The places of each label, in random order, are spread evenly over [0, 1): so any stretch of it holds all
    # labels in their proportions.
    spread = np.empty(n)
    for label in np.unique(labels):
        at = np.flatnonzero(labels == label)
        spread[at] = (rng.permutation(len(at)) + rng.random()) / len(at)
    ends = np.cumsum(sizes)
    parts = np.split(np.argsort(spread, kind="stable")[: ends[-1]], ends[:-1])
    return [rng.permutation(part) for part in parts]


def scaled(name: str, classes: int, *parts: tuple[Shaped[np.ndarray, "_ time in_size"], np.ndarray]) -> Splits:
    """Splits from (xs, labels) of the training, validation and test part, without padding.

    Each input is brought to mean 0 and standard deviation 1 by its statistics in the training part.
    """
    train = parts[0][0]
    n, time, in_size = train.shape
    if n == 0:
        raise ValueError(f"{name}: the training part is empty; make the validation and the test part smaller.")
    mean = train.mean(axis=(0, 1), dtype=np.float64)
    deviation = np.array([train[..., i].std(dtype=np.float64) for i in range(in_size)])
    deviation[deviation == 0] = 1  # an input that never changes
    sequences = []
    for xs, labels in parts:
        xs = xs.astype(np.float32)
        xs -= mean.astype(np.float32)
        xs /= deviation.astype(np.float32)
        lengths = np.full(len(xs), time, np.int32)
        sequences.append(Sequences(xs, labels.astype(np.int32), lengths, in_size, classes, name))
    return Splits(*sequences)
