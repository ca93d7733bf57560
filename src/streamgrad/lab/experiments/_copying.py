"""What the copy-memory experiments share: the data, the loss, a trial."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from ..tasks.copy_memory import CopyMemory
from ._experiment import Recorder
from ._settings import Training, at_least, positive
from ._training import Part, Problem, train
from ._tuning import TUNING_SEED


@dataclasses.dataclass(frozen=True)
class Shared:
    """Settings of every copy-memory experiment. The defaults are those of the paper."""

    rates: tuple[float, ...] = (2e-3, 4e-3, 8e-3)
    """Learning rates to choose from, by the validation loss of a short run for every mode."""
    tuning_updates: int = 1000
    """Length of these short runs; they use a seed of their own."""
    seeds: int = 3
    """Repetitions, run together."""
    task: CopyMemory = dataclasses.field(default_factory=CopyMemory)
    sizes: tuple[int, int, int] = (20_000, 1_000, 1_000)
    """Sequences for training, validation and test."""
    training: Training = dataclasses.field(default_factory=Training)

    def __post_init__(self):
        positive(self, "rates")
        at_least(1, self, "tuning_updates", "seeds", "sizes")


@functools.lru_cache(maxsize=2)
def problem(task: CopyMemory, sizes: tuple[int, int, int]) -> Problem:
    """The data, drawn once for all seeds and modes, and the loss: the mean cross-entropy of a recalled bit."""
    rng = np.random.default_rng(0)
    train_, valid, test = (Part(*task.draw(size, rng)) for size in sizes)

    def loss(outputs, pattern):
        bits = optax.sigmoid_binary_cross_entropy(outputs[-task.length :], pattern.astype(outputs.dtype))
        return jnp.mean(bits)

    def scores(outputs, pattern):
        return {"accuracy": jnp.mean((outputs[-task.length :] > 0) == (pattern > 0))}

    return Problem(train_, valid, test, lambda x: x.astype(float), loss, scores)


def run(
    settings: Shared, make: Callable[[Any], Any], rate: float, tuning: bool, recorder: Recorder, **options: Any
) -> None:
    """One trial of the model that `make(key)` builds."""
    training = dataclasses.replace(settings.training, rate=rate)
    if tuning:
        training = dataclasses.replace(training, updates=settings.tuning_updates)
    seeds = [TUNING_SEED] if tuning else list(range(settings.seeds))
    train(make, problem(settings.task, settings.sizes), training, seeds, recorder, tuning=tuning, **options)


METRICS = {
    "loss": {"label": "cross-entropy of a bit (nats)", "better": "lower", "floors": {"chance": 0.6931}},
    "accuracy": {"label": "bit accuracy", "better": "higher", "floors": {"chance": 0.5}, "percent": True},
    "cosine": {"label": "cosine with BPTT's gradient", "better": None, "floors": {}},
}
ABOUT = (
    "7 random bits at each of 20 steps, 7 empty steps, a marker, and then the pattern must be said again: 48 steps, "
    "cross-entropy of each recalled bit."
)

#: Small settings: whether it runs.
QUICK: dict[str, Any] = dict(
    rates=(4e-3,),
    seeds=2,
    task=CopyMemory(bits=2, length=3, pause=1),
    sizes=(200, 40, 40),
    training=Training(updates=40, batch=10, evaluations=4),
)
