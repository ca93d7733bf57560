"""Rows of a stream as a forecaster sees them: normalised online, missing values carried forward.

Everything is causal and in float64, row by row, so that the same rows give the same bits in
whatever portions they arrive. A forecast h rows ahead is learned as a *change*:

    u_t = (c_{t+h} - c_t) / s

so a model that says 0 is the last value. Here c is the target without its jumps: a row that differs
from the last one by more than 20 times the changes' running root mean square is neither learned from
nor seen, like a missing one, so that a sensor's -9999 does not undo thousands of rows of least
squares. After a few calm rows at a new level that is where the stream goes on. (Forecasts are made
from, and scored on, the target as it came.)

The inputs for a readout are the level, over 10 s from the first value, and the successive
differences of the target's last `lags` values over s: differences, since the lags of a smooth series
are nearly the same number, which is bad for least squares. The scale s is the median size of the
*first* changes: a scale that followed the stream would weigh old rows and new ones differently, and
so undo the forgetting of least squares. Until it is known, nothing is taught, and a forecast is the
last value. It is taken anew only where most of the newest changes are a hundred times larger or
smaller: then the stream began wild, or has become another one.

The inputs for a recurrent net, which saturates, do follow the stream: the target, its newest change
and the features, by their running mean and deviation. Wild values are limited in these too, and a
wild start is forgotten, as by `sg.nn.Normalise`.

So the units of the stream do not matter: all is relative to its own scale and, since means are taken
from a value of the stream on, to its own level.
"""

from __future__ import annotations

