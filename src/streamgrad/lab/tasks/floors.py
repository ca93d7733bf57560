"""What a forecaster has to beat: last value, seasonal last value, and least squares on lags.

They see what the network sees, when it sees it: the same encoded inputs, the same imputation, and
a target only when it has arrived. On real series they are strong.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from streamgrad.lab.tasks.encoding import Encoded

FORGETTING = 0.999
PRIOR = 0.1  # variance of a weight before any data: best of 0.01 to 100 on six bundled series


class Floors:
    """Forecasts h rows ahead by three simple methods; `names` tells which.

    **Arguments:**

    - `size`: of the encoded inputs.
    - `horizon`: rows ahead.
    - `period`: rows in a season; None leaves the seasonal last value out.

    Recursive least squares gets the encoded inputs and a constant, and forgets with 0.999 a row.
    `state` (a dictionary of arrays) is all that it remembers; it belongs in the checkpoint.
    """

    def __init__(self, size: int, horizon: int, period: int | None):
        self.horizon, self.period = horizon, period
        self.forgetting = FORGETTING
        self.names = ("last value", *(["seasonal last value"] if period else []), "RLS on lags")
        size = size - 2 + 1
        seasons = -(-horizon // period) if period else 0
        self.state: dict[str, np.ndarray] = {
            "weight": np.zeros(size),
            "variance": np.eye(size) * PRIOR,
            "pending": np.zeros((horizon, size)),
            # A season ahead of t+h is t+h-m*period, the newest such row that is known at t.
            "season": np.full(seasons * period - horizon if period else 0, np.nan),
        }

    def __call__(self, encoded: Encoded) -> Float[np.ndarray, "n methods"]:
        """Learn from the n rows in turn and forecast from each. NaN: no forecast yet."""
        state, n = self.state, len(encoded.inputs)
        inputs = np.concatenate([encoded.inputs[:, 2:], np.ones((n, 1))], axis=1)
        inputs = np.concatenate([state["pending"], inputs])
        change = np.empty(n)
        weight, variance = state["weight"], state["variance"]
        for t in range(n):
            if np.isfinite(encoded.learn[t]):
                weight, variance = _least_squares(weight, variance, inputs[t], encoded.learn[t])
            change[t] = inputs[self.horizon + t] @ weight
        state |= {"weight": weight, "variance": variance, "pending": inputs[n:]}
        forecasts = [encoded.base]
        if self.period:
            season = np.concatenate([state["season"], encoded.base])
            forecasts.append(season[:n])
            state["season"] = season[n:]
        forecasts.append(encoded.base + encoded.scale * change)
        return np.stack(forecasts, axis=1)


def _least_squares(weight: np.ndarray, variance: np.ndarray, x: np.ndarray, y: float):
    """One step of recursive least squares with exponential forgetting."""
    gain = variance @ x
    norm = FORGETTING + x @ gain
    weight = weight + gain * ((y - x @ weight) / norm)
    variance = (variance - np.outer(gain, gain / norm)) / FORGETTING
    variance = (variance + variance.T) / 2
    # Where the data excite nothing it would grow by 1/0.999 a row, without end. The bound is that of
    # the network's readout, `sg.RLS`.
    start = PRIOR * len(x)
    return weight, variance * min(1.0, start / np.trace(variance))
