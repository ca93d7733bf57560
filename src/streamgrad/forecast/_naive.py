"""Forecasts that need no learning, row by row: last value, running mean, the value of the last season."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

LAST, MEAN, SEASONAL = "last value", "running mean", "seasonal last value"


class Naive:
    """`names` of the forecasts; called with the rows of a target, it forecasts `horizon` rows ahead from each.

    Where no season has passed yet, the seasonal last value is the last value. `state` (a dictionary of arrays) is all
    that it remembers."""

    def __init__(self, horizon: int, period: int | None):
        self.horizon, self.period = horizon, period
        self.names = (LAST, MEAN, *([SEASONAL] if period else []))
        back = -(-horizon // period) * period - horizon if period else 0
        self.state: dict[str, np.ndarray] = {
            "mean": np.array([np.nan, 0.0, 0.0]),  # first value, count, sum of values minus the first
            "season": np.full(back, np.nan),  # last values of the rows of a season
        }

    def __call__(self, truth: Float[np.ndarray, " n"], last: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n methods"]:
        """Forecasts from each of n rows. `last`: the value last seen at each row."""
        state, n = self.state, len(truth)
        known = np.isfinite(truth)
        first, count, total = state["mean"].tolist()
        if first != first and known.any():
            first = float(truth[known][0])
        away = np.where(known, truth - first, 0.0)
        counts = count + np.cumsum(known)
        sums = np.add.accumulate(np.concatenate([[total], away]))[1:]
        mean = np.where(counts > 0, first + sums / np.maximum(counts, 1), np.nan)
        if n:
            state["mean"] = np.array([first, counts[-1], sums[-1]])
        out = [last, mean]
        if self.period:
            season = np.concatenate([state["season"], last])
            ago, state["season"] = season[:n], season[n:]
            out.append(np.where(np.isfinite(ago), ago, last))
        return np.stack(out, axis=1)