import collections
import itertools
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
    - `base`, `scale`: a forecast made at row t is `base + scale * output`. NaN: none can be made. A scale
      of 0: it is not known yet, and the forecast is the last value.
    """

    inputs: Float[np.ndarray, "n size"]
    learn: Float[np.ndarray, " n"]
    truth: Float[np.ndarray, " n"]
    base: Float[np.ndarray, " n"]
    scale: Float[np.ndarray, " n"]


SETTLE = 8  # changes that the scale is taken from
JUMP = 20.0  # deviations, beyond which a value or a change is limited
WILD = 5.0  # deviations, beyond which a value is limited in the running statistics
SLOWEST = 1e-4  # weight of a row in the running statistics, once there are many
CALM = 4  # rows after which a jump is a new level
RECENT = 64  # changes that tell whether the scale has become another
APART = 100.0  # times, by which most of them then differ from it
WHOLE = 16  # values that make statistics to be trusted
SCALE, LEVEL = 1, 2  # what begins a new stretch


class Encoder:
    """Encodes rows of a target (the first column) and features.

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
            "anchors": np.zeros(columns),  # from which those means are measured
            "newer": np.zeros((columns, 4)),  # count, mean, variance, anchor of the newer values alone
            "steps": np.zeros(2),  # of the target's changes: count, mean square
            "early": nan(SETTLE),  # sizes of the first changes, from which the scale was taken
            "recent": nan(RECENT),  # of the newest changes
            "level": np.array([np.nan, 0.0]),  # the newest target that was no jump, calm rows elsewhere
            "path": np.zeros(1),  # the target from where the scale was taken, without its jumps
            "differences": np.zeros(lags - 1),
            "origins": np.tile([np.nan, 0.0, np.nan], (horizon, 1)),  # whether known, path, scale at t-h ...
        }

    def __call__(self, rows: Float[np.ndarray, "n columns"]) -> Encoded:
        """Encode the next n rows and remember what the rows after them need."""
        state, n = self.state, len(rows)
        if n == 0:
            empty = np.empty(0)
            return Encoded(np.empty((0, self.size)), empty, empty, empty, empty)
        filled = _carry_forward(state["last"], rows)
        steps, deviations, scales, levels, wild, begins = self._followed(rows[:, 0])
        seen = np.concatenate([levels[:, None], filled[:, 1:]], axis=1)
        counts = np.isfinite(rows)
        scores = [self._scores(j, seen[:, j], counts[:, j]) for j in range(rows.shape[1])]
        state["last"] = filled[-1]

        # Where the scale was taken, or the level, what was remembered belongs to another stretch.
        cuts = [0, *(at for at in np.flatnonzero(begins).tolist() if at), n]
        parts = []
        for begin, end in itertools.pairwise(cuts):
            if begins[begin]:
                state["origins"] = np.full_like(state["origins"], np.nan)
            if begins[begin] == SCALE:
                ordinary = abs(state["differences"]) <= JUMP * deviations[begin]
                state["differences"] = np.where(ordinary, state["differences"], 0.0)
                state["path"] = np.zeros(1)
            part = slice(begin, end)
            parts.append(self._windows(steps[part], scales[part], ~wild[part] & np.isfinite(filled[part, 0])))
        far, learn = (np.concatenate(each) for each in zip(*parts))
        learn[wild | ~counts[:, 0]] = np.nan
        near = np.stack([scores[0], steps / deviations, *scores[1:]], axis=1)
        near[np.isnan(scales), 1] = 0.0
        inputs = np.concatenate([near, far], axis=1)
        # While there is no scale, the forecast is the last value, whatever the output.
        return Encoded(inputs, learn, rows[:, 0].copy(), filled[:, 0], np.nan_to_num(scales))

    def _windows(self, steps, scales, ordinary) -> tuple[np.ndarray, np.ndarray]:
        """Level and differences at each of n rows of one scale, and the changes that end there."""
        state, n = self.state, len(steps)
        path = np.add.accumulate(np.concatenate([state["path"], steps]))
        differences = np.concatenate([state["differences"], steps])
        windows = np.lib.stride_tricks.sliding_window_view(differences, self.lags - 1)[1:, ::-1]
        far = np.concatenate([path[1:, None] / 10, windows], axis=1) / scales[:, None]
        now = np.stack([np.where(ordinary, 1.0, np.nan), path[1:], scales], axis=1)
        origins = np.concatenate([state["origins"], now])
        change = np.where(np.isfinite(origins[:n, 0]), (path[1:] - origins[:n, 1]) / origins[:n, 2], np.nan)
        state |= {"path": path[-1:], "differences": differences[n:], "origins": origins[n:]}
        return np.where(np.isnan(scales)[:, None], 0.0, far), change  # what ends at t is known at t

    def _followed(self, values: np.ndarray) -> tuple[np.ndarray, ...]:
        """The target's changes without its jumps, their deviation, the scale (NaN: not known yet), the
        newest target that was no jump, whether a row is one, and whether it begins a new stretch."""
        state = self.state
        count, square = state["steps"].tolist()
        early = [size for size in state["early"].tolist() if size == size]
        recent = collections.deque((size for size in state["recent"].tolist() if size == size), RECENT)
        scale = float(np.median(early)) if len(early) == SETTLE else math.nan
        newest, (level, calm) = float(state["last"][0]), state["level"].tolist()
        out = []
        for value in values.tolist():
            step, wild, begins, sizes = 0.0, bool(calm), 0, None
            if value == value:
                before, newest = newest if newest == newest else value, value
                level, size = level if level == level else value, abs(value - before)
                if size and scale == scale:
                    recent.append(size)
                    other = [size for size in recent if not scale <= size * APART <= APART**2 * scale]
                    sizes = list(recent)[-RECENT // 2 :] if 2 * len(other) > RECENT else None
                elif size:
                    early.append(size)
                    sizes = early if len(early) == SETTLE else None
                if sizes:
                    begins, scale = SCALE, float(np.median(sizes))
                    count, square = len(sizes), float(np.mean(np.minimum(sizes, WILD * scale) ** 2))
                    early, recent = [scale] * SETTLE, collections.deque(maxlen=RECENT)
                bound = JUMP * math.sqrt(square) if scale == scale and square > 0 else math.inf
                if begins:
                    level = before if size <= bound else value
                step = value - level
                wild = abs(step) > bound
                calm = calm + 1 if wild and size <= bound else float(wild)
                if wild and calm > CALM:
                    begins, wild, calm, step = LEVEL, False, 0.0, 0.0
                if scale == scale:
                    count += 1
                    square += max(1 / count, SLOWEST) * (min(size, bound) ** 2 - square)
                if wild:
                    step = 0.0
                else:
                    level = value
            out.append((step, math.sqrt(square) if square > 0 else 1.0, scale, level, wild, begins))
        pad = lambda sizes, n: np.array([*sizes, *[math.nan] * (n - len(sizes))])
        state |= {"steps": np.array([count, square]), "level": np.array([level, calm])}
        state |= {"early": pad(early, SETTLE), "recent": pad(recent, RECENT)}
        steps, deviations, scales, levels, wild, begins = np.array(out).T
        return steps, deviations, scales, levels, wild.astype(bool), begins

    def _scores(self, column: int, values: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Values by their running mean and deviation; those that are missing do not count."""
        state = self.state
        whole = [*state["moments"][column].tolist(), float(state["anchors"][column])]
        newer = state["newer"][column].tolist()
        out = []
        for value, there in zip(values.tolist(), counts.tolist()):
            if there:
                whole = _counted(whole, value)
                newer = _counted(newer, value)
                if newer[0] >= max(WHOLE, min(whole[0] / 2, 1 / SLOWEST)):
                    if 0 < newer[2] * APART**2 < whole[2]:
                        whole = newer
                    newer = [0.0] * 4
            _, mean, variance, anchor = whole
            score = ((value - anchor) - mean) / math.sqrt(variance) if variance > 0 else 0.0
            out.append(min(max(score, -JUMP), JUMP))
        state["moments"][column], state["anchors"][column], state["newer"][column] = whole[:3], whole[3], newer
        return np.array(out)


def _carry_forward(last: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """A missing value is the one last seen."""
    rows = np.concatenate([last[None], rows])
    at = np.arange(len(rows))[:, None] * np.isfinite(rows)
    return np.take_along_axis(rows, np.maximum.accumulate(at, axis=0), axis=0)[1:]


def _counted(moments: list[float], value: float) -> list[float]:
    """Count, mean, variance and anchor after one more value. The mean is measured from the first
    value on: a stream far from 0 gives the same digits as one that is near it."""
    count, mean, variance, anchor = moments
    anchor = anchor if count else value
    away = (value - anchor) - mean
    if count >= WHOLE and variance > 0:
        bound = WILD * math.sqrt(variance)
        away = min(max(away, -bound), bound)
    weight = max(1 / (count + 1), SLOWEST)
    return [count + 1, mean + weight * away, (1 - weight) * (variance + weight * away * away), anchor]
