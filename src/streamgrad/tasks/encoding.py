"""Rows of a stream as a forecaster sees them: normalised online, missing values carried forward.

Everything is causal and in float64, and adds up row by row, so that the same rows give the same
bits in whatever portions they arrive. A forecast h rows ahead is learned as a *change*:

    u_t = (y_{t+h} - y_t) / s

so a model that says 0 is the last value. The inputs for a readout are the level, over 10 s from the
first value, and the successive differences of the target's last `lags` values over s: differences,
since the lags of a smooth series are nearly the same number, which is bad for least squares. Here s
is the root mean square of one-row changes *over the first rows only*: a scale that follows the
stream would weigh old rows and new ones differently, and so undo the forgetting of least squares.
The inputs for a recurrent net, which saturate, follow the stream: the target, its newest change and
the features with zero mean and unit variance over all that was seen.
"""

from __future__ import annotations

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
            "first": nan(columns),  # the first value of each column: sums are kept relative to it
            "last": nan(columns),  # the newest value of each column
            "sums": np.zeros((3, columns)),  # of 1, d, d² with d = value - first
            "steps": np.zeros(2),  # of 1, d² with d = one-row change of the target
            "early": np.zeros(2),  # the same, as long as they were few
            "window": nan(lags - 1),
            "origins": nan(horizon, 2),  # base and scale of the forecasts under way
        }

    def __call__(self, rows: Float[np.ndarray, "n columns"]) -> Encoded:
        """Encode the next n rows and remember what the rows after them need."""
        state, n = self.state, len(rows)
        if n == 0:
            empty = np.empty(0)
            return Encoded(np.empty((0, self.size)), empty, empty, empty, empty)
        seen = np.isfinite(rows)
        state["first"] = first = _first(state["first"], rows, seen)
        filled = _carry_forward(state["last"], rows, seen)
        truth, target = rows[:, 0], filled[:, 0]

        shift = np.where(seen, rows - first, 0.0)
        sums = np.stack([seen.astype(float), shift, shift**2])
        count, total, square = sums = _running(state["sums"], sums, axis=1)
        mean = total / np.maximum(count, 1)
        spread = _root(square / np.maximum(count, 1) - mean**2)
        level = (filled - first - mean) / spread

        window = np.concatenate([state["window"], target])
        window = np.where(np.isfinite(window), window, first[0])  # before the start: the first value
        step = np.diff(window)[self.lags - 2 :]
        squares = np.stack([seen[:, 0].astype(float), np.where(seen[:, 0], step, 0.0) ** 2], axis=1)
        steps = _running(state["steps"], squares, axis=0)
        early = _running(state["early"], squares * (steps[:, :1] <= SETTLE), axis=0)
        one = _root(steps[:, 1] / np.maximum(steps[:, 0], 1))
        scale = _root(early[:, 1] / np.maximum(early[:, 0], 1))
        scale = np.where(early[:, 1] > 0, scale, one)  # nothing had changed at the beginning
        differences = np.lib.stride_tricks.sliding_window_view(np.diff(window), self.lags - 1)
        far = np.concatenate([(target - first[0])[:, None] / 10, differences[:, ::-1]], axis=1)
        near = np.concatenate([level[:, :1], (step / one)[:, None], level[:, 1:]], axis=1)
        inputs = np.nan_to_num(np.concatenate([near, far / scale[:, None]], axis=1))

        origins = np.concatenate([state["origins"], np.zeros((n, 2))])
        h = self.horizon
        origins[h:, 0] = target
        origins[h:, 1] = scale
        change = truth - origins[:n, 0]  # the change that ends at t is known at t
        learn = change / origins[:n, 1]

        window = np.concatenate([state["window"], target])[n:]
        state |= {"last": filled[-1], "window": window, "origins": origins[n:]}
        state |= {"sums": sums[:, -1], "steps": steps[-1], "early": early[-1]}
        return Encoded(inputs, learn, truth, target, scale)


def _first(first: np.ndarray, rows: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The first value of each column that ever came."""
    here = np.where(seen.any(axis=0), rows[seen.argmax(axis=0), np.arange(rows.shape[1])], np.nan)
    return np.where(np.isfinite(first), first, here)


def _carry_forward(last: np.ndarray, rows: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """A missing value is the one last seen."""
    rows = np.concatenate([last[None], rows])
    at = np.arange(len(rows))[:, None] * np.concatenate([np.ones((1, len(last)), bool), seen])
    return np.take_along_axis(rows, np.maximum.accumulate(at, axis=0), axis=0)[1:]


def _running(carry: np.ndarray, values: np.ndarray, axis: int) -> np.ndarray:
    """Sums from the start of the stream to each row, added one by one."""
    both = np.concatenate([np.expand_dims(carry, axis), values], axis=axis)
    sums = np.add.accumulate(both, axis=axis)
    return sums.take(range(1, sums.shape[axis]), axis=axis)


def _root(mean_square: np.ndarray) -> np.ndarray:
    """A root mean square to divide by: 1 where nothing has varied yet."""
    return np.sqrt(np.where(mean_square > 0, mean_square, 1.0))
