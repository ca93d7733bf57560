"""One target that is an event, a count or a class: what is said of it, and what that was worth.

The interface is that of `Target`; the forecasts are probabilities, or expected counts, and errors are log losses.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from ._cells import Classes
from ._change import Change
from ._outcome_floors import Frequencies, Means, another
from ._outcome_inputs import CLASSES, OutcomeInputs
from ._outcome_net import OutcomeLearner
from ._outcome_scores import SECOND, OutcomeScores, count_rarity, poisson_loss, rarity
from ._target import NETWORK, Said
from ._verdict import words

LARGEST = 40.0  # of an output: beyond it no probability and no rate is told from another


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What is said of outcomes at n rows, beside what is said of numbers.

    - `losses`: log loss of each method's forecast for the row;
    - `shown`: what a picture shows of the methods: probabilities of what came, of counts what was expected;
    - `probabilities`: of each class `horizon` rows on, as said at the row; NaN for one not seen by then. None for
      events and counts;
    - `classes`: those seen by the last of these rows; empty for events and counts.
    """

    losses: Float[np.ndarray, "n methods"]
    shown: Float[np.ndarray, "n methods"]
    probabilities: Float[np.ndarray, "n classes"] | None = None
    classes: tuple[str, ...] = ()

    @classmethod
    def joined(cls, parts: Sequence[Outcome]) -> Outcome:
        """What was said of rows that follow each other, as one."""
        one = lambda name: np.concatenate([getattr(part, name) for part in parts])
        probabilities = None if parts[0].probabilities is None else one("probabilities")
        return cls(one("losses"), one("shown"), probabilities, parts[-1].classes)

    def named(self, values: np.ndarray) -> np.ndarray:
        """Codes as the texts of classes, None where missing; of events and counts the numbers themselves."""
        if self.probabilities is None:
            return values
        texts = np.array([*self.classes, None], object)
        return texts[np.where(np.isfinite(values), values, -1).astype(int)]

    def columns(self) -> dict[str, np.ndarray]:
        """The probability of each class seen so far, by the names that files have."""
        if self.probabilities is None:
            return {}
        return {f"p_{name}": self.probabilities[:, k] for k, name in enumerate(self.classes)}


