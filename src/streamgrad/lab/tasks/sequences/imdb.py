"""Film reviews, character by character, and whether they are favourable."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from streamgrad.data.errors import SourceError
from streamgrad.lab.tasks.sequences._folder import existing_folder, read_bytes
from streamgrad.lab.tasks.sequences._sequences import Sequences, Splits, split

FIRST, LAST = 32, 126  # printable ASCII: tokens 0 to 94
OTHER = LAST - FIRST + 1  # any other byte; a letter with an accent is two of them
PADDING = OTHER + 1
IN_SIZE = PADDING + 1

TOKENS = np.full(256, OTHER, np.uint8)
"""The token of each byte."""
TOKENS[FIRST : LAST + 1] = np.arange(OTHER)


def imdb(
    folder: str | os.PathLike[str],
    *,
    time: int = 4096,
    valid: int = 2_500,
    seed: int = 0,
    reviews: int = 12_500,
) -> Splits:
    """The 50,000 reviews of Maas et al. (2011), as bytes of UTF-8: one-hot tokens, in_size 97, 2 classes.

    A printable ASCII character is its code less 32 (tokens 0 to 94), any other byte token 95, padding token 96.
    Label 1 is a favourable review.

    **Arguments:**

    - `folder`: `aclImdb`, which the archive `aclImdb_v1.tar.gz` unpacks into, or the folder around it.
    - `time`: steps. Longer reviews lose their end, shorter ones are padded.
    - `valid`: reviews that are taken from the 25,000 for training, half of them favourable, and which ones is
      decided by `seed`.
    - `reviews`: in each of the four folders of texts; another number is for a copy that was made smaller.

    Raises `SourceError` where a folder or a review is missing or empty, `ValueError` where `time` is less than 1 or
    `valid` too large.
    """
    if time < 1:
        raise ValueError(f"imdb: time={time} steps hold no text: give 1 or more.")
    path = existing_folder(folder, "aclImdb", "the reviews (aclImdb_v1.tar.gz)")
    whole = _part(path / "train", time, reviews)
    test = _part(path / "test", time, reviews)
    train, held_out = split(whole, (len(whole) - valid, valid), seed)
    return Splits(train, held_out, *split(test, (len(test),), seed))


def _part(path: Path, time: int, reviews: int) -> Sequences:
    """The reviews under `path`/neg and `path`/pos."""
    files = [*_texts(path / "neg", reviews), *_texts(path / "pos", reviews)]
    xs = np.full((len(files), time), PADDING, np.uint8)
    lengths = np.zeros(len(files), np.int32)
    for i, file in enumerate(files):
        tokens = TOKENS[np.frombuffer(read_bytes(file)[:time], np.uint8)]
        if not len(tokens):
            raise SourceError(f"{file} is empty, and a review was expected: unpack aclImdb_v1.tar.gz again.")
        xs[i, : len(tokens)], lengths[i] = tokens, len(tokens)
    labels = np.repeat(np.arange(2, dtype=np.int32), reviews)
    return Sequences(xs, labels, lengths, IN_SIZE, 2, "imdb", PADDING)


def _texts(path: Path, reviews: int) -> list[Path]:
    """The text files of one folder, by name."""
    files = sorted(path.glob("*.txt"))
    if len(files) != reviews:
        found = f"has {len(files):,} texts" if path.is_dir() else "is not there"
        raise SourceError(
            f"{path} {found}, and a folder of {reviews:,} reviews (*.txt) was expected: unpack aclImdb_v1.tar.gz again."
        )
    return files
