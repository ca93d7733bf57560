"""One target whose next rows are all forecast, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from ._change import Change
from ._encoder import Encoder
from ._experts import Expert
from ._intervals import Intervals
from ._naive import Naive
from ._scores import Scores
from ._steps import Paths
from ._target import NETWORK, OfNumbers, Path, Said, cover, covered

#: What a path is mixed from, with the last value: least squares on many lags, and a fixed net.
EXPERTS: dict[str, Expert] = {
    "RLS": Expert(lags=340, forgetting=0.9998),
    "reservoir": Expert("rtu", 32, lags=48),
}
LIGHT: dict[str, Expert] = {"RLS-100": Expert(lags=100, forgetting=0.9998)}


class PathTarget(OfNumbers):
    """A forecaster of the next `steps` values of one column, from rows whose first column it is.

    Scores, intervals and floors are kept for the steps `shown`: 1, 2, 4, ... and the last. Intervals of the steps
    between them lie in proportion between theirs, in units of s √j. `state` is all that it knows."""

    own: tuple[str, ...]

    def __init__(
        self,
        columns: int,
        experts: Mapping[str, Expert],
        *,
        steps: int,
        period: int | None,
        levels: tuple[float, ...],
        seed: int,
    ):
        lags = max(expert.lags for expert in experts.values())
        self.steps, self.levels, self.period = steps, levels, period
        self.encoder = Encoder(columns, lags=lags, horizon=steps, period=period)
        self.learner = Paths(experts, self.encoder, seed=seed)
        self.own = ()
        powers = [1 << k for k in range(steps.bit_length()) if 1 << k < steps]
        self.shown = (*powers, steps)
        self.naives = [Naive(step, period) for step in self.shown]
        self.naive = self.naives[-1]
        self.methods = (NETWORK, *self.naive.names)
        self.each = [Scores(self.methods) for _ in self.shown]
        self.intervals = [Intervals(levels, step) for step in self.shown]
        self.change = Change(1)
        self.recent = np.full((steps, 3), np.nan)  # path, scale and truth of the newest rows
        self.pending = np.full((steps, steps, 1 + 2 * len(levels)), np.nan)  # forecasts, and their intervals
        self.floors = [np.full((step, len(self.naive.names)), np.nan) for step in self.shown]
        self.coverage = np.zeros((len(self.shown), len(levels), 4))

    def __call__(self, rows: Float[np.ndarray, "n columns"]) -> Said:
        """Learn from n rows in turn and forecast the path from each."""
        n, h, encoder = len(rows), self.steps, self.encoder
        encoded = encoder(rows)
        root = np.sqrt(np.arange(1, h + 1))
        scale = encoded.scale / h**0.5
        path = encoder.state["path"][len(encoder.state["path"]) - n :]
        recent = np.concatenate([self.recent, np.stack([path, scale, encoded.truth], axis=1)])
        self.recent = recent[n:]
        came, paths = self._targets(recent, n)
        said = self.learner(encoded, came, paths)
        made = encoded.base[:, None] + scale[:, None] * root * said
        ends = self._ends(encoded.truth, recent[:, 1], made)
        new = np.concatenate([made[..., None], ends.reshape(n, h, 2 * len(self.levels))], axis=-1)
        both = np.concatenate([self.pending, new])
        self.pending = both[n:]
        step = np.arange(h)
        due = both[h - 1 - step + np.arange(n)[:, None], step]  # what was said j rows ago of its step j
        value, around = due[..., 0], due[..., 1:].reshape(n, h, len(self.levels), 2)
        first = self._score(encoded.truth, encoded.base, value, around)
        before = recent[h - 1 : -1, 1]
        residuals = np.where(before > 0, (encoded.truth - value[:, 0]) / np.where(before > 0, before, 1), np.nan)
        ahead = Path(value, around, made, new[..., 1:].reshape(n, h, len(self.levels), 2))
        return Said(
            encoded.truth,
            first,
            around[:, 0],
            self._surprise,
            self.change(residuals),
            made[:, 0],
            ahead.ahead_ends[:, 0],
            ahead,
        )

    def _targets(self, recent: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """What the forecasts of the rows before should have said of each of n rows, and what followed the rows `steps`
        ago: changes in the scale of when they were made."""
        h = self.steps
        path, scale, truth = recent.T
        root = np.sqrt(np.arange(1, h + 1))
        back = h + np.arange(n)[:, None] - np.arange(1, h + 1)  # the rows 1 ... h ago
        with np.errstate(invalid="ignore", divide="ignore"):
            came = (path[h:, None] - path[back]) / (scale[back] * root)
            came = np.where(np.isfinite(truth[h:, None]) & (scale[back] > 0), came, np.nan)
            then = np.arange(n)
            after = then[:, None] + np.arange(1, h + 1)
            paths = (path[after] - path[then, None]) / (scale[then, None] * root)
            paths = np.where(np.isfinite(truth[after]) & (scale[then, None] > 0), paths, np.nan)
        return came, paths

    def _ends(self, truth: np.ndarray, scale: np.ndarray, made: np.ndarray) -> np.ndarray:
        """Intervals of all steps of the paths made at n rows, from those of the steps that are shown."""
        n, h = made.shape
        now = np.concatenate([self.pending[..., 0], made])
        found = []
        for step, intervals in zip(self.shown, self.intervals, strict=True):
            place = h + np.arange(n) - step
            unit = scale[place] * step**0.5
            with np.errstate(invalid="ignore", divide="ignore"):
                residuals = np.where(unit > 0, (truth - now[place, step - 1]) / unit, np.nan)
            ends, surprise = intervals(residuals)
            if step == 1:
                self._surprise = surprise
            found.append(ends)
        stacked, steps = np.stack(found, axis=1), np.arange(1, h + 1)  # (n, shown, levels, 2)
        right = np.clip(np.searchsorted(self.shown, steps), 1, max(1, len(self.shown) - 1))
        if len(self.shown) == 1:
            ends = stacked
        else:
            shown = np.array(self.shown)
            share = ((steps - shown[right - 1]) / (shown[right] - shown[right - 1]))[:, None, None]
            ends = stacked[:, right - 1] * (1 - share) + stacked[:, right] * share
        unit = scale[h:, None] * np.sqrt(steps)
        unit = np.where(unit > 0, unit, np.nan)
        return made[..., None, None] + unit[..., None, None] * ends

    def _score(self, truth: np.ndarray, last: np.ndarray, value: np.ndarray, around: np.ndarray) -> np.ndarray:
        """Score the steps that are shown; what all methods said of each row one row before."""
        n = len(truth)
        out = np.empty((n, len(self.methods)))
        for k, step in enumerate(self.shown):
            waited = np.concatenate([self.floors[k], self.naives[k](truth, last)])
            self.floors[k] = waited[n:]
            every = np.concatenate([value[:, step - 1 : step], waited[:n]], axis=1)
            self.each[k](truth, every)
            cover(self.coverage[k], self.levels, truth, around[:, step - 1], value[:, step - 1])
            out = every if step == 1 else out
        return out

    @property
    def scores(self) -> Scores:
        """The scores of one row ahead."""
        return self.each[0]

    def intervals_found(self) -> list[dict[str, float]]:
        """Coverage and scores of the intervals one row ahead."""
        return covered(self.coverage[0], self.levels)

    def found(self) -> dict[str, Any]:
        """Scores, as `Forecaster.scores` has them."""
        return super().found() | {"steps": self.steps_found()}

    def steps_found(self) -> dict[int, dict[str, Any]]:
        """Errors and intervals of each step that is scored."""
        found = {}
        for step, scores, total in zip(self.shown, self.each, self.coverage, strict=True):
            found[step] = {
                "rows": scores.rows,
                "nrmse": scores.nrmse(),
                "nrmse_half": scores.nrmse("half"),
                "mae": scores.mae(),
                "intervals": covered(total, self.levels),
            }
        return found

    def restart(self) -> None:
        """Keep what was learned and how wide intervals are; forget the stream, and all scores."""
        self.learner.restart()
        self.encoder.restart()
        self.naives = [Naive(step, self.period) for step in self.shown]
        self.naive = self.naives[-1]
        self.change = Change(1)
        for intervals in self.intervals:
            intervals.restart()
        self.recent, self.pending = np.full_like(self.recent, np.nan), np.full_like(self.pending, np.nan)
        self.floors = [np.full_like(floor, np.nan) for floor in self.floors]
        self.forget_scores()

    def forget_scores(self) -> None:
        """Score only what comes from now on."""
        self.each, self.coverage = [Scores(self.methods) for _ in self.shown], np.zeros_like(self.coverage)

    @property
    def state(self) -> dict[str, Any]:
        """All that it knows."""
        return {
            "encoder": self.encoder.state,
            "naives": [naive.state for naive in self.naives],
            "scores": [scores.state for scores in self.each],
            "intervals": [intervals.state for intervals in self.intervals],
            "change": self.change.state,
            "learner": self.learner.memory,
            "recent": self.recent,
            "pending": self.pending,
            "floors": self.floors,
            "coverage": self.coverage,
        }

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self.encoder.state, self.change.state = state["encoder"], state["change"]
        for parts, name in ((self.naives, "naives"), (self.each, "scores"), (self.intervals, "intervals")):
            for part, kept in zip(parts, state[name], strict=True):
                part.state = kept
        self.learner.memory, self.recent, self.pending = state["learner"], state["recent"], state["pending"]
        self.floors, self.coverage = state["floors"], state["coverage"]