class OutcomeTarget:
    """A forecaster of one column of events, counts or classes, from rows whose first column it is.

    - `kind`: "event", "count" or "class"; `columns`: of a row; `classes`: texts of the codes of classes; `net`: whether
      a recurrent net stands under the readout.

    `methods`: names of the forecasts, the network's own first. `state` is all that it knows."""

    own: tuple[str, ...] = ()
    headline = "log_loss"

    def __init__(
        self, kind: str, columns: int, classes: Classes, *, horizon: int, period: int | None, net: bool, seed: int
    ):
        self.kind, self.horizon, self.classes = kind, horizon, classes
        self.inputs = OutcomeInputs(kind, columns, horizon=horizon, period=period)
        self.learner = OutcomeLearner(self.inputs, net=net, seed=seed)
        many = {"event": 2, "class": None}
        self.naive = Means() if kind == "count" else Frequencies(horizon, many[kind])
        self.methods = (NETWORK, *self.naive.names)
        self.scores, self.change = OutcomeScores(self.methods), Change(horizon)
        self.wide = {"event": 2, "class": CLASSES, "count": 1}[kind]
        self.pending = np.full((horizon, len(self.methods), self.wide), np.nan)
        self.begun = np.zeros(1)  # outcomes so far in this stream, up to `horizon`
        self.range = np.array([math.inf, -math.inf])  # the least and the largest outcome
        second, heading = SECOND[kind]
        self.measures = {"log_loss": "log loss", "log_loss_half": "2nd half"}
        self.measures |= {second: heading, f"{second}_half": "2nd half"}

    def __call__(self, rows: Float[np.ndarray, "n columns"]) -> Said:
        """Learn from n rows in turn and forecast from each."""
        n, truth = len(rows), rows[:, 0].copy()
        inputs, learn = self.inputs(rows)
        known = np.isfinite(np.concatenate([self.pending[:, 0, 0], self._there(truth)]))
        outputs = self.learner(inputs, np.where(known[:n], learn, np.nan))
        made, seen = self._made(truth, outputs)
        made = np.where(known[self.horizon :, None, None], made, np.nan)
        both = np.concatenate([self.pending, made])
        self.pending, due = both[n:], both[:n]
        losses = self._losses(truth, due)
        value, expected = self._value(due), self._value(made)[:, 0]
        self.scores(losses, self._second(truth, value))
        if self.kind == "count":
            surprise, shown = count_rarity(truth, due[:, 0, 0]), value
        else:
            surprise, shown = rarity(truth, due[:, 0]), np.exp(-losses)
        if len(there := truth[np.isfinite(truth)]):
            self.range = np.array([min(self.range[0], there.min()), max(self.range[1], there.max())])
        probabilities, classes = None, ()
        if self.kind == "class":
            probabilities = np.where(seen & np.isfinite(made[:, 0]), made[:, 0], np.nan)
            classes = tuple(self.classes.texts[: self.naive.seen])
        outcome = Outcome(losses, shown, probabilities, classes)
        ends, changed = np.empty((n, 0, 2)), self.change(losses[:, 0])
        return Said(truth, value, ends, surprise, changed, expected, ends, None, outcome)

    def _there(self, truth: np.ndarray) -> np.ndarray:
        """A number from the first outcome of this stream on; NaN before it."""
        count = self.begun[0] + np.cumsum(np.isfinite(truth))
        if len(truth):
            self.begun = np.minimum(count[-1:], 1.0)
        return np.where(count > 0, 1.0, np.nan)

    def _made(self, truth: np.ndarray, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What all methods say at each row: probabilities of classes, or expected counts; and which classes there are.

        A class that was not seen yet has the probability of any such class."""
        outputs = np.clip(outputs, -LARGEST, LARGEST)
        if self.kind == "count":
            rates = np.exp(outputs)
            return np.concatenate([rates, self.naive(truth)], axis=1)[..., None], rates > 0
        if self.kind == "event":
            outputs = np.concatenate([-outputs, outputs], axis=1) / 2
        before = self.naive.state["counts"].sum()
        floors, seen = self.naive(truth)
        rows, k = before + np.cumsum(np.isfinite(truth)), seen.sum(axis=1)
        odds = np.exp(outputs - outputs.max(axis=1, keepdims=True, initial=-np.inf)) * seen
        share = odds / np.maximum(odds.sum(axis=1, keepdims=True), 1e-300)
        if self.kind == "class":
            other = np.array([another(*each) for each in zip(rows.tolist(), k.tolist())]).reshape(-1, 1)
            share = np.where(seen, share * (1 - other), other)
        return np.concatenate([share[:, None], floors], axis=1), seen

    def _value(self, said: np.ndarray) -> Float[np.ndarray, "n methods"]:
        """The forecast: the probability of an event, an expected count, the code of the most probable class."""
        if self.kind != "class":
            return said[..., -1]
        best = np.nan_to_num(said, nan=-1.0).argmax(axis=-1).astype(float)
        return np.where(np.isfinite(said).any(axis=-1), best, np.nan)

    def _losses(self, truth: np.ndarray, due: np.ndarray) -> Float[np.ndarray, "n methods"]:
        if self.kind == "count":
            return poisson_loss(truth[:, None], due[..., 0])
        code = np.where(np.isfinite(truth), truth, 0).astype(int)
        p = np.take_along_axis(due, code[:, None, None], axis=2)[..., 0]
        return np.where(np.isfinite(truth)[:, None], -np.log(np.maximum(p, 1e-300)), np.nan)

    def _second(self, truth: np.ndarray, value: np.ndarray) -> Float[np.ndarray, "n methods"]:
        """The measure that stands beside the log loss."""
        if self.kind == "class":
            return (value == truth[:, None]).astype(float)
        error = value - truth[:, None]
        return error**2 if self.kind == "event" else abs(error)

    # What it knows of itself.

    def found(self) -> dict[str, Any]:
        """Scores, as `Forecaster.scores` has them."""
        scores, (second, _) = self.scores, SECOND[self.kind]
        found: dict[str, Any] = {"rows": scores.rows, "half": scores.half}
        for name, measure in (("log_loss", scores.log_loss), (second, scores.second)):
            found |= {name: measure(), f"{name}_half": measure("half")}
        if self.kind == "class":
            found["classes"] = self.classes.texts[: self.naive.seen]
        half = found["log_loss_half"]
        later = bool(half) and all(map(math.isfinite, half.values()))
        errors, where = (half, " in the second half") if later else (found["log_loss"], "")
        return found | {"weights": {}, "intervals": [], "verdict": words(errors, where, "log loss", math.inf)}

    def newest(self) -> dict[str, Any]:
        """Errors of the newest rows and of all."""
        second, _ = SECOND[self.kind]
        each = lambda part: {"log_loss": self.scores.log_loss(part), second: self.scores.second(part)}
        return {"newest": each("part"), "all": each("all")}

    def remarks(self) -> list[str]:
        """What a reader of the table should know."""
        if self.kind != "class":
            return []
        names = self.classes.texts[: self.naive.seen]
        return [f"{len(names)} classes: {', '.join(map(repr, names))}."]

    @property
    def constant(self) -> Any:
        """The one outcome that there was, if there was no other; else None."""
        low, high = self.range.tolist()
        if low != high:
            return None
        return self.classes.texts[int(low)] if self.kind == "class" else low

    @property
    def varied(self) -> np.ndarray:
        """Whether each column ever changed."""
        return self.inputs.state["centres"][:, 1] > 1

    def restart(self) -> None:
        """Keep what was learned; forget the stream, and all scores."""
        for part in (self.learner, self.inputs, self.naive):
            part.restart()
        self.change, self.begun = Change(self.horizon), np.zeros(1)
        self.pending = np.full_like(self.pending, np.nan)
        self.forget_scores()

    def forget_scores(self) -> None:
        """Score only what comes from now on."""
        self.scores = OutcomeScores(self.methods)

    @property
    def state(self) -> dict[str, Any]:
        """All that it knows."""
        parts = {"inputs": self.inputs, "naive": self.naive, "scores": self.scores, "change": self.change}
        state: dict[str, Any] = {name: part.state for name, part in parts.items()}
        return state | {
            "classes": self.classes.state,
            "learner": self.learner.memory,
            "anew": self.learner.anew,
            "pending": self.pending,
            "begun": self.begun,
            "range": self.range,
        }

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        for name in ("inputs", "naive", "scores", "change", "classes"):
            getattr(self, name).state = state[name]
        self.learner.memory, self.learner.anew = state["learner"], state["anew"]
        self.pending, self.begun, self.range = state["pending"], state["begun"], state["range"]
