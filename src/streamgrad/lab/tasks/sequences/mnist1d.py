"""Ten curves, distorted at random: a generated task in the manner of MNIST-1D.

The recipe is that of Greydanus and Kobak, "Scaling down deep learning with MNIST-1D" (2020); the
templates, and so the figures, are our own.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from streamgrad.lab.tasks.sequences._sequences import Splits, divide, scaled

TEMPLATES = np.array(
    [
        [0.1, 0.5, 0.8, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.8, 0.5, 0.1],  # a broad hill
        [0.0, 0.0, 0.0, 0.1, 0.5, 1.3, 1.3, 0.5, 0.1, 0.0, 0.0, 0.0],  # a peak
        [0.3, 0.7, 1.0, 0.9, 0.5, 0.1, -0.1, -0.5, -0.9, -1.0, -0.7, -0.3],  # a hill and a valley
        [-0.3, -0.7, -1.0, -0.9, -0.5, -0.1, 0.1, 0.5, 0.9, 1.0, 0.7, 0.3],  # a valley and a hill
        [0.3, 0.9, 1.2, 0.8, 0.2, 0.0, 0.0, 0.2, 0.8, 1.2, 0.9, 0.3],  # two hills
        [0.0, 0.1, 0.2, 0.4, 0.5, 0.6, 0.8, 0.9, 1.0, 1.2, 1.3, 0.4],  # a slow rise, a fall
        [0.4, 1.3, 1.2, 1.0, 0.9, 0.8, 0.6, 0.5, 0.4, 0.2, 0.1, 0.0],  # a rise, a slow fall
        [-0.1, -0.5, -0.8, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0, -0.8, -0.5, -0.1],  # a broad valley
        [0.6, 1.0, 0.4, -0.5, -0.9, -0.3, 0.5, 0.9, 0.3, -0.6, -1.0, -0.5],  # waves
        [0.3, 0.8, 0.9, 0.4, -0.4, -1.0, -1.0, -0.4, 0.4, 0.9, 0.8, 0.3],  # a valley between two hills
    ]
)
STEPS = 40
EMPTY = (36, 60)  # points added to a template's 12, fewest and most
SHIFT = 48  # points by which it is moved, at most
SCALE = 0.4  # by which its height varies
SHEAR = 0.75  # rise over all steps, at most
SMOOTH, WHITE = 0.15, 0.02  # deviations of the correlated noise and of the white noise
WIDTH = 2.0  # points over which noise is correlated


def mnist1d(*, train: int = 4000, valid: int = 500, test: int = 1000, seed: int = 0) -> Splits:
    """Noisy curves of ten kinds: time 40, in_size 1, 10 classes that are equally frequent.

    A template of 12 points is scaled, laid somewhere among zeros, given correlated noise, resampled to 40
    points, tilted, and given white noise. Values are then scaled to mean 0 and standard deviation 1 by the
    training part. The same seed and sizes give the same curves.

    Raises `ValueError` where a size is negative or `train` is 0.
    """
    rng = np.random.default_rng(seed)
    n = train + valid + test
    labels = np.arange(n) % len(TEMPLATES)
    curves = np.array([_curve(TEMPLATES[label], rng) for label in labels])
    parts = divide("mnist1d", labels, (train, valid, test), seed)
    return scaled("mnist1d", len(TEMPLATES), *((curves[part, :, None], labels[part]) for part in parts))


def _curve(template: np.ndarray, rng: np.random.Generator) -> Float[np.ndarray, " steps"]:
    """One example of a template."""
    empty = rng.integers(EMPTY[0], EMPTY[1], endpoint=True)
    shift = rng.integers(0, min(SHIFT, empty), endpoint=True)
    points = np.concatenate([template * (1 + rng.uniform(-SCALE, SCALE)), np.zeros(empty)])
    points = np.roll(points, shift) + SMOOTH * _smooth_noise(len(points), rng)
    curve = np.interp(np.linspace(0, len(points) - 1, STEPS), np.arange(len(points)), points)
    tilt = rng.uniform(-SHEAR, SHEAR) * np.linspace(-0.5, 0.5, STEPS)
    return curve + tilt + WHITE * rng.standard_normal(STEPS)


def _smooth_noise(n: int, rng: np.random.Generator) -> Float[np.ndarray, " n"]:
    """Gaussian noise of standard deviation 1, correlated over `WIDTH` points."""
    reach = np.arange(-3 * WIDTH, 3 * WIDTH + 1)
    kernel = np.exp(-0.5 * (reach / WIDTH) ** 2)
    kernel /= np.linalg.norm(kernel)
    return np.convolve(rng.standard_normal(n + len(kernel) - 1), kernel, mode="valid")
