"""Rows of a stream as a forecaster sees them: normalised online, missing values carried forward.

Everything is causal and in float64, row by row, so that the same rows give the same bits in
whatever portions they arrive. A forecast h rows ahead is learned as a *change*:

    u_t = (c_{t+h} - c_t) / s

so a model that says 0 is the last value. Here c is the target with its jumps limited: one row's
change counts for at most 20 times their running root mean square, so that a sensor's -9999 does not
undo thousands of rows of least squares. (Forecasts are scored on the target as it came.)

The inputs for a readout are the level, over 10 s from the first value, and the successive
differences of the target's last `lags` values over s: differences, since the lags of a smooth series
are nearly the same number, which is bad for least squares. The scale s is the median size of the
*first* changes: a scale that followed the stream would weigh old rows and new ones differently, and
so undo the forgetting of least squares. The inputs for a recurrent net, which saturates, do follow
the stream: the target, its newest change and the features, by their running mean and deviation.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Encoded(NamedTuple):
    """What `Encoder` makes of n rows.

    - `inputs`: what is known at each row. The first `Encoder.recurrent_size` columns (target, its
      newest change, features) are for a recurrent net; those from 2 on (features, level,
      differences, newest first) for a readout.
    - `learn`: at row t, the change that a forecast from t-h should have said. NaN: not known.
    - `truth`: the target as it came. NaN: missing.
    - `base`, `scale`: a forecast made at row t is `base + scale * output`. NaN: none can be made.
    """

    inputs: Float[np.ndarray, "n size"]
    learn: Float[np.ndarray, " n"]
    truth: Float[np.ndarray, " n"]
    base: Float[np.ndarray, " n"]
    scale: Float[np.ndarray, " n"]


SETTLE = 8  # changes that the scale is taken from
JUMP = 20.0  # deviations, beyond which a value or a change is limited
SLOWEST = 1e-4  # weight of a row in the running statistics, once there are many


class Encoder:
    """Encode rows whose first column is the target and whose others are features.

    **Arguments:**

    - `columns`: of a row, the target included.
    - `lags`: values of the target that the inputs reach back over, at least 2.
    - `horizon`: rows ahead that are forecast, at least 1.

    `state` (a dictionary of arrays) is all that it remembers; it belongs in the checkpoint.
    """

    def __init__(self, columns: int, lags: int, horizon: int):
        self.lags, self.horizon = lags, horizon
        self.recurrent_size = columns + 1
        self.size = self.recurrent_size + lags
        nan = lambda *shape: np.full(shape, np.nan)
        self.state: dict[str, np.ndarray] = {
            "last": nan(columns),  # the newest value of each column
            "moments": np.zeros((columns, 3)),  # of the values: count, mean, variance
            "steps": np.zeros(2),  # of the target's changes: count, mean square
            "early": nan(SETTLE),  # sizes of the first changes
            "path": np.zeros(1),  # the target from its first value on, jumps limited
            "differences": np.zeros(lags - 1),
            "origins": np.tile([np.nan, 0.0, 1.0], (horizon, 1)),  # target, path, scale at t-h ...
        }

    def __call__(self, rows: Float[np.ndarray, "n columns"]) -> Encoded:
        """Encode the next n rows and remember what the rows after them need."""
        state, n = self.state, len(rows)
        if n == 0:
            empty = np.empty(0)
            return Encoded(np.empty((0, self.size)), empty, empty, empty, empty)
        filled = _carry_forward(state["last"], rows)
        columns = range(rows.shape[1])
        scores = [_scores(state["moments"][j], rows[:, j], filled[:, j]) for j in columns]
        before = np.concatenate([state["last"][:1], filled[:-1, 0]])
        steps, deviations, scales = self._limited(rows[:, 0] - before)

        path = np.add.accumulate(np.concatenate([state["path"], steps]))
        differences = np.concatenate([state["differences"], steps])
        windows = np.lib.stride_tricks.sliding_window_view(differences, self.lags - 1)[1:, ::-1]
        far = np.concatenate([path[1:, None] / 10, windows], axis=1) / scales[:, None]
        near = [scores[0], steps / deviations, *scores[1:]]

        now = np.stack([filled[:, 0], path[1:], scales], axis=1)
        origins = np.concatenate([state["origins"], now])
        change = (path[1:] - origins[:n, 1]) / origins[:n, 2]
        known = np.isfinite(rows[:, 0]) & np.isfinite(origins[:n, 0])
        learn = np.where(known, change, np.nan)  # what ends at t is known at t

        state |= {"last": filled[-1], "path": path[-1:], "differences": differences[n:]}
        state |= {"origins": origins[n:]}
        inputs = np.concatenate([np.stack(near, axis=1), far], axis=1)
        return Encoded(inputs, learn, rows[:, 0].copy(), filled[:, 0], scales)

    def _limited(self, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The target's changes with their jumps limited, their deviation, and the scale."""
        count, square = self.state["steps"].tolist()
        early = [size for size in self.state["early"].tolist() if size == size]
        scale = float(np.median(early)) if early else 1.0
        out = []
        for step in steps.tolist():
            if step == step:
                if count >= SETTLE and square > 0:
                    bound = JUMP * math.sqrt(square)
                    step = min(max(step, -bound), bound)
                count += 1
                square += max(1 / count, SLOWEST) * (step * step - square)
                if step and len(early) < SETTLE:
                    early.append(abs(step))
                    scale = float(np.median(early))
            else:
                step = 0.0  # the target, or all before it, is missing
            out.append((step, math.sqrt(square) if square > 0 else 1.0, scale))
        self.state["steps"] = np.array([count, square])
        self.state["early"] = np.array(early + [np.nan] * (SETTLE - len(early)))
        limited, deviations, scales = np.array(out).T
        return limited, deviations, scales


def _carry_forward(last: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """A missing value is the one last seen."""
    rows = np.concatenate([last[None], rows])
    at = np.arange(len(rows))[:, None] * np.isfinite(rows)
    return np.take_along_axis(rows, np.maximum.accumulate(at, axis=0), axis=0)[1:]


def _scores(moments: np.ndarray, values: np.ndarray, filled: np.ndarray) -> np.ndarray:
    """Values by their running mean and deviation; those that are missing do not count.

    `moments` (count, mean, variance) is brought up to date in place.
    """
    count, mean, variance = moments.tolist()
    out = []
    for value, there in zip(filled.tolist(), np.isfinite(values).tolist()):
        away = value - mean
        if there:
            if count >= SETTLE and variance > 0:
                bound = JUMP * math.sqrt(variance)
                away = min(max(away, -bound), bound)
            count += 1
            weight = max(1 / count, SLOWEST)
            mean += weight * away
            variance = (1 - weight) * (variance + weight * away * away)
            away *= 1 - weight
        out.append(away / math.sqrt(variance) if variance > 0 and count else 0.0)
    moments[:] = count, mean, variance
    return np.array(out)
