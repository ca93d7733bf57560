"""Prediction intervals and surprise from the forecasts whose truth has come: online conformal calibration.

Residuals r = (y - ŷ) / s of forecasts that came due, in the forecaster's scale s, have a running size,

    σ² ← σ² + w (min(r², 9 σ²) - σ²)        w = .02 / √h

and the newest `WINDOW` of r / σ, with the σ of when the forecast was made, are kept in order. Each end of each interval
is one of their quantiles, at a level that follows its own misses (adaptive conformal inference, Gibbs & Candès 2021,
2106.00170; here for both ends apart):

    a ← a + γ (α/2 - miss)        γ = .1 (α/2) / √h

A level below 1/(n+1) asks for more than the largest residual: the end then moves on, up to twice as far from the median
as that, so that an interval is never infinite. Before there are residuals those of a normal variable
stand in their place, one of which goes with each that comes.

γ, the bound on what is kept and w were chosen by the interval score on five series of 6,000 rows, 1 and 24 rows ahead,
with and without a change of level.

The surprise of a row is -log₁₀ p, with p the share of residuals that lie as far out on either side, the row included;
beyond the largest of n residuals p falls with the square of the distance from the median. 3 is one row in a thousand.
"""

from __future__ import annotations

import bisect
import math
from statistics import NormalDist

import numpy as np
from jaxtyping import Float

WINDOW = 1000  # residuals
ADVANCE = 48  # residuals of a normal variable before there are others
RATE = 0.1  # of γ, in tails, for one row ahead
WIDEST = 2.0  # times the largest residual's distance from the median, beyond which no end goes
FARTHEST = 1e6  # scales: a residual beyond counts as this
FOLLOW = 0.02  # w for one row ahead
CLIP = 9.0
SPREADS = 5.0  # distances between quartiles: a residual farther out is kept as this, for it widens 1,000 intervals
SMALLEST = 1e-12  # σ²: where every forecast was exact


class Intervals:
    """Lower and upper ends of forecasts `horizon` rows ahead, for some levels, and the surprise of what came.

    `state` (a dictionary of arrays) is all that it remembers; it belongs in the checkpoint."""

    def __init__(self, levels: tuple[float, ...], horizon: int):
        self.levels, self.horizon = levels, horizon
        advance = [NormalDist().inv_cdf((k + 0.5) / ADVANCE) for k in range(ADVANCE)]
        self.state: dict[str, np.ndarray] = {
            "window": np.array([*advance, *[np.nan] * (WINDOW - ADVANCE)]),  # a ring
            "count": np.zeros(1, np.int64),  # residuals so far
            "tails": np.array([[(1 - level) / 2] * 2 for level in levels]).reshape(-1, 2),
            "size": np.ones(1),  # σ²
            "pending": np.full((horizon, len(levels), 2), np.nan),  # ends, in σ, of forecasts not due yet
            "sizes": np.full(horizon, np.nan),  # σ² when they were made
        }
        self._ordered: tuple[np.ndarray, list[float]] | None = None  # a window, and what is in it in order

    def restart(self) -> None:
        """Keep how wide intervals are; forget the forecasts that are not due yet."""
        for name in ("pending", "sizes"):
            self.state[name] = np.full_like(self.state[name], np.nan)

    def __call__(
        self, residuals: Float[np.ndarray, " n"]
    ) -> tuple[Float[np.ndarray, "n levels 2"], Float[np.ndarray, " n"]]:
        """Learn from the residuals that came due at each of n rows (NaN: none), and give, in scales, the ends around
        the forecast made at each row, and the surprise of each row."""
        state, n, levels = self.state, len(residuals), len(self.levels)
        ring, tails = state["window"].tolist(), state["tails"].tolist()
        count, rate = int(state["count"][0]), RATE / self.horizon**0.5
        if self._ordered is None or self._ordered[0] is not state["window"]:
            self._ordered = state["window"], sorted(value for value in ring if value == value)
        ordered = self._ordered[1]
        wanted = [(1 - level) / 2 for level in self.levels]
        pending, sizes = state["pending"].tolist(), state["sizes"].tolist()
        square, follow = float(state["size"][0]), FOLLOW / self.horizon**0.5
        ends, surprise = [], [math.nan] * n
        for t, residual in enumerate(residuals.tolist()):
            due = pending[t]
            if residual == residual:
                residual = min(max(residual, -FARTHEST), FARTHEST)
                square = max(square + follow * (min(residual * residual, CLIP * square) - square), SMALLEST)
                if sizes[t] == sizes[t]:
                    residual /= math.sqrt(sizes[t])
                surprise[t] = _surprise(ordered, residual)
                for k in range(levels):
                    low, high = due[k]
                    if low == low:
                        tails[k][0] += rate * wanted[k] * (wanted[k] - (residual < low))
                        tails[k][1] += rate * wanted[k] * (wanted[k] - (residual > high))
                spread = SPREADS * (ordered[3 * len(ordered) // 4] - ordered[len(ordered) // 4])
                residual = min(max(residual, -spread), spread)
                place = count % WINDOW  # first in the stead of those of a normal variable
                if ring[place] == ring[place]:
                    del ordered[bisect.bisect_left(ordered, ring[place])]
                bisect.insort(ordered, residual)
                ring[place] = residual
                count += 1
            now = [
                [_end(ordered, tails[k][0], wanted[k]), _end(ordered, tails[k][1], wanted[k], above=True)]
                for k in range(levels)
            ]
            ends.append(now)
            pending.append(now)
            sizes.append(square)
        state |= {"size": np.array([square]), "sizes": np.array(sizes[n:])}
        state |= {"window": np.array(ring), "count": np.array([count]), "tails": np.array(tails).reshape(levels, 2)}
        self._ordered = state["window"], ordered
        state["pending"] = np.array(pending[n:]).reshape(self.horizon, levels, 2)
        size = np.sqrt(np.array(sizes[self.horizon :]))
        return np.array(ends).reshape(n, levels, 2) * size[:, None, None], np.array(surprise)


def _end(ordered: list[float], tail: float, wanted: float, above: bool = False) -> float:
    """The value with a share `tail` of all below it, or above it: between neighbours in proportion."""
    n = len(ordered)
    rank = min(tail, 0.5) * (n + 1)
    if rank < 1:
        middle, last = ordered[n // 2], ordered[-1 if above else 0]
        return middle + min(1 + (1 - rank) / (n + 1) / wanted, WIDEST) * (last - middle)
    k = min(int(rank), n - 1)  # the k-th from that side, and the one after it
    value, after = (ordered[-k], ordered[-k - 1]) if above else (ordered[k - 1], ordered[k])
    return value + (rank - k) * (after - value)


def _surprise(ordered: list[float], residual: float) -> float:
    """-log₁₀ of the share of residuals as far out on either side."""
    n = len(ordered)
    below, above = bisect.bisect_right(ordered, residual), n - bisect.bisect_left(ordered, residual)
    share = min(1.0, 2 * (1 + min(below, above)) / (n + 2))
    middle = ordered[n // 2]
    edge = ordered[-1] - middle if residual > middle else middle - ordered[0]
    away = abs(residual - middle)
    beyond = 2 * math.log10(away / edge) if 0 < edge < away else 0.0
    return beyond - math.log10(share)
