"""Fashion-MNIST, pixel by pixel or row by row, and any data set in its files (MNIST, KMNIST)."""

from __future__ import annotations

import dataclasses
import gzip
import os
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from streamgrad.data.errors import SourceError
from streamgrad.lab.tasks.sequences._folder import existing_folder
from streamgrad.lab.tasks.sequences._sequences import Splits, divide, scaled

PARTS = {"train": "train", "test": "t10k"}
SIDE = 28
MOST = 1 << 28  # bytes that a file may unpack to


def fashion(
    folder: str | os.PathLike[str], *, by: Literal["pixel", "row"] = "pixel", valid: int = 5_000, seed: int = 0
) -> Splits:
    """The 70,000 images of clothes, 28 × 28 grey pixels: a pixel a step, time 784, or a row of 28 a step, time 28.

    **Arguments:**

    - `folder`: holds the four IDX files train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and
      t10k-labels-idx1-ubyte, each as it is or compressed (.gz). Debian's package dataset-fashion-mnist puts them into
      /usr/share/datasets/fashion-mnist; MNIST and KMNIST come in the same files.
    - `valid`: images that are taken from those for training, every label in proportion, and which ones is decided by
      `seed`. Those for testing are left as they are.

    Pixels are scaled to mean 0 and standard deviation 1, all of them alike, by the training part.

    Raises `SourceError` where a file is missing, cut, or not in this format; `ValueError` where `valid` leaves no image
    to train on.
    """
    path = existing_folder(folder, "fashion-mnist", "Fashion-MNIST's IDX files")
    (pixels, labels), test = (_read(path, name) for name in PARTS.values())
    if valid >= len(labels):
        raise ValueError(f"fashion: valid={valid} leaves none of {len(labels)} images to train on.")
    parts = divide("fashion", labels, (len(labels) - valid, valid), seed)
    splits = scaled("fashion", 10, *((pixels[part], labels[part]) for part in parts), test)
    return splits if by == "pixel" else Splits(*map(_by_row, splits))


def _by_row(images):
    lengths = np.full(len(images), SIDE, np.int32)
    return dataclasses.replace(images, xs=images.xs.reshape(-1, SIDE, SIDE), lengths=lengths, in_size=SIDE)


def _read(folder: Path, part: str) -> tuple[UInt8[np.ndarray, "n 784 1"], UInt8[np.ndarray, " n"]]:
    """Images and labels of one part."""
    images = _idx(folder, f"{part}-images-idx3-ubyte", 3)
    labels = _idx(folder, f"{part}-labels-idx1-ubyte", 1)
    if images.shape[1:] != (SIDE, SIDE):
        shown = " × ".join(map(str, images.shape[1:]))
        raise SourceError(f"{folder}: images of {part} have {shown} pixels, and {SIDE} × {SIDE} were expected.")
    if len(images) != len(labels):
        raise SourceError(
            f"{folder}: {part} has {len(images):,} images and {len(labels):,} labels: take both files from one place."
        )
    if len(labels) and labels.max() > 9:
        raise SourceError(f"{folder}: a label of {part} is {labels.max()}, and 0 to 9 was expected.")
    return images.reshape(-1, SIDE * SIDE, 1), labels


def _idx(folder: Path, name: str, dimensions: int) -> UInt8[np.ndarray, " ..."]:
    """The array of one IDX file: zeros, its type (8: bytes) and dimensions, the sizes as four bytes each, the data."""
    path = next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)
    if path is None:
        raise SourceError(f"there is no file {folder / name}, compressed (.gz) or not: name the folder that holds it.")
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read(MOST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"{path} cannot be read ({error}): take the file again.") from None
    start = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) < start:
        raise SourceError(
            f"{path} begins with {content[:4].hex(' ') or 'nothing'}, and 00 00 08 {dimensions:02x} was expected: "
            "it is "
            "no IDX file of bytes; take the file again."
        )
    sizes = np.frombuffer(content, ">u4", dimensions, 4).astype(int)
    if (expected := start + int(np.prod(sizes))) != len(content):
        raise SourceError(
            f"{path} has {len(content):,} bytes, and {expected:,} were expected by its head: take the file again."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(sizes)
