"""Atari prediction: the discounted score of a game, learned while it is played."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...nn import Statistics
from ..tasks import atari
from ._experiment import Experiment, Row, Trial
from ._prediction import METRICS, Learners, Problem, trials, views
from ._settings import within
from ._tuning import TUNING_SEED


@dataclasses.dataclass(frozen=True)
class Settings(Learners):
    """Atari prediction."""

    game: str = "Pong"
    """Name of the game, as ALE spells it."""
    recordings: Path = Path("data") / "atari"
    """Folder of the recorded streams; one that is missing there is played first, by a player that acts at random and
    holds each action for a while. Every learner sees the same recording."""
    gamma: float = 0.98
    """Discount of the clipped score that is predicted."""
    learners: tuple[str, ...] = ("columnar-7", "ccn-20-5", "snap-7", "tbptt-8-4", "tbptt-16-2", "constructive-5")
    steps: int = 100_000
    tuning_steps: int = 20_000
    tuning_seeds: int = 1
    seeds: int = 3
    every: int = 5_000
    rates: tuple[float, ...] = (1e-2, 3e-3, 1e-3, 3e-4)
    inputs: Statistics = Statistics(decay=0.999998, floor=0.001, prior=0.0)
    features: Statistics = Statistics(decay=0.999998, floor=0.001, prior=0.0)

    def __post_init__(self):
        super().__post_init__()
        within(self, "gamma", 0.0, 1.0)


class _Stream:
    """A recording, and the returns of its rewards: an episode's end ends a sum; the stream's end is a cut."""

    def __init__(self, recording: atari.Recording):
        self.recording = recording

    def inputs(self, start: int, stop: int) -> np.ndarray:
        return atari.inputs(self.recording, start, stop)

    def cumulants(self, start: int, stop: int) -> np.ndarray:
        return atari.cumulants(self.recording, start, stop)

    def returns(self, start: int, stop: int, gamma: float) -> np.ndarray:
        return _returns(self.recording, gamma)[start:stop]


@functools.lru_cache(maxsize=4)
def _recorded(folder: Path, game: str, steps: int, seed: int) -> atari.Recording:
    return atari.load_or_record(folder, game, steps, seed)


@functools.cache
def _returns(recording: atari.Recording, gamma: float) -> np.ndarray:
    came, after = np.zeros(len(recording)), 0.0
    rewards = recording.rewards.astype(float)
    for t in range(len(recording) - 2, -1, -1):
        after = rewards[t + 1] + gamma * after
        came[t] = after
    return came


def _problem(settings: Settings) -> Problem:
    # Played on a little longer, so that the sum after the last step is known to one part in 10^4.
    beyond = int(np.ceil(np.log(1e-4) / np.log(settings.gamma))) if settings.gamma else 1

    def source(seed: int) -> _Stream:
        tuning = seed >= TUNING_SEED
        steps = (settings.tuning_steps if tuning else settings.steps) + beyond
        return _Stream(_recorded(settings.recordings, settings.game, steps, TUNING_SEED if tuning else 0))

    def last_mean(stream: _Stream, start: int, stop: int) -> np.ndarray:
        """The mean of all returns known by each step."""
        returns = _returns(stream.recording, settings.gamma)
        known = np.concatenate([np.zeros(beyond), returns])[: len(returns)]
        return (np.cumsum(known) / np.maximum(np.arange(len(known)) - beyond + 1, 1))[start:stop]

    zero = lambda stream, start, stop: np.zeros(stop - start)
    return Problem(atari.SIZE, settings.gamma, source, {"predict zero": zero, "running mean": last_mean})


def _trials(settings: Settings, rows: list[Row]) -> Iterator[Trial]:
    yield from trials(settings, _problem(settings), rows)


EXPERIMENT = Experiment(
    name="atari-prediction",
    title="Atari prediction",
    about="A game is played once by a player that acts at random, holding each action for a while, and recorded. Every "
    "learner sees the same 275 numbers a step (the frame as 16 x 16 grey levels, the last action, the clipped reward) "
    "and predicts the discounted sum of clipped rewards to come, across episodes; seeds differ in their weights. The "
    "step size of each learner is chosen from the same list on another recording. Predicting zero, and the mean of all "
    "returns known so far, stand beside them. Needs the extra streamgrad[atari].",
    duration="half an hour",
    config=Settings(),
    quick=Settings(
        learners=("ccn-4-2", "tbptt-3-2"), rates=(1e-3,), seeds=2, steps=2_000, tuning_steps=1_000, every=500
    ),
    trials=_trials,
    metrics=METRICS,
    views=views,
)
