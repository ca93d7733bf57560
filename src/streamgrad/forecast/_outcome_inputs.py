"""Rows of a stream of events, counts or classes as a net sees them.

Causal, in float64; the same rows give the same bits in whatever portions they come. A missing outcome is the one last
seen. An outcome y is written as e: an event as ±1, a class as a one among zeros, a count as log(1 + y) by its running
centre and deviation. What is known at row t is, in this order (`OutcomeInputs.parts` has the columns):

- `offset`: what the outputs would be if nothing but running frequencies (for counts: the running mean) were known;
- `average`: the running mean of e over about ten rows;
- `lags`: e, newest first; `season`: e one and two seasons before the row that is forecast, where a period was given;
- `others`: half of the other columns, each by its running centre and deviation, clipped at ±6.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from ._encoder import NET, carried
from ._robust import Centre

LAGS = {"event": 16, "count": 16, "class": 6}
CLASSES = 16  # at most
RECENT, MEMORY = 0.1, 1e-3  # weights of a row in the average, and in the offset once there are many rows
WILD = 10.0  # a count beyond so many times m + 3 √m + 1, with m the running mean, counts as that


class OutcomeInputs:
    """Encodes rows of an outcome (the first column; a class by its code) and features.

    - `kind`: "event", "count" or "class"; `columns`: of a row; `horizon`: rows ahead; `period`: rows in a season.

    `size` is that of the inputs, `parts` their slices by name. `state` (a dictionary of arrays) is all it remembers."""

    def __init__(self, kind: str, columns: int, *, horizon: int, period: int | None):
        self.kind, self.columns, self.horizon, self.period = kind, columns, horizon, period
        self.outputs, self.wide = (CLASSES, CLASSES) if kind == "class" else (1, 1)
        first = -(-horizon // period) if period else 0
        seasons = [m * period - horizon for m in (first, first + 1)] if period else []
        self._back = np.array([*range(LAGS[kind]), *seasons])  # rows
        sizes = {"offset": self.outputs, "average": self.wide, "lags": LAGS[kind] * self.wide}
        sizes |= {"season": len(seasons) * self.wide, "others": columns - 1}
        ends = np.cumsum(list(sizes.values())).tolist()
        self.parts = {name: slice(end - n, end) for (name, n), end in zip(sizes.items(), ends, strict=True)}
        self.size = ends[-1]
        self.state: dict[str, np.ndarray] = {
            "last": np.full(columns, np.nan),
            "ring": np.zeros((int(self._back.max()), self.wide)),  # e of the newest rows
            "average": np.zeros(self.wide),
            "tally": np.zeros(1 + max(2, self.outputs)),  # rows, then: running counts, or the running mean
            "centres": np.stack([Centre().state] * columns),  # the outcome's (of counts), then the others'
        }

    def __call__(self, rows: Float[np.ndarray, "n columns"]) -> tuple[np.ndarray, np.ndarray]:
        """What is known at each of n rows, and what is to be learned from each: the outcome, no count too wild."""
        state, n = self.state, len(rows)
        if n == 0:
            return np.empty((0, self.size)), np.empty(0)
        filled = carried(state["last"], rows)
        centres = [Centre() for _ in range(self.columns)]
        for centre, kept in zip(centres, state["centres"], strict=True):
            centre.state = kept
        others = [centre(column) for centre, column in zip(centres[1:], filled[:, 1:].T, strict=True)]
        written = self._written(filled[:, 0], centres[0])
        offset, average, learn = self._running(rows[:, 0], written)
        both = np.concatenate([state["ring"], written])
        lags = both[len(both) - n + np.arange(n)[:, None] - self._back].reshape(n, -1)
        parts = [offset, average, lags, np.clip(0.5 * np.array(others).reshape(-1, n).T, -NET, NET)]
        state |= {"last": filled[-1], "ring": both[n:], "centres": np.stack([centre.state for centre in centres])}
        return np.concatenate(parts, axis=1), learn

    def _written(self, outcome: np.ndarray, centre: Centre) -> Float[np.ndarray, "n wide"]:
        """e of each row; zeros before the first outcome."""
        if self.kind == "class":
            return (outcome[:, None] == np.arange(CLASSES)).astype(float)
        if self.kind == "event":
            return np.nan_to_num(2 * outcome - 1)[:, None]
        return np.clip(centre(np.log1p(outcome)), -NET, NET)[:, None]

    def _running(self, outcome: np.ndarray, written: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Offsets, averages, and what is to be learned."""
        state = self.state
        average, (rows, *tally) = state["average"], state["tally"].tolist()
        offsets, averages, learn = [], [], outcome.copy()
        for t, (y, e) in enumerate(zip(outcome.tolist(), written)):
            if y == y:
                rows += 1
                average = average + RECENT * (e - average)
                if self.kind == "count":
                    mean = tally[0]
                    if rows > 1:
                        learn[t] = y = min(y, WILD * (mean + 3 * mean**0.5 + 1))
                    tally[0] = mean + max(1 / rows, MEMORY) * (y - mean)
                else:
                    tally = [(1 - MEMORY) * many for many in tally]
                    tally[int(y)] += 1
            averages.append(average)
            offsets.append(self._offset(rows, tally))
        state |= {"average": average, "tally": np.array([rows, *tally])}
        return np.array(offsets), np.array(averages), learn

    def _offset(self, rows: float, tally: list[float]) -> list[float]:
        if self.kind == "count":
            return [float(np.log(tally[0] + 1 / (1 + rows)))]
        log = np.log(np.array(tally) + 0.5)
        return [float(log[1] - log[0])] if self.kind == "event" else (log - log.max()).tolist()

    def restart(self) -> None:
        """Forget the rows; keep scales and running frequencies."""
        for name, empty in (("last", np.nan), ("ring", 0.0), ("average", 0.0)):
            self.state[name] = np.full_like(self.state[name], empty)
