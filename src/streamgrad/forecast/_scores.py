"""Running errors of several forecasters on the same rows, of the whole stream and of its second half.

A row is scored where its truth is known and all methods had a forecast for it, so that all are compared on the same
rows. With e the error of a method:

- nRMSE: the root mean square of e over the standard deviation of the target;
- MAE: the mean of |e|; MASE: that over the MAE of the last value; median: the median of |e|, to 2%.

Sums are added row by row: the same rows give the same bits in whatever portions they come. The second half begins at
the nearest of up to 64 marks that lie evenly over the rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

MARKS = 64
SPACING = 16  # rows between two marks, at first
OCTAVES, FINE = 64, 16  # of the histogram of |e|: octaves, and bins in each
Named = dict[str, float]


class Sums:
    """Sums over scored rows, of `size` terms of which the first is 1, for some methods: of all rows, of the part since
    `restart`, and at marks. `state` (a dictionary of arrays) is all that it remembers."""

    def __init__(self, methods: Sequence[str], size: int):
        self.methods, self._size = tuple(methods), size
        self.state: dict[str, np.ndarray] = {
            "all": np.zeros(size),
            "part": np.zeros(size),
            "marks": np.zeros((MARKS, size)),  # the sums after a multiple of `spacing` rows
            "spacing": np.array([SPACING, 0], np.int64),  # and how many marks there are
        }

    def add(self, terms: Float[np.ndarray, "n size"]) -> None:
        """Add rows, at least one."""
        state = self.state
        state["part"] = np.add.accumulate(np.concatenate([state["part"][None], terms]))[-1]
        sums = np.add.accumulate(np.concatenate([state["all"][None], terms]))
        state["all"] = sums[-1]
        self._mark(sums[1:])

    def _mark(self, sums: np.ndarray) -> None:
        """Keep the sums at marks; when there is no room, every second one."""
        state = self.state
        spacing, many = state["spacing"].tolist()
        first = int(sums[0, 0])
        for row in range(-(-first // SPACING) * SPACING, int(sums[-1, 0]) + 1, SPACING):
            if row % spacing:
                continue
            if many == MARKS:
                state["marks"][: MARKS // 2] = state["marks"][1::2]
                spacing, many = 2 * spacing, MARKS // 2
                if row % spacing:
                    continue
            state["marks"][many] = sums[row - first]
            many += 1
        state["spacing"] = np.array([spacing, many], np.int64)

    def restart(self) -> None:
        """Begin a new part."""
        self.state["part"] = np.zeros(self._size)

    @property
    def rows(self) -> int:
        """Rows scored."""
        return int(self.state["all"][0])

    @property
    def half(self) -> int:
        """Scored rows before the second half."""
        return int(self._before()[0])

    def _before(self) -> np.ndarray:
        spacing, many = self.state["spacing"].tolist()
        mark = round(self.rows / 2 / spacing)
        return self.state["marks"][min(mark, many) - 1] if min(mark, many) > 0 else np.zeros(self._size)

    def _sums(self, part: str) -> np.ndarray:
        """Of "all", of the "part" since the last restart, or of the second "half"."""
        return self.state["all"] - self._before() if part == "half" else self.state[part]

    def _named(self, values: np.ndarray, count: float) -> Named:
        return dict(zip(self.methods, (values if count else np.full(len(self.methods), math.nan)).tolist()))


class Scores(Sums):
    """Errors of some methods, of numbers."""

    def __init__(self, methods: Sequence[str]):
        m = len(methods)
        super().__init__(methods, 3 + 2 * m)  # 1, d, d², squared errors, absolute errors
        self.state |= {
            "first": np.full(1, np.nan),
            "unit": np.zeros(1),  # of the histogram
            "sizes": np.zeros((m, OCTAVES * FINE), np.int64),
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
        self.add(np.concatenate([np.ones_like(shift), shift, shift**2, error**2, abs(error)], axis=1))
        self._count(abs(error))

    def _count(self, sizes: np.ndarray) -> None:
        """Count the sizes of errors, on a logarithmic scale around the first one that is not 0."""
        state = self.state
        if not state["unit"][0]:
            some = sizes[sizes > 0]
            if not len(some):
                state["sizes"][:, 0] += len(sizes)
                return
            state["unit"] = some[:1].copy()
        with np.errstate(divide="ignore"):
            place = np.floor(FINE * (np.log2(sizes / state["unit"][0]) + OCTAVES // 2))
        place = np.clip(place, 0, OCTAVES * FINE - 1).astype(int)
        for method, column in enumerate(place.T):
            np.add.at(state["sizes"][method], column, 1)

    @property
    def deviation(self) -> float:
        """Standard deviation of the target over the rows scored; NaN before there are any."""
        count, total, square = self.state["all"][:3]
        return float(np.sqrt(max(0.0, square / count - (total / count) ** 2))) if count else math.nan

    def rmse(self, part: str = "all") -> Named:
        """Root mean square error in the target's unit, per method."""
        sums, m = self._sums(part), len(self.methods)
        return self._named(np.sqrt(np.maximum(sums[3 : 3 + m], 0) / max(sums[0], 1)), sums[0])

    def nrmse(self, part: str = "all") -> Named:
        """Root mean square error over the deviation of the target, of all rows, per method."""
        deviation = self.deviation if self.deviation > 0 else math.nan
        return {name: error / deviation for name, error in self.rmse(part).items()}

    def mae(self, part: str = "all") -> Named:
        """Mean absolute error in the target's unit, per method."""
        sums, m = self._sums(part), len(self.methods)
        return self._named(sums[3 + m :] / max(sums[0], 1), sums[0])

    def mase(self, part: str = "all") -> Named:
        """Mean absolute error over that of the last value, per method."""
        errors = self.mae(part)
        last = errors.get("last value", math.nan)
        return {name: error / last if last > 0 else math.nan for name, error in errors.items()}

    def median(self) -> Named:
        """Median of the absolute errors in the target's unit, to 2%, per method."""
        counts = np.cumsum(self.state["sizes"], axis=1)
        place = (2 * counts < counts[:, -1:]).sum(axis=1)
        sizes = self.state["unit"][0] * 2.0 ** ((place + 0.5) / FINE - OCTAVES // 2)
        return self._named(np.where(place == 0, 0.0, sizes), float(counts[0, -1]))
