"""Rows of a stream as the default forecaster sees them: one robust scale, lags, what is far back, and seasons.

Causal, in float64, in any unit; the same rows give the same bits in whatever portions they come. A missing value is
the one last seen. With y the target, one row's change of which counts for at most 20 s, and s the running robust root
mean square of such changes, a forecast h rows ahead is learned as

    u_t = (y_{t+h} - y_t) / (s_t √h)

and what is known at row t is, in this order (`Encoder.parts` has the columns):

- `net`: for a recurrent net: half of the level, of the newest three changes and of the other columns, each by its
  running centre and deviation, clipped at ± 6;
- `lags`: changes of y, newest first, over s, clipped at ± 20;
- `far`: means of y over rows 24-48, 48-96, 96-192 and 192-384 back, minus y_t, over s √h, clipped at ± 20;
- `short`, `long`: y_{t+h-mP+j} - y_t, likewise: the newest three seasons of the short period and j = -1 .. 1, the
  newest two of the long one and j = -2 .. 2, from the first season of which all is known at t.

Zeros stand for what lies before the first row, and for a period that is not known. Periods are found online
(`_period.py`): `Encoded.anew` says at which row the columns of one began to mean something else.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from . import _period
from ._robust import Centre, Size

JUMP = 20.0  # sizes of a change, beyond which a change or an input is limited
FARTHEST = 1e9  # sizes from its first value, beyond which the path begins anew
NET = 6.0  # beyond which an input of a net is limited
CHANGES = 3  # that a net sees
FAR = ((24, 48), (48, 96), (96, 192), (192, 384))  # rows back, of each mean
SEASONS = ((3, 1), (2, 2))  # of the short and the long period: seasons, and rows on either side
WINDOW = 4096  # changes that periods are found in


class Encoded(NamedTuple):
    """What `Encoder` makes of n rows.

    - `inputs`: what is known at each row.
    - `learn`: at row t, the u that a forecast from t-h should have said. NaN: not known.
    - `truth`: the target as it came. NaN: missing.
    - `base`, `scale`: a forecast made at row t is `base + scale * u`; 0: no scale yet. NaN: none can be made.
    - `anew`: whether from this row on the columns of the short and of the long period mean something else.
    """

    inputs: Float[np.ndarray, "n size"]
    learn: Float[np.ndarray, " n"]
    truth: Float[np.ndarray, " n"]
    base: Float[np.ndarray, " n"]
    scale: Float[np.ndarray, " n"]
    anew: Bool[np.ndarray, "n 2"]


class Encoder:
    """Encodes rows of a target (the first column) and features.

    **Arguments:**

    - `columns`: of a row, the target included.
    - `lags`: changes of the target among the inputs.
    - `horizon`: rows ahead that are forecast.
    - `period`: rows in a season, if known; else it is looked for.

    `size` is that of the inputs, `parts` their slices by name. `state` (a dictionary of arrays) is all that it
    remembers; it belongs in the checkpoint.
    """

    def __init__(self, columns: int = 1, *, lags: int = 100, horizon: int = 1, period: int | None = None):
        for name, value, least in (("columns", columns, 1), ("lags", lags, 1), ("horizon", horizon, 1)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}.")
        if period is not None and period < 2:
            raise ValueError(f"period must be at least 2 rows, or None to look for it, got {period}.")
        self.columns, self.lags, self.horizon, self.period = columns, lags, horizon, period
        seasons = [many * (2 * beside + 1) for many, beside in SEASONS]
        sizes = {"net": CHANGES + columns, "lags": lags, "far": len(FAR)}
        sizes |= dict(zip(("short", "long"), seasons, strict=True))
        ends = np.cumsum(list(sizes.values())).tolist()
        self.parts = {name: slice(end - n, end) for (name, n), end in zip(sizes.items(), ends, strict=True)}
        self.size = ends[-1]
        # The oldest season begins at most this many rows back, since the newest one ends at most a period ago.
        back = max(period or 0, _period.LONGEST) * (SEASONS[0][0] + 1)
        self._back = max(WINDOW, back, lags + 1)
        self.state: dict[str, np.ndarray] = {
            "last": np.full(columns, np.nan),  # the newest value of each column
            "size": Size().state,
            "centres": np.stack([Centre().state] * columns),
            "path": np.zeros(self._back + 1),  # y - y_first, jumps limited, newest last
            "means": np.zeros(len(FAR)),  # sums of the path over the rows of `FAR`
            "origins": np.tile([0.0, 0.0], (horizon, 1)),  # path, and size (0: unknown) at t-h, ...
            "rows": np.array([0, _period.FIRST], np.int64),  # since the first target; the next look for periods
            "periods": np.array([period or 0, 0], np.int64),  # 0: none
            "anew": np.zeros(2, bool),  # to be said with the next row
        }

    def restart(self) -> None:
        """Forget the stream, but not its periods: weights of seasons were learned for these."""
        fresh = Encoder(self.columns, lags=self.lags, horizon=self.horizon, period=self.period)
        self.state = fresh.state | {"periods": self.state["periods"]}

    def __call__(self, rows: Float[np.ndarray, "n columns"]) -> Encoded:
        """Encode the next n rows and remember what the rows after them need."""
        parts, at = [], 0
        while at < len(rows) or not parts:
            stop = at + max(1, int(self.state["rows"][1] - self.state["rows"][0]))
            parts.append(self._encode(rows[at:stop]))
            at = min(stop, len(rows))
            if self.state["rows"][0] >= self.state["rows"][1]:
                self._look()
        return Encoded._make(np.concatenate(pieces) for pieces in zip(*parts, strict=True))

    def _encode(self, rows: np.ndarray) -> Encoded:
        """Rows between two looks for periods."""
        state, n, h = self.state, len(rows), self.horizon
        if n == 0:
            nothing = np.empty(0)
            return Encoded(np.empty((0, self.size)), nothing, nothing, nothing, nothing, np.empty((0, 2), bool))
        filled = carried(state["last"], rows)
        before = np.concatenate([state["last"][:1], filled[:-1, 0]])
        size = Size()
        size.state = state["size"]
        size_before = size.value
        changes, sizes = size(np.where(np.isfinite(before), filled[:, 0] - before, 0.0), JUMP)
        whole = np.add.accumulate(np.concatenate([state["path"][-1:], changes]))
        before = np.concatenate([[size_before], sizes[:-1]])
        jumped = (before == 0) & (abs(whole[1:]) > JUMP * sizes)  # before there was a size to limit it by
        far = np.flatnonzero(((abs(whole[1:]) > FARTHEST * sizes) | jumped) & (sizes > 0))
        if len(far) and far[0] + 1 < n:
            cut = int(far[0]) + 1
            parts = self._encode(rows[:cut]), self._encode(rows[cut:])
            return Encoded._make(np.concatenate(pair) for pair in zip(*parts, strict=True))
        path = np.concatenate([state["path"][:-1], whole])
        begun = np.maximum.accumulate(np.isfinite(filled[:, 0]))
        count = state["rows"][0] + np.cumsum(begun)  # rows of the target so far, this one included
        unit = np.where(sizes > 0, sizes, 1.0)
        known = sizes > 0

        origins = np.concatenate([state["origins"], np.stack([whole[1:], sizes], axis=1)])
        origin, then = origins[:n].T
        there = np.isfinite(rows[:, 0]) & (then > 0)
        learn = np.where(there, (whole[1:] - origin) / (np.where(then > 0, then, 1) * h**0.5), np.nan)

        steps = np.lib.stride_tricks.sliding_window_view(np.diff(path[-(n + max(self.lags, CHANGES)) :]), self.lags)
        lags = np.clip(steps[-n:, ::-1] / unit[:, None], -JUMP, JUMP)
        centres = [Centre() for _ in range(self.columns)]
        for centre, kept in zip(centres, state["centres"], strict=True):
            centre.state = kept
        levels = [np.where(begun, whole[1:], np.nan), *filled[:, 1:].T]
        scores = [centre(values) for centre, values in zip(centres, levels, strict=True)]
        newest = np.diff(path[-(n + CHANGES) :])
        newest = [newest[CHANGES - 1 - k :][:n] / unit * known for k in range(CHANGES)]
        net = np.clip(0.5 * np.stack([scores[0], *newest, *scores[1:]], axis=1), -NET, NET)

        means_back, means = self._far(path, count, n)
        seasons = [self._seasons(path, count, n, which) for which in range(2)]
        old = np.concatenate([means_back, *seasons], axis=1) / (unit * h**0.5)[:, None]
        inputs = np.concatenate(
            [net, np.concatenate([lags, np.clip(old, -JUMP, JUMP)], axis=1) * known[:, None]], axis=1
        )
        anew = np.zeros((n, 2), bool)
        anew[0] = state["anew"]

        state |= {"last": filled[-1], "size": size.state, "centres": np.stack([centre.state for centre in centres])}
        state |= {"path": path[n:], "means": means, "origins": origins[n:], "anew": np.zeros(2, bool)}
        state["rows"] = np.array([count[-1], state["rows"][1]])
        if len(far):
            self._begin_path_anew(bool(jumped[-1]))
        return Encoded(inputs, learn, rows[:, 0].copy(), filled[:, 0], sizes * h**0.5, anew)

    def _begin_path_anew(self, forget: bool) -> None:
        """Count the path from its newest value on: so far from its start, changes would be lost in rounding. `forget`:
        as if it had always been there, since how it came there says nothing."""
        state = self.state
        if forget:
            state |= {"path": np.zeros_like(state["path"]), "means": np.zeros(len(FAR))}
            state["centres"] = np.concatenate([Centre().state[None], state["centres"][1:]])
            return
        start = state["path"][-1]
        state["path"] = state["path"] - start
        state["origins"] = state["origins"] - np.array([start, 0.0])
        state["means"] = state["means"] - start * np.array([end - near for near, end in FAR])
        centre = state["centres"][0] - start * np.array([1, 0, 1, 0, *[1] * (state["centres"].shape[1] - 4)])
        state["centres"] = np.concatenate([centre[None], state["centres"][1:]])

    def _far(self, path: np.ndarray, count: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Means of the path far back, minus its newest value, and the sums that they came from."""
        now, out, kept = np.arange(len(path) - n, len(path)), [], []
        for (near, end), total in zip(FAR, self.state["means"].tolist(), strict=True):
            sums = np.add.accumulate(np.concatenate([[total], path[now - near] - path[now - end]]))[1:]
            out.append(np.where(count >= end, sums / (end - near) - path[now], 0.0))
            kept.append(sums[-1])
        return np.stack(out, axis=1), np.array(kept)

    def _seasons(self, path: np.ndarray, count: np.ndarray, n: int, which: int) -> np.ndarray:
        """The path a whole number of seasons before the row that is forecast, minus its newest value."""
        (many, beside), period, h = SEASONS[which], int(self.state["periods"][which]), self.horizon
        if not period:
            return np.zeros((n, many * (2 * beside + 1)))
        first = -(-(h + beside) // period)
        back = np.array([m * period - h - j for m in range(first, first + many) for j in range(-beside, beside + 1)])
        now = np.arange(len(path) - n, len(path))[:, None]
        return np.where(count[:, None] > back, path[now - back] - path[now], 0.0)

    def _look(self) -> None:
        """Look for periods, and say with the next row which have changed."""
        state = self.state
        row = int(state["rows"][0])
        changes = np.diff(state["path"][-min(row, WINDOW + 1) :])
        size = state["size"][2] ** 0.5
        before = tuple(state["periods"].tolist())
        found = before if size == 0 else _period.find(changes, size, before, self.period)
        state["periods"], state["anew"] = np.array(found, np.int64), np.not_equal(found, before)
        state["rows"] = np.array([row, _period.look_again(row, WINDOW)], np.int64)


def carried(last: Float[np.ndarray, " columns"], rows: Float[np.ndarray, "n columns"]) -> np.ndarray:
    """The rows, where a missing value is the one last seen."""
    rows = np.concatenate([last[None], rows])
    at = np.arange(len(rows))[:, None] * np.isfinite(rows)
    return np.take_along_axis(rows, np.maximum.accumulate(at, axis=0), axis=0)[1:]
