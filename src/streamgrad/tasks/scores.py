"""Running errors of several forecasters on the same rows: nRMSE and MAE.

nRMSE is the root mean square error over the standard deviation of the target; both errors and
deviation are taken over the rows that were scored. A row is scored where its truth is known and
every method had made a forecast for it, so that all are compared on the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


class Scores:
    """Sums over the whole run and since the last `restart`.

    `state` (a dictionary of arrays) is all that it remembers. Sums are added row by row, so the
    same rows give the same bits in whatever portions they arrive.
    """

    def __init__(self, methods: Sequence[str]):
        self.methods = tuple(methods)
        m = len(self.methods)
        self.state: dict[str, np.ndarray] = {
            "first": np.full(1, np.nan),
            "all": np.zeros(3 + 2 * m),  # 1, d, d², squared errors, absolute errors
            "part": np.zeros(3 + 2 * m),
        }

    def __call__(self, truth: Float[np.ndarray, " n"], forecasts: Float[np.ndarray, "n methods"]) -> None:
        """Score n rows."""
        state = self.state
        scored = np.isfinite(truth) & np.isfinite(forecasts).all(axis=1)
        if not scored.any():
            return
        truth, forecasts = truth[scored], forecasts[scored]
        if np.isnan(state["first"][0]):
            state["first"] = truth[:1].copy()
        shift = (truth - state["first"])[:, None]
        error = forecasts - truth[:, None]
        terms = np.concatenate([np.ones_like(shift), shift, shift**2, error**2, abs(error)], axis=1)
        for name in ("all", "part"):
            state[name] = np.add.accumulate(np.concatenate([state[name][None], terms]))[-1]

    def restart(self) -> None:
        """Begin a new part."""
        self.state["part"] = np.zeros_like(self.state["part"])

    @property
    def rows(self) -> int:
        """Rows scored in the whole run."""
        return int(self.state["all"][0])

    @property
    def deviation(self) -> float:
        """Standard deviation of the target over the rows scored; NaN before there are any."""
        count, total, square = self.state["all"][:3]
        return float(np.sqrt(max(0.0, square / count - (total / count) ** 2))) if count else np.nan

    def rmse(self, part: bool = False) -> dict[str, float]:
        """Root mean square error in the target's unit, per method."""
        sums, m = self.state["part" if part else "all"], len(self.methods)
        root = np.sqrt(sums[3 : 3 + m] / sums[0]) if sums[0] else np.full(m, np.nan)
        return dict(zip(self.methods, root.tolist()))

    def nrmse(self, part: bool = False) -> dict[str, float]:
        """Root mean square error over the target's deviation so far, per method."""
        deviation = self.deviation if self.deviation > 0 else float("nan")
        return {name: error / deviation for name, error in self.rmse(part).items()}

    def mae(self, part: bool = False) -> dict[str, float]:
        """Mean absolute error in the target's unit, per method."""
        sums, m = self.state["part" if part else "all"], len(self.methods)
        mean = sums[3 + m :] / sums[0] if sums[0] else np.full(m, np.nan)
        return dict(zip(self.methods, mean.tolist()))
