"""Classifying whole sequences, step by step: what its experiments share."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from ..tasks.sequences import Sequences, Splits
from ._experiment import Experiment, Recorder, Row, Trial
from ._settings import Mode, Network, Training, at_least, positive, some
from ._training import Part, Problem, train
from ._tuning import TUNING_SEED, tuned, tuning_views


@dataclasses.dataclass(frozen=True)
class Shared:
    """Settings of every experiment that classifies sequences."""

    modes: tuple[Mode, ...] = ("bptt", "online", "one-step", "spatial")
    """How the recurrent layers learn; a trial for each."""
    rates: tuple[float, ...] = (2e-3, 4e-3, 8e-3)
    """Learning rates to choose from, by the validation loss of a short run for every mode."""
    tuning_updates: int = 500
    """Length of these short runs; they use a seed of their own."""
    seeds: int = 3
    """Repetitions, run together."""
    network: Network = dataclasses.field(default_factory=Network)
    training: Training = dataclasses.field(default_factory=Training)

    def __post_init__(self):
        some(self, "modes")
        positive(self, "rates")
        at_least(1, self, "tuning_updates", "seeds")


def problem(splits: Splits) -> Problem:
    """Classification at every step, from the mean of all features so far, scored by the last answer. The loss is the
    cross-entropy of the label at every step. Padding is left out."""
    first = splits.train

    def encode(x):
        return (jnp.asarray(first.table)[x] if x.ndim == 1 else x).astype(float)

    def loss(logits, target):
        label, length = target
        there = jnp.arange(len(logits), dtype=length.dtype) < length
        each = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.broadcast_to(label, len(logits)))
        return jnp.sum(jnp.where(there, each, 0)) / length.astype(each.dtype)

    def scores(logits, target):
        label, length = target
        return {"accuracy": (jnp.argmax(logits[length - 1]).astype(label.dtype) == label).astype(logits.dtype)}

    part = lambda s: Part(s.xs, (s.labels, s.lengths))
    return Problem(part(splits.train), part(splits.valid), part(splits.test), encode, loss, scores)


def trials(load: Callable[[Any], Splits], settings: Shared, rows: list[Row]) -> Iterator[Trial]:
    """A trial for each mode, at a rate that a short run chose."""
    splits = load(settings)
    asked = problem(splits)
    shape: Sequences = splits.train

    def run(mode: str, rate: float, tuning: bool, recorder: Recorder) -> None:
        training = dataclasses.replace(settings.training, rate=rate)
        if tuning:
            training = dataclasses.replace(training, updates=settings.tuning_updates)
        seeds = [TUNING_SEED] if tuning else list(range(settings.seeds))
        make = lambda key: settings.network.build(shape.in_size, shape.classes, mode, pooling=True, key=key)
        train(make, asked, training, seeds, recorder, tuning=tuning)

    def trial(variant: dict[str, Any], tuning: bool) -> Trial:
        return Trial(variant, functools.partial(run, variant["mode"], variant["rate"], tuning), tuning)

    yield from tuned([{"mode": mode} for mode in settings.modes], settings.rates, rows, trial)


def views(settings: Shared) -> list[dict[str, Any]]:
    """Accuracy by mode, and how it was reached."""
    return [
        {
            "view": "table",
            "title": "Test accuracy",
            "rows": ["mode", "rate"],
            "metrics": ["accuracy", "loss"],
            "split": "test",
        },
        {
            "view": "curves",
            "title": "Validation accuracy during training",
            "metric": "accuracy",
            "by": ["mode"],
            "split": "valid",
        },
        *tuning_views(settings.rates, f"{settings.tuning_updates} updates", ["mode"]),
    ]


def experiment(
    name: str,
    title: str,
    about: str,
    duration: str,
    settings: Shared,
    quick: Shared,
    load: Callable[[Any], Splits],
    chance: float,
) -> Experiment:
    """An experiment on one data set."""
    metrics = {
        "accuracy": {
            "label": "accuracy after the last step",
            "better": "higher",
            "floors": {"chance": chance},
            "percent": True,
        },
        "loss": {
            "label": "cross-entropy, mean over steps (nats)",
            "better": "lower",
            "floors": {"chance": -float(np.log(chance))},
        },
    }
    about += (
        " The label is asked for at every step, from the running mean of the features; the score is the answer after "
        "the last step. The learning rate of each mode is chosen from the same list by a short run."
    )
    return Experiment(name, title, about, duration, settings, quick, functools.partial(trials, load), metrics, views)


#: Small settings: whether it runs.
QUICK: dict[str, Any] = dict(
    modes=("bptt", "online"),
    rates=(4e-3,),
    seeds=2,
    network=Network(depth=2, width=16, units=16),
    training=Training(updates=20, batch=10, evaluations=2),
)
