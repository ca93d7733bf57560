"""When a stream has changed: Page and Hinkley's test on the size of forecast errors.

With m the running mean of |r|, of r the errors that came due,

    c_t = max(0, c_{t-1} + min(|r_t| / m, 6) - 1 - δ)        alarm: c_t > λ h^.75

After an alarm m and c begin anew. Errors of forecasts that overlap are alike: h rows ahead λ counts h^.75 times.

Reference: Page, Biometrika 1954; Hinkley, Biometrika 1971.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

SLACK = 0.5  # δ
LIMIT = 30.0  # λ
LARGEST = 6.0  # means: what counts of an error
SETTLED = 200  # rows before an alarm means anything
SLOWEST = 1e-3  # weight of a row in the mean


class Change:
    """Whether a stream changes, row by row. `state` (one array) is all that it remembers."""

    def __init__(self, horizon: int):
        self.horizon = horizon
        self.state = np.zeros(3)  # rows, m, c

    def __call__(self, residuals: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """At which of n rows there is an alarm, from the errors that came due in any unit (NaN: none)."""
        rows, mean, total = self.state.tolist()
        alarms, limit = [], LIMIT * self.horizon**0.75
        settled = SETTLED * self.horizon**0.5
        for value in residuals.tolist():
            alarm, size = False, abs(value)
            if size == size:
                if rows >= settled and mean > 0:
                    total = max(0.0, total + min(size / mean, LARGEST) - 1 - SLACK)
                    alarm = total > limit
                bound = LARGEST * mean if mean > 0 else size
                rows += 1
                mean += max(1 / rows, SLOWEST) * (min(size, bound) - mean)
                if alarm:
                    rows, mean, total = 0.0, 0.0, 0.0
            alarms.append(alarm)
        self.state = np.array([rows, mean, total])
        return np.array(alarms, bool)
