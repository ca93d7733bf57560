"""One target: what is said of it at each row, what that was worth, and how surprising the rows were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from ._change import Change
from ._default import Default
from ._encoder import Encoder
from ._experts import Expert
from ._intervals import Intervals
from ._naive import Naive
from ._scores import Scores
from ._verdict import verdict

if TYPE_CHECKING:
    from ._outcome import Outcome

NETWORK = "network"  # the forecast, in tables and files
STILL = 16  # rows without any change after which a target counts as constant


class Said(NamedTuple):
    """What is said of n rows. Ends: lower and upper, for each level.

    - `truth`: the target as it came; `due`: of each method the forecast for this row, made `horizon` rows before;
    - `due_ends`: the interval around the first of them; `surprise`: how far out the truth lies; `changed`: whether the
      stream has changed;
    - `ahead`, `ahead_ends`: the forecast made at this row for `horizon` rows on, and its interval;
    - `path`: of a forecaster of paths, whose `due` and `ahead` are those of one row ahead, all steps; else None;
    - `outcome`: of events, counts and classes (codes), what is said beside it; else None.
    """

    truth: Float[np.ndarray, " n"]
    due: Float[np.ndarray, "n methods"]
    due_ends: Float[np.ndarray, "n levels 2"]
    surprise: Float[np.ndarray, " n"]
    changed: Bool[np.ndarray, " n"]
    ahead: Float[np.ndarray, " n"]
    ahead_ends: Float[np.ndarray, "n levels 2"]
    path: Path | None = None
    outcome: Outcome | None = None

    @property
    def losses(self) -> Float[np.ndarray, "n methods"]:
        """What each method's error counts: its square, or the log loss. NaN: not scored."""
        return (self.due - self.truth[:, None]) ** 2 if self.outcome is None else self.outcome.losses

    @property
    def shown(self) -> Float[np.ndarray, "n methods"]:
        """What a picture shows of each method."""
        return self.due if self.outcome is None else self.outcome.shown

    def named(self, values: np.ndarray) -> np.ndarray:
        """Values of the target as people write them: codes of classes as their texts."""
        return values if self.outcome is None else self.outcome.named(values)


class Path(NamedTuple):
    """What is said of each step j = 1 ... of a path, at each of n rows: for this row, made j rows before, and made at
    this row for j rows on."""

    due: Float[np.ndarray, "n steps"]
    due_ends: Float[np.ndarray, "n steps levels 2"]
    ahead: Float[np.ndarray, "n steps"]
    ahead_ends: Float[np.ndarray, "n steps levels 2"]


def joined(said: Sequence[Said]) -> Said:
    """What was said of rows that follow each other, as one."""
    one = lambda parts: np.concatenate(parts)
    paths = [s.path for s in said if s.path is not None]
    path = Path._make(one(parts) for parts in zip(*paths, strict=True)) if paths else None
    outcomes = [s.outcome for s in said if s.outcome is not None]
    outcome = type(outcomes[0]).joined(outcomes) if outcomes else None
    return Said._make([*(one(parts) for parts in zip(*(s[:-2] for s in said), strict=True)), path, outcome])


class OfNumbers:
    """What targets that are numbers say of themselves."""

    headline = "nrmse"  # the score by which settings are compared
    measures: Mapping[str, str] = {  # scores that a table shows, with their headings
        "nrmse": "nRMSE",
        "nrmse_half": "2nd half",
        "mae": "MAE",
        "mase": "MASE",
        "median": "median",
    }
    own: tuple[str, ...]
    encoder: Encoder
    naive: Naive
    learner: Any

    def found(self) -> dict[str, Any]:
        """Scores, as `Forecaster.scores` has them."""
        scores: Scores = self.scores  # type: ignore[attr-defined]
        return {
            "rows": scores.rows,
            "half": scores.half,
            "nrmse": scores.nrmse(),
            "nrmse_half": scores.nrmse("half"),
            "mae": scores.mae(),
            "mase": scores.mase(),
            "median": scores.median(),
            "intervals": self.intervals_found(),  # type: ignore[attr-defined]
            "weights": self.learner.weights() if len(self.learner.experts) > 1 else {},
            "verdict": verdict(scores, self.own),
        }

    def newest(self) -> dict[str, Any]:
        """Errors of the newest rows and of all."""
        scores: Scores = self.scores  # type: ignore[attr-defined]
        return {
            "newest": {"rmse": scores.rmse("part"), "mae": scores.mae("part")},
            "all": {"nrmse": scores.nrmse(), "mae": scores.mae()},
        }

    def remarks(self) -> list[str]:
        """What a reader of the table should know."""
        period = self.naive.period
        if period and self.encoder.state["rows"][0] <= period:
            return [f"The seasonal last value had no season of {period} rows yet: it is the last value so far."]
        return []

    @property
    def constant(self) -> float | None:
        """The one value that there was, if there was no other; else None."""
        state = self.encoder.state
        return float(state["last"][0]) if state["size"][0] == 0 else None

    @property
    def varied(self) -> np.ndarray:
        """Whether each column ever changed."""
        return self.encoder.state["centres"][:, 1] > 1


