"""CIFAR-10, pixel by pixel (sequential CIFAR)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from streamgrad.data.errors import SourceError
from streamgrad.lab.tasks.sequences._folder import existing_folder, read_bytes
from streamgrad.lab.tasks.sequences._sequences import Splits, divide, scaled

PIXELS = 32 * 32
RECORD = 1 + 3 * PIXELS  # bytes: the label, then all pixels in red, in green, in blue
TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST = "test_batch.bin"
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # how bright red, green and blue look, by ITU-R BT.601


def scifar(
    folder: str | os.PathLike[str],
    *,
    grey: bool = False,
    valid: int = 5_000,
    seed: int = 0,
    images: int = 10_000,
) -> Splits:
    """The 60,000 images of 32 × 32 pixels, one pixel a step, row by row: time 1024, 10 classes.

    **Arguments:**

    - `folder`: `cifar-10-batches-bin`, which the *binary* version of CIFAR-10 unpacks into, or the folder around it.
    - `grey`: the brightness alone, in_size 1, in place of red, green and blue, in_size 3.
    - `valid`: images that are taken from the 50,000 for training, every label in proportion, and which ones
      is decided by `seed`. The 10,000 for testing are left as they are.
    - `images`: in each of the six files; another number is for a copy that was made smaller.

    Each input is scaled to mean 0 and standard deviation 1 by the training part. In colour all takes 0.7 GB
    and twice that while it is read.

    Raises `SourceError` where a file is missing, cut, or not in this format; `ValueError` where `valid` leaves
    no image to train on.
    """
    path = existing_folder(folder, "cifar-10-batches-bin", "the binary version of CIFAR-10")
    _refuse_other_versions(path)
    both = [_read(path / name, images) for name in (*TRAIN, TEST)]
    labels = np.concatenate([records[:, 0] for records in both[:-1]])
    pixels = np.concatenate([_inputs(records, grey) for records in both[:-1]])
    parts = divide("scifar", labels, (len(labels) - valid, valid), seed)
    test = (_inputs(both[-1], grey), both[-1][:, 0])
    return scaled("scifar", 10, *((pixels[part], labels[part]) for part in parts), test)


def _refuse_other_versions(path: Path) -> None:
    """Name the version of CIFAR-10 that lies in the folder where it is not the binary one."""
    if (path / TRAIN[0]).exists():
        return
    others = {"data_batch_1": "Python", "cifar-10-batches-py": "Python", "data_batch_1.mat": "Matlab"}
    for name, version in others.items():
        if (path / name).exists():
            pickled = ", which is pickled and could run any program," if version == "Python" else ""
            raise SourceError(
                f"{path} holds the {version} version of CIFAR-10 ({name}){pickled} and the binary version "
                f"({TRAIN[0]}) was expected: take cifar-10-binary.tar.gz from the same place."
            )


def _read(path: Path, images: int) -> UInt8[np.ndarray, "n 3073"]:
    """The records of one file."""
    if not path.exists():
        raise SourceError(
            f"there is no file {path}: {', '.join(TRAIN)} and {TEST} were expected; "
            "unpack cifar-10-binary.tar.gz again."
        )
    content = np.frombuffer(read_bytes(path), np.uint8)
    expected = images * RECORD
    if len(content) != expected:
        fault = "it is cut" if len(content) < expected else "it is another file"
        raise SourceError(
            f"{path} has {len(content):,} bytes, and {expected:,} were expected ({images:,} images of {RECORD:,} "
            f"bytes): {fault}; unpack the archive again."
        )
    records = content.reshape(-1, RECORD)
    wrong = np.flatnonzero(records[:, 0] > 9)
    if len(wrong):
        raise SourceError(
            f"{path}, image {wrong[0] + 1}: the label is {records[wrong[0], 0]}, and 0 to 9 was expected: the file is "
            "damaged or of another data set; unpack the archive again."
        )
    return records


def _inputs(records: UInt8[np.ndarray, "n 3073"], grey: bool) -> np.ndarray:
    """The pixels of each image in turn: (n, 1024, 3) uint8, or (n, 1024, 1) float32 if `grey`."""
    colours = records[:, 1:].reshape(-1, 3, PIXELS).transpose(0, 2, 1)
    return colours @ LUMA[:, None] if grey else colours
