"""A character language model: random crops of a text, by algorithm."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ... import inference
from ...losses import cross_entropy
from ...nn import Sequential, unroll
from ...readout import Readout
from ..tasks.text import CLASSES, Crops, Text, gzip_bits, ngram_bits, read_text
from ._algorithms import algorithm
from ._experiment import Experiment, Recorder, Row, Trial
from ._minibatches import SeedBatch, Update, train
from ._settings import at_least, positive, some
from ._tuning import TUNING_SEED, tuned, tuning_views
from .snap_copy import Gates, layer, sizes, worth_a_chunk

ROW = 1024  # characters that are tested in one go


@dataclasses.dataclass(frozen=True)
class Settings:
    """A character language model."""

    text: Path | None = None
    """A file, or a folder of files (WikiText-103, say). By default the source of Python's standard library."""
    learners: tuple[str, ...] = (
        "dense-64 BPTT",
        "dense-64 SnAp-1",
        "dense-64 RFLO",
        "dense-64 UORO",
        "dense-64 Frozen",
        "sparse-128-4 BPTT",
        "sparse-128-4 SnAp-1",
        "sparse-128-4 SnAp-2",
        "dense-16 RTRL",
        "dense-16 BPTT",
    )
    """A network (dense-N, or sparse-N-K: N units with links from K) and its algorithm."""
    cell: Literal["vanilla", "gru", "lstm"] = "gru"
    """The recurrent cell."""
    gates: Gates = "shared"
    """Whether the gates of a unit share their links or have their own: the influence is then wider."""
    embedding: int = 16
    """Numbers that stand for a character."""
    hidden: int = 256
    """Units of the readout's hidden layer, rectified."""
    update: Update = "sequence"
    """sequence: one update a crop; token: at every character."""
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    """Learning rates of Adam to choose from, half-decades, for every learner by short runs."""
    tuning_characters: int = 65_536
    """Their length; as many seeds as those that count, and none of them."""
    seeds: int = 3
    """Repetitions: other weights, other crops, run together."""
    characters: int = 786_432
    """Characters seen, in all crops."""
    every: int = 131_072
    """Characters between two looks at the validation part."""
    valid: int = 32_768
    """Characters of it, in pieces of 1,024 that begin with an empty state."""
    batch: int = 16
    """Crops in an update."""
    crop: int = 128
    """Characters of a crop; no gradient crosses its beginning."""

    def __post_init__(self):
        some(self, "learners")
        positive(self, "rates")
        at_least(1, self, "embedding", "hidden", "seeds", "batch", "crop")
        at_least(self.batch * self.crop, self, "characters", "tuning_characters", "every")
        at_least(ROW + 1, self, "valid")
        for name in self.learners:
            network, _, learning = name.partition(" ")
            sizes(network)
            algorithm(learning)


def model(settings: Settings, learner: str, key) -> Sequential:
    """Embedding, recurrent layer, a rectified hidden layer, and a readout of the next character."""
    network, _, learning = learner.partition(" ")
    keys = jax.random.split(key, 4)
    return Sequential(
        (
            eqx.nn.Embedding(CLASSES, settings.embedding, key=keys[0]),
            layer(settings.cell, network, settings.gates, learning, settings.embedding, keys[1]),
            eqx.nn.Linear(sizes(network)[0], settings.hidden, key=keys[2]),
            jax.nn.relu,
            Readout(settings.hidden, CLASSES, key=keys[3]),
        )
    )


@functools.lru_cache(maxsize=2)
def _text(path: Path | None) -> Text:
    return read_text(path)


def _held_out(settings: Settings) -> np.ndarray:
    return _text(settings.text).valid[: settings.valid]