class Target(OfNumbers):
    """A forecaster of one column, `horizon` rows ahead, from rows whose first column it is.

    - `columns`: of a row; `experts`: that are mixed; `beside`: experts to compare with; `levels`: of intervals.

    `methods`: names of the forecasts, the network's own first. `state` is all that it knows."""

    def __init__(
        self,
        columns: int,
        experts: Mapping[str, Expert],
        beside: Mapping[str, Expert],
        *,
        horizon: int,
        period: int | None,
        levels: tuple[float, ...],
        seed: int,
    ):
        lags = max(expert.lags for expert in (*experts.values(), *beside.values()))
        self.horizon, self.levels = horizon, levels
        self.encoder = Encoder(columns, lags=lags, horizon=horizon, period=period)
        self.learner = Default(experts, self.encoder, beside=beside, seed=seed)
        self.naive = Naive(horizon, period)
        named = list(self.learner.names)
        own = [*experts] if len(experts) > 1 else []
        self._columns = [len(named) - 1, *(named.index(name) for name in (*own, *beside))]
        self.own = tuple(own)
        self.methods = (NETWORK, *own, *beside, *self.naive.names)
        self.scores, self.intervals, self.change = Scores(self.methods), Intervals(levels, horizon), Change(horizon)
        self.pending = np.full((horizon, len(self.methods) + 1 + 2 * len(levels)), np.nan)
        self.coverage = np.zeros((len(levels), 4))  # intervals, finite ones, hits, sum of their interval scores

    def __call__(self, rows: Float[np.ndarray, "n columns"]) -> Said:
        """Learn from n rows in turn and forecast from each."""
        n, m = len(rows), len(self.methods)
        encoded = self.encoder(rows)
        outputs = self.learner(encoded)[:, self._columns]
        learned = encoded.base[:, None] + encoded.scale[:, None] * outputs
        naive = self.naive(encoded.truth, encoded.base)
        made = np.concatenate([learned, naive, encoded.scale[:, None]], axis=1)
        waited = np.concatenate([self.pending[:, : m + 1], made])[:n]
        due, scale = waited[:, :m], waited[:, m]
        residuals = np.where(scale > 0, (encoded.truth - due[:, 0]) / np.where(scale > 0, scale, 1), np.nan)
        ends, surprise = self.intervals(residuals)
        known = (encoded.scale > 0) | self._still(n)
        ends = np.where(known[:, None, None], learned[:, :1, None] + encoded.scale[:, None, None] * ends, np.nan)
        both = np.concatenate([self.pending, np.concatenate([made, ends.reshape(n, 2 * len(self.levels))], axis=1)])
        self.pending = both[n:]
        due_ends = both[:n, m + 1 :].reshape(n, len(self.levels), 2)
        self.scores(encoded.truth, due)
        self._cover(encoded.truth, due_ends, due[:, 0])
        return Said(encoded.truth, due, due_ends, surprise, self.change(residuals), learned[:, 0], ends)

    def _still(self, n: int) -> Bool[np.ndarray, " n"]:
        """Whether at each of the newest n rows the target has been the same for long."""
        if self.encoder.state["size"][0] > 0:
            return np.zeros(n, bool)
        return self.encoder.state["rows"][0] - np.arange(n)[::-1] > STILL

    def _cover(self, truth: np.ndarray, ends: np.ndarray, value: np.ndarray) -> None:
        cover(self.coverage, self.levels, truth, ends, value)

    def intervals_found(self) -> list[dict[str, float]]:
        """Coverage, finite share and interval score for each level: share of truths within, share of finite intervals,
        mean interval score."""
        return covered(self.coverage, self.levels)

    def restart(self) -> None:
        """Keep what was learned and how wide intervals are; forget the stream, and all scores."""
        self.learner.restart()
        self.encoder.restart()
        self.naive = Naive(self.horizon, self.naive.period)
        self.change = Change(self.horizon)
        self.intervals.restart()
        self.pending = np.full_like(self.pending, np.nan)
        self.forget_scores()

    def forget_scores(self) -> None:
        """Score only what comes from now on."""
        self.scores, self.coverage = Scores(self.methods), np.zeros_like(self.coverage)

    @property
    def state(self) -> dict[str, Any]:
        """All that it knows."""
        parts = {"encoder": self.encoder, "naive": self.naive, "scores": self.scores, "intervals": self.intervals}
        state: dict[str, Any] = {name: part.state for name, part in parts.items()}
        return state | {
            "change": self.change.state,
            "learner": self.learner.memory,
            "pending": self.pending,
            "coverage": self.coverage,
        }

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        for name in ("encoder", "naive", "scores", "intervals", "change"):
            getattr(self, name).state = state[name]
        self.learner.memory, self.pending, self.coverage = state["learner"], state["pending"], state["coverage"]


def cover(total: np.ndarray, levels: Sequence[float], truth: np.ndarray, ends: np.ndarray, value: np.ndarray) -> None:
    """Count into `total` (levels, 4) what was asked, finite and hit, and add up the interval score: width, and 2/α
    times what lies outside."""
    asked = np.isfinite(truth) & np.isfinite(value)
    for level, sums, (low, high) in zip(levels, total, np.moveaxis(ends, 0, -1)):
        there = asked & np.isfinite(low) & np.isfinite(high)
        outside = np.maximum(low - truth, 0) + np.maximum(truth - high, 0)
        score = np.where(there, high - low + 2 / (1 - level) * outside, 0.0)
        sums[:3] += [asked.sum(), there.sum(), (there & (outside == 0)).sum()]
        sums[3] = np.add.accumulate(np.concatenate([sums[3:], score]))[-1]


def covered(total: np.ndarray, levels: Sequence[float]) -> list[dict[str, float]]:
    """The rows inside and the rows scored, for each level: share of truths within, share of finite intervals, mean
    interval score."""
    found = []
    share = lambda part, whole: part / whole if whole else float("nan")
    for level, (asked, there, hits, score) in zip(levels, total.tolist()):
        shares = {"coverage": share(hits, there), "finite": share(there, asked), "score": share(score, there)}
        found.append({"level": level, **shares})
    return found
