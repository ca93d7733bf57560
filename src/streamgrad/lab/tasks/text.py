"""Text, character by character: any file or folder of it, and what familiar compressors make of it."""

from __future__ import annotations

import dataclasses
import gzip
import os
import sysconfig
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray, UInt8

from streamgrad.data.errors import SourceError

from .drawn import Token

NEWLINE, FIRST, LAST = 10, 32, 126
OTHER = LAST - FIRST + 2  # any other byte; a letter with an accent is two of them
CLASSES = OTHER + 1
BYTES = bytes([NEWLINE, *range(FIRST, LAST + 1), 0])
"""The byte of each character: a newline, printable ASCII, and 0 for any other."""
CHARACTERS = np.full(256, OTHER, np.uint8)
"""And the character, 0 to 96, of each byte."""
CHARACTERS[np.frombuffer(BYTES[:-1], np.uint8)] = np.arange(OTHER)


@dataclasses.dataclass(frozen=True, eq=False)
class Text:
    """Characters to learn from, and others to be tested on."""

    train: UInt8[np.ndarray, " characters"]
    valid: UInt8[np.ndarray, " held_out"]


def read_text(path: str | os.PathLike[str] | None = None, *, share: float = 0.05, seed: int = 0) -> Text:
    """The text of a file or of all files of a folder, in two parts.

    - `path`: None, the source of the running Python's standard library, its tests left out. Of a folder that holds
      files with `train` and `valid` in their names, as WikiText-103 does, these are the parts; otherwise whole files,
      in an order drawn by `seed`, are held out until they are a `share` of all. Of a file, its end is.

    Raises `SourceError` where there is no text.
    """
    root = Path(sysconfig.get_paths()["stdlib"] if path is None else path).expanduser()
    if root.is_file():
        text = _characters([root])
        cut = round(len(text) * (1 - share))
        return _parts(text[:cut], text[cut:], root)
    pattern, left_out = ("*.py", {"site-packages", "dist-packages", "test", "tests"}) if path is None else ("*", set())
    files = [f for f in sorted(root.rglob(pattern)) if f.is_file() and not left_out & {*f.relative_to(root).parts}]
    named = {part: [file for file in files if part in file.name] for part in ("train", "valid")}
    if not all(named.values()):
        order = np.random.default_rng(seed).permutation(len(files))
        ends = np.cumsum([files[k].stat().st_size for k in order])
        held = int(np.searchsorted(ends, share * ends[-1])) + 1 if len(files) else 0
        named = {"valid": [files[k] for k in order[:held]], "train": [files[k] for k in order[held:]]}
    return _parts(_characters(named["train"]), _characters(named["valid"]), root)


def _characters(files: list[Path]) -> np.ndarray:
    """The characters of files one after another."""
    try:
        return np.concatenate([np.empty(0, np.uint8), *(CHARACTERS[np.fromfile(f, np.uint8)] for f in files)])
    except OSError as error:
        raise SourceError(f"{error.filename} cannot be read ({os.strerror(error.errno or 0)}).") from None


def _parts(train: np.ndarray, valid: np.ndarray, root: Path) -> Text:
    if not len(train) or not len(valid):
        raise SourceError(
            f"{root} has no text to learn from and to be tested on: give a file, or a folder of two or more."
        )
    return Text(train, valid)


@dataclasses.dataclass(frozen=True, eq=False)
class Crops:
    """Minibatches of `batch` random crops of `crop` characters; after each, the next one is to be said."""

    text: UInt8[np.ndarray, " characters"]
    batch: int = 16
    crop: int = 128
    first: int = 1
    most: int = 1

    def __post_init__(self):
        if len(self.text) <= self.crop:
            raise ValueError(f"Crops: crop={self.crop} characters and one more are not in a text of {len(self.text)}.")

    def time(self, level: Any) -> Any:
        """Characters of every crop."""
        return self.crop

    def length(self, key: PRNGKeyArray, level: Int[Array, ""]) -> Int[Array, ""]:
        """The same, whatever the key."""
        return jnp.asarray(self.crop, jnp.int32)

    def at(self, key: PRNGKeyArray, level: Int[Array, ""], t: Int[Array, ""]) -> Token:
        """Character t of each crop, and the one behind it."""
        start = jax.random.randint(key, (self.batch,), 0, len(self.text) - self.crop, jnp.int32)
        both = jnp.asarray(self.text)[(start + t)[:, None] + jnp.arange(2, dtype=jnp.int32)].astype(jnp.int32)
        return Token(both[:, 0], both[:, 1], jnp.ones(self.batch, bool))

    def next(self, level: Int[Array, ""], bits: Any) -> Int[Array, ""]:
        """There is one level."""
        return level


def gzip_bits(text: UInt8[np.ndarray, " characters"]) -> float:
    """Bits a character of the text compressed by gzip -9."""
    return 8 * len(gzip.compress(np.frombuffer(BYTES, np.uint8)[text].tobytes(), 9)) / len(text)


def ngram_bits(train: UInt8[np.ndarray, " before"], text: UInt8[np.ndarray, " after"], order: int = 5) -> float:
    r"""Bits a character of a text under counts of `order` characters in another one, by Witten and Bell's rule:

        p(c | context) = (n(context c) + d(context) p(c | context less its first)) / (n(context) + d(context))

    with d the number of different characters seen behind a context, and 1 / 97 where nothing is left of it. The first
    `order` - 1 characters are not scored.
    """
    p = np.full(len(text) - order + 1, 1 / CLASSES)
    for length in range(1, order + 1):
        keys, counts = np.unique(_grams(train, length), return_counts=True)
        contexts, first = np.unique(keys // CLASSES, return_index=True)
        followers = np.diff(np.append(first, len(keys)))
        total = np.add.reduceat(counts, first)
        asked = _grams(text, length)[order - length :]
        n = _found(asked, keys, counts)
        n_context, d = (_found(asked // CLASSES, contexts, of) for of in (total, followers))
        p = np.where(n_context > 0, (n + d * p) / np.maximum(n_context + d, 1), p)
    return float(-np.mean(np.log2(p)))


def _grams(text: np.ndarray, length: int) -> np.ndarray:
    """A number for each run of so many characters: the last one is its remainder by `CLASSES`."""
    windows = np.lib.stride_tricks.sliding_window_view(text, length).astype(np.int64)
    return windows @ (CLASSES ** np.arange(length - 1, -1, -1, dtype=np.int64))


def _found(asked: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The value of each key that is asked for, 0 where there is none."""
    place = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return np.where(keys[place] == asked, values[place], 0)
