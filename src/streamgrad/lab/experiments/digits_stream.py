"""Digits as an endless stream: weights change at every pixel."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import optax

from ... import losses, optimisers
from ...train import Learner
from ..tasks.sequences import digits
from ._experiment import Experiment, Recorder, Row, Trial
from ._settings import Mode, Network, at_least, positive, some
from ._tuning import TUNING_SEED, tuned, tuning_views

PIXELS = 64


@dataclasses.dataclass(frozen=True)
class Settings:
    """Digits as an endless stream."""

    modes: tuple[Mode, ...] = ("online", "lambda-gamma", "one-step", "spatial", "frozen", "bptt")
    """How the recurrent layers learn; a trial for each. bptt: one update a digit, from the window of its 64 steps."""
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    """Learning rates to choose from, by the loss at the end of a short stream for every mode."""
    tuning_images: int = 2_000
    """Digits in it; it has a seed of its own."""
    streams: int = 16
    """Streams that share the weights, each at another place within its digit. With one, 64 updates in a row see the
    same label, and a network forgets all others: it then wants a rate near 1e-5 and many more digits."""
    seeds: int = 3
    """Repetitions: other weights, another order of the digits."""
    images: int = 16_000
    """Digits in all streams. There are 1,797; after each pass they come in a new order."""
    every: int = 800
    """Digits between two rows of results."""
    weight_decay: float = 0.01
    """Of all parameters that are not recurrent."""
    clip: float = 1.0
    """Largest norm of a gradient."""
    network: Network = dataclasses.field(default_factory=lambda: Network(depth=2, width=64, units=64, dropout=0.0))

    def __post_init__(self):
        some(self, "modes")
        positive(self, "rates")
        at_least(1, self, "seeds", "streams", "every")
        at_least(2 * self.streams, self, "images", "tuning_images")


@functools.cache
def _images() -> tuple[np.ndarray, np.ndarray]:
    parts = digits()
    return np.concatenate([part.xs for part in parts]), np.concatenate([part.labels for part in parts])


def stream(count: int, streams: int, seed: int, *, shifted: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`count` digits in endless streams, one digit of each in a row: inputs (time, streams, 2), the pixel and a mark
    where a digit begins; labels (time, streams) of the digit being read; row (time, streams) of the digit whose last
    pixel this is, else -1. Every image comes once in a pass, in a random order. `shifted`: streams are at different
    places within their digits; the first digit of each is then cut and gets no answer."""
    xs, labels = _images()
    rng = np.random.default_rng(seed)
    rows, passes = count // streams, -(-count // len(labels))
    order = np.concatenate([rng.permutation(len(labels)) for _ in range(passes)])[: rows * streams]
    order = order.reshape(rows, streams)
    pixels = np.moveaxis(xs[order][..., 0], 2, 1).reshape(rows * PIXELS, streams)
    row, place = np.divmod(np.arange(rows * PIXELS), PIXELS)
    wide = lambda column: np.broadcast_to(column[:, None], pixels.shape)
    whole = np.stack([pixels, wide(place == 0)], 2), np.repeat(labels[order], PIXELS, 0)
    whole = *whole, wide(np.where(place == PIXELS - 1, row, -1))
    if not shifted:
        return whole
    by = [s * PIXELS // streams for s in range(streams)]
    shift = lambda array: np.stack([np.roll(array[:, s], -by[s], 0) for s in range(streams)], axis=1)
    xs, told, answers = map(shift, whole)
    cut = (answers == 0) & (np.array(by) > 0)
    return xs, told, np.where(cut, -1, answers)


def run(settings: Settings, mode: str, rate: float, tuning: bool, recorder: Recorder) -> None:
    """One trial, seed after seed: a learner whose targets come one digit late."""
    images = settings.tuning_images if tuning else settings.images
    seeds = [TUNING_SEED] if tuning else list(range(settings.seeds))
    for k, seed in enumerate(seeds):
        key_model, key = jax.random.split(jax.random.key(seed))
        model = settings.network.build(2, 10, mode, pooling=False, key=key_model)
        optimiser = optax.chain(
            optax.clip_by_global_norm(settings.clip),
            optimisers.adamw(rate, warmup=PIXELS, weight_decay=settings.weight_decay)(model),
        )
        learner = Learner(
            model,
            optimiser,
            loss=losses.cross_entropy,
            delay=PIXELS,
            streams=settings.streams,
            update_every=PIXELS if mode == "bptt" else 1,
        )
        # Windows of BPTT are digits, and so its streams begin together.
        xs, labels, row = stream(images, settings.streams, seed, shifted=mode != "bptt")
        xs = xs.astype(jax.dtypes.canonicalize_dtype(float))
        # The label of a pixel is told a digit later: nothing is known of a digit while it is read.
        told = np.concatenate([np.full((PIXELS, settings.streams), -1), labels[:-PIXELS]]).astype(np.int32)
        st, right = learner.init(key=key), []
        steps = settings.every * PIXELS // settings.streams
        for first in range(0, len(xs), steps):
            here = slice(first, first + steps)
            st, out = learner.run(st, xs[here], told[here])
            right.append(np.asarray(out.prediction).argmax(2) == labels[here])
            done, over = min(first + steps, len(xs)) * settings.streams // PIXELS, first + steps >= len(xs)
            values: dict[str, Any] = {
                "accuracy": float(right[-1][row[here] >= 0].mean()),
                "loss": float(np.nanmean(out.loss)),
            }
            recorder.progress(k * images + done, len(seeds) * images, f"accuracy {values['accuracy']:.3f}")
            if not tuning:
                recorder.write(seed, done, "stream", **values)
            elif over:
                recorder.write(seed, done, "tuning", final=True, **values)
        if not tuning:
            # Rows of which every image is of the first pass, and as many at the end.
            count, answers = len(_images()[1]) // settings.streams, np.concatenate(right)
            early, late = (row >= 0) & (row < count), row >= max(row.max() + 1 - count, 0)
            values = {"first": float(answers[early].mean()), "late": float(answers[late].mean())}
            recorder.write(seed, images, "end", final=True, skipped=st.skipped, **values)


def _trials(settings: Settings, rows: list[Row]) -> Iterator[Trial]:
    def trial(variant: dict[str, Any], tuning: bool) -> Trial:
        return Trial(variant, functools.partial(run, settings, variant["mode"], variant["rate"], tuning), tuning)

    yield from tuned([{"mode": mode} for mode in settings.modes], settings.rates, rows, trial)


def _views(settings: Settings) -> list[dict[str, Any]]:
    return [
        {
            "view": "table",
            "title": "Prequential accuracy",
            "rows": ["mode", "rate"],
            "metrics": ["first", "late"],
            "split": "end",
        },
        {
            "view": "curves",
            "title": "Prequential accuracy along the stream",
            "metric": "accuracy",
            "by": ["mode"],
            "split": "stream",
        },
        *tuning_views(settings.rates, f"{settings.tuning_images} digits", ["mode"]),
    ]


EXPERIMENT = Experiment(
    name="digits-stream",
    title="Digits as an endless stream",
    about="The digits of scikit-learn one after another, a pixel a step, without end, in several streams: state and "
    "traces are never reset and the weights change at every step (bptt: once a digit, from its 64 steps). The label of "
    "a digit is told while the next one is read, so that each answer, given at a digit's last pixel, was made before "
    "its label was known: prequential accuracy. In the first pass no image was shown before. The learning rate of each "
    "mode is chosen from the same list on a short stream of the same images in another order.",
    duration="1 hour",
    config=Settings(),
    quick=Settings(
        modes=("online", "bptt"),
        rates=(1e-3,),
        seeds=1,
        streams=2,
        images=20,
        every=10,
        network=Network(depth=1, width=8, units=8, dropout=0.0),
    ),
    trials=_trials,
    metrics={
        "accuracy": {"label": "prequential accuracy", "better": "higher", "floors": {"chance": 0.1}, "percent": True},
        "first": {"label": "accuracy, first pass", "better": "higher", "floors": {"chance": 0.1}, "percent": True},
        "late": {"label": "accuracy, last pass", "better": "higher", "floors": {"chance": 0.1}, "percent": True},
        "loss": {"label": "cross-entropy at every step (nats)", "better": "lower", "floors": {"chance": 2.3026}},
        "skipped": {"label": "updates left out", "better": "lower", "floors": {}},
    },
    views=_views,
)
