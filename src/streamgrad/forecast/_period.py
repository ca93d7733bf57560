"""Periods of a series, from the autocorrelation of its changes.

A peak is a local maximum past the first lobe that exceeds max(.1, 4/√m), at lag n - m of n changes. The long period is
the highest peak (multiples of a period differ by chance alone: the first that is nearly as high), the short one the
first peak that is .7 as high. What was found before stays while it is nearly as high as what is found now, and where
nothing is found, half as high as a peak must be. Where both are one, there is no long period.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

LONGEST = 400
FIRST = 150  # rows before the first look
SHORT = 0.7  # of the highest peak
SAME = 0.02  # of the highest peak, or two deviations (1 - peak²)/√n: a difference by chance
STAY = 0.9  # of a new peak


def look_again(row: int, window: int) -> int:
    """The row of the next look after one at `row`: a quarter later, at most a window."""
    return row + min(row // 4, window)


def autocorrelation(changes: Float[np.ndarray, " n"], size: float, lags: int) -> Float[np.ndarray, " lags"]:
    """The autocorrelation of changes, clipped at 5 sizes, at lags 0, 1, ... `lags`."""
    n = len(changes)
    x = np.clip(changes, -5 * size, 5 * size) / size
    x = x - x.mean()
    spectrum = np.fft.rfft(x, 1 << (2 * n - 1).bit_length())
    sums = np.fft.irfft(spectrum.real**2 + spectrum.imag**2)[: lags + 1]
    return sums / sums[0] * (n / (n - np.arange(lags + 1.0))) if sums[0] > 0 else np.zeros(lags + 1)


def find(changes: Float[np.ndarray, " n"], size: float, before: tuple[int, int], given: int | None) -> tuple[int, int]:
    """The short and the long period; 0: none. `before`: those found last; `given`: the short one, if it is known."""
    n = len(changes)
    lags = min(n // 3, LONGEST)
    r = autocorrelation(changes, size, lags)
    high = np.maximum(0.1, 4 / np.sqrt(n - np.arange(lags + 1)))
    below = np.flatnonzero(r <= 0)
    at = np.arange(max(2, below[0]) if len(below) else lags, lags)
    at = at[(r[at] > high[at]) & (r[at] >= r[at - 1]) & (r[at] > r[at + 1])]
    if len(at) == 0:
        short, long = (old if old <= lags and r[old] > high[old] / 2 else 0 for old in before)
        return given or short, long
    top = r[at].max()
    stays = lambda old, new: old if 0 < old <= lags and r[old] >= STAY * r[new] else new
    first = lambda least: int(at[r[at] >= least][0])
    long = stays(before[1], first(top - max(SAME * top, 2 * (1 - top**2) / np.sqrt(n))))
    short = given or stays(before[0], first(SHORT * top))
    return short, 0 if abs(long - short) <= 1 else long
