"""Sequences to classify: digits, 1-D digits, ListOps, and sets of files that a user has."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from ..tasks import sequences
from ._classify import QUICK, Shared, experiment
from ._settings import Mode, Network, Training


@dataclasses.dataclass(frozen=True)
class Digits(Shared):
    """Digits, pixel by pixel."""

    network: Network = dataclasses.field(default_factory=lambda: Network(depth=3, width=64, units=64))
    training: Training = dataclasses.field(default_factory=lambda: Training(updates=2500))


DIGITS = experiment(
    "digits",
    "Digits pixel by pixel",
    "The 8 x 8 digits of scikit-learn, one pixel a step: 64 steps, 1,197 training, 200 validation, 400 test images.",
    "1 hour",
    Digits(),
    Digits(**QUICK),
    lambda settings: sequences.digits(),
    0.1,
)


@dataclasses.dataclass(frozen=True)
class Mnist1D(Shared):
    """Generated 1-D digits."""

    network: Network = dataclasses.field(default_factory=lambda: Network(depth=3, width=64, units=64))
    training: Training = dataclasses.field(default_factory=lambda: Training(updates=2500))


MNIST1D = experiment(
    "mnist1d",
    "Generated 1-D digits",
    "Curves of ten kinds, shifted, stretched, sheared and noisy, one value a step: 40 steps, 4,000 training, 500 "
    "validation, 1,000 test curves.",
    "40 minutes",
    Mnist1D(),
    Mnist1D(**QUICK),
    lambda settings: sequences.mnist1d(),
    0.1,
)


@dataclasses.dataclass(frozen=True)
class ListOps(Shared):
    """ListOps. The paper's setting: lengths 500 to 2000, a network of 4 x (256, 128)."""

    min_length: int = 10
    """Tokens in an expression, at least."""
    max_length: int = 50
    """Tokens in an expression, at most."""
    expressions: int = 50_000
    """Expressions for training."""
    network: Network = dataclasses.field(default_factory=lambda: Network(depth=3, width=64, units=64, dropout=0.0))
    training: Training = dataclasses.field(default_factory=lambda: Training(updates=4000))


def _listops(settings: ListOps) -> sequences.Splits:
    return sequences.listops(
        train=settings.expressions,
        valid=1000,
        test=2000,
        min_length=settings.min_length,
        max_length=settings.max_length,
    )


LISTOPS = experiment(
    "listops",
    "ListOps",
    "Nested lists of digits under MIN, MAX, MED and SUM modulo 10, one token a step; the answer is a digit. Balanced "
    "labels. A network that knows the outermost operator alone would reach 25%.",
    "2 hours at the short default; the paper's setting wants a GPU",
    ListOps(),
    ListOps(**QUICK, expressions=500),
    _listops,
    0.1,
)


@dataclasses.dataclass(frozen=True)
class Fashion(Shared):
    """Fashion-MNIST, pixel by pixel or row by row."""

    modes: tuple[Mode, ...] = ("bptt", "online", "one-step", "spatial", "frozen")
    """How the recurrent layers learn; a trial for each."""
    data: Path = Path("/usr/share/datasets/fashion-mnist")
    """The folder of its four IDX files, compressed or not: where Debian's package dataset-fashion-mnist puts them."""
    by: Literal["pixel", "row"] = "row"
    """pixel: 784 steps of one number; row: 28 steps of 28."""
    valid: int = 5_000
    """Images of the training files for validation."""
    network: Network = dataclasses.field(default_factory=lambda: Network(depth=4, width=64, units=64))
    training: Training = dataclasses.field(default_factory=lambda: Training(updates=2400))


FASHION = experiment(
    "fashion",
    "Fashion-MNIST by pixel or by row",
    "28 x 28 images of clothes, one row a step (28 steps) or one pixel (784): 55,000 training, 5,000 validation, "
    "10,000 test images, from IDX files in a folder that you name: --data. MNIST and KMNIST come in the same files.",
    "1 hour by row, 3 days by pixel",
    Fashion(),
    Fashion(**{**QUICK, "modes": ("bptt", "frozen")}, valid=20),
    lambda s: sequences.fashion(s.data, by=s.by, valid=s.valid),
    0.1,
)


@dataclasses.dataclass(frozen=True)
class Scifar(Shared):
    """CIFAR-10, pixel by pixel."""

    folder: Path = Path("cifar-10-batches-bin")
    """The unpacked archive, binary version."""
    grey: bool = False
    """One channel instead of three."""
    images: int = 10_000
    """Images in each of its files."""
    valid: int = 5_000
    """Images of the training files for validation."""
    network: Network = dataclasses.field(default_factory=lambda: Network(depth=4, width=128, units=128))
    training: Training = dataclasses.field(default_factory=lambda: Training(updates=100_000, evaluations=100))


SCIFAR = experiment(
    "scifar",
    "CIFAR-10 pixel by pixel",
    "32 x 32 images, one pixel a step: 1,024 steps. From the files of CIFAR-10's binary version, which you fetch "
    "yourself: --folder.",
    "days; made for a GPU",
    Scifar(),
    Scifar(**QUICK),
    lambda s: sequences.scifar(s.folder, grey=s.grey, images=s.images, valid=s.valid),
    0.1,
)


@dataclasses.dataclass(frozen=True)
class Imdb(Shared):
    """Film reviews, character by character."""

    folder: Path = Path("aclImdb")
    """The unpacked archive."""
    time: int = 4096
    """Characters of each review."""
    reviews: int = 12_500
    """Reviews in each of its folders."""
    valid: int = 2_500
    """Reviews of the training folders for validation."""
    network: Network = dataclasses.field(default_factory=lambda: Network(depth=4, width=128, units=128))
    training: Training = dataclasses.field(default_factory=lambda: Training(updates=50_000, evaluations=100))


IMDB = experiment(
    "imdb",
    "Film reviews by characters",
    "Whether a review is positive, one character a step, up to 4,096. From the folder aclImdb of the Large Movie "
    "Review Dataset, which you fetch yourself: --folder.",
    "days; made for a GPU",
    Imdb(),
    Imdb(**QUICK),
    lambda s: sequences.imdb(s.folder, time=s.time, valid=s.valid, reviews=s.reviews),
    0.5,
)
