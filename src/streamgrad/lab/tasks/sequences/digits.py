"""Handwritten digits, pixel by pixel: the images that come with scikit-learn."""

from __future__ import annotations

from typing import Any

from streamgrad.data.errors import SourceError
from streamgrad.lab.tasks.sequences._sequences import Splits, divide, scaled


def digits(*, valid: int = 200, test: int = 400, seed: int = 0) -> Splits:
    """The 1,797 images of 8 × 8 pixels, one pixel a step, row by row: time 64, in_size 1, 10 classes.

    The training part is what `valid` and `test` leave: 1,197 images. Each label keeps its proportion in
    every part; `seed` decides which image goes where. Pixels are scaled to mean 0 and standard deviation 1
    by the training part.

    Raises `SourceError` where scikit-learn is not installed, `ValueError` where no image is left to train on.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise SourceError(
            "the digits come with the package scikit-learn, which is not installed: "
            "pip install 'streamgrad[data]' brings it."
        ) from None
    bunch: Any = load_digits()
    images, labels = bunch.images.reshape(-1, 64, 1), bunch.target
    parts = divide("digits", labels, (len(labels) - valid - test, valid, test), seed)
    return scaled("digits", 10, *((images[part], labels[part]) for part in parts))
