"""Trace patterning and trace conditioning: predicting what some patterns foretell."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from ..tasks.trace_conditioning import TraceConditioning
from ..tasks.trace_patterning import TracePatterning
from ._experiment import Experiment
from ._prediction import METRICS, Learners, Problem, trials, views
from ._settings import within

LEARNERS = (
    *("columnar-7", "constructive-10", "ccn-20-4", "snap-5"),
    *("tbptt-15-4", "tbptt-30-2", "tbptt-5-8"),
    *("tbptt-15-4-raw", "tbptt-30-2-raw", "tbptt-5-8-raw"),
    *("columnar-7-init", "ccn-20-4-init", "tbptt-15-4-init"),
)


@dataclasses.dataclass(frozen=True)
class Patterning(Learners):
    """Trace patterning."""

    learners: tuple[str, ...] = LEARNERS
    gamma: float = 0.9
    """Discount of the sum that is predicted."""
    task: TracePatterning = dataclasses.field(default_factory=TracePatterning)

    def __post_init__(self):
        super().__post_init__()
        within(self, "gamma", 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Conditioning(Learners):
    """Trace conditioning."""

    learners: tuple[str, ...] = ("columnar-7", "constructive-10", "ccn-20-4", "snap-5", "tbptt-15-4", "tbptt-30-2")
    gamma: float = 0.9
    """Discount of the sum that is predicted."""
    task: TraceConditioning = dataclasses.field(default_factory=TraceConditioning)

    def __post_init__(self):
        super().__post_init__()
        within(self, "gamma", 0.0, 1.0)


def _problem(settings: Patterning | Conditioning) -> Problem:
    return Problem(
        settings.task.in_size,
        settings.gamma,
        settings.task.stream,
        {
            "predict zero": lambda stream, start, stop: np.zeros(stop - start),
            "Bayes": lambda stream, start, stop: stream.bayes(start, stop, settings.gamma),
        },
    )


def _experiment(name: str, title: str, about: str, duration: str, config: Patterning | Conditioning) -> Experiment:
    quick: dict[str, Any] = dict(
        learners=("ccn-4-2", "tbptt-3-2-raw"), rates=(1e-3,), seeds=2, steps=6_000, tuning_steps=2_000, every=1_000
    )
    return Experiment(
        name=name,
        title=title,
        about=about
        + " Every learner has the same inputs, online normalisation (but -raw), TD(λ) and RMSProp; the step "
        "size of each is chosen from the same list on streams that do not count. The error is that of the prediction "
        "against the true return, averaged over stretches of the stream. Predicting zero and the best prediction that "
        "knows the process (Bayes) stand beside them on the same streams.",
        duration=duration,
        config=config,
        quick=dataclasses.replace(config, **quick),
        trials=lambda settings, rows: trials(settings, _problem(settings), rows),
        metrics=METRICS,
        views=views,
        small=True,
    )


PATTERNING = _experiment(
    "trace-patterning",
    "Trace patterning",
    "Ten of twenty patterns are followed by an event 24 to 36 steps later: predict the discounted sum of events.",
    "about 2 hours",
    Patterning(),
)
CONDITIONING = _experiment(
    "trace-conditioning",
    "Trace conditioning",
    "A stimulus is followed by an event after a long time: predict the discounted sum of events.",
    "about 1 hour",
    Conditioning(),
)