@functools.lru_cache(maxsize=1)
def _made(settings: Settings, learner: str) -> tuple[SeedBatch, Callable[[Any], np.ndarray]]:
    """One program for every rate: training, and bits a character of the validation part."""
    task = Crops(_text(settings.text).train, settings.batch, settings.crop)
    chunked = worth_a_chunk(learner.partition(" ")[0])
    crowd = SeedBatch(functools.partial(model, settings, learner), task, settings.update, chunked=chunked)
    held = _held_out(settings)
    rows = (len(held) - 1) // ROW
    xs, targets = (jnp.asarray(held[k : k + rows * ROW].reshape(rows, ROW), jnp.int32) for k in (0, 1))

    def bits(parameters):
        asked = inference(crowd.model(parameters))

        def one(xs, targets):
            logits = unroll(asked, asked.init(key=jax.random.key(0)), xs)[1]
            return jnp.mean(jax.vmap(cross_entropy)(logits, targets)) / np.log(2)

        return jnp.mean(jax.vmap(one)(xs, targets))

    return crowd, jax.jit(lambda parameters: jax.lax.map(bits, parameters))


def run(settings: Settings, variant: dict[str, Any], tuning: bool, recorder: Recorder) -> None:
    """One trial, all seeds."""
    crowd, held_out = _made(settings, variant["learner"])

    def measure(state, bits):
        valid = held_out(state.parameters)
        return {"bits": valid, "train": bits, "loss": valid}

    train(
        crowd,
        [seed + TUNING_SEED * tuning for seed in range(settings.seeds)],
        variant["rate"],
        recorder,
        tokens=settings.tuning_characters if tuning else settings.characters,
        every=settings.every,
        measure=measure,
        tuning=tuning,
    )


def mark(settings: Settings, name: str, recorder: Recorder) -> None:
    """A familiar compressor: gzip of the validation part alone, 5-grams of as many characters as networks have seen."""
    held = _held_out(settings)
    for seen in range(settings.every, settings.characters + 1, settings.every):
        before = _text(settings.text).train[:seen]
        bits = gzip_bits(held) if name == "gzip -9" else ngram_bits(before, held)
        recorder.write(0, seen, "stream", bits=bits)
    recorder.write(0, settings.characters, "end", final=True, bits=bits)


def _trials(settings: Settings, rows: list[Row]) -> Iterator[Trial]:
    for name in ("gzip -9", "5-gram"):
        yield Trial({"learner": name}, functools.partial(mark, settings, name))

    def trial(variant: dict[str, Any], tuning: bool) -> Trial:
        return Trial(variant, functools.partial(run, settings, variant, tuning), tuning)

    yield from tuned([{"learner": name} for name in settings.learners], settings.rates, rows, trial)


def _views(settings: Settings) -> list[dict[str, Any]]:
    end = {"view": "table", "title": f"Bits a character after {settings.characters:,} characters"}
    curves = {
        "view": "curves",
        "title": "Bits a character, by characters seen",
        "x": "characters seen",
        "metric": "bits",
    }
    return [
        {**end, "rows": ["learner", "rate"], "metrics": ["bits", "train"], "split": "end"},
        {**curves, "by": ["learner"], "split": "stream"},
        *tuning_views(settings.rates, f"{settings.tuning_characters:,} characters", ["learner"]),
    ]


EXPERIMENT = Experiment(
    name="snap-charlm",
    title="A character language model",
    about="Random crops of 128 characters, no gradient across their beginning, and one update a crop for every "
    "algorithm (Menick et al., 2020): embedding, one recurrent layer, a rectified hidden layer, Adam. The text is the "
    "source of the running Python's standard library, its tests left out, split by file; --text names another. Bits a "
    "character of held-out files, beside gzip -9 of them and a 5-gram model of as many characters as were seen. Online "
    "algorithms give the embedding the gradient of the present step alone, BPTT that of all later ones. The learning "
    "rate of every learner is chosen from the same list by short runs of other seeds.",
    duration="1 hour",
    config=Settings(),
    quick=Settings(
        learners=("dense-8 BPTT", "sparse-8-2 SnAp-2"),
        embedding=4,
        hidden=8,
        rates=(3e-3,),
        seeds=2,
        characters=512,
        tuning_characters=256,
        every=256,
        valid=1100,
        batch=4,
        crop=16,
    ),
    trials=_trials,
    metrics={
        "bits": {"label": "bits a character, held-out files", "better": "lower", "floors": {}},
        "train": {"label": "bits a character, in training", "better": "lower", "floors": {}},
        "loss": {"label": "bits a character, held-out files", "better": "lower", "floors": {}},
    },
    views=_views,
)
