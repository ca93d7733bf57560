"""Copy with a curriculum: dense and sparse networks, updates at every token or once a sequence, by algorithm."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator
from typing import Any, Literal

import jax
import numpy as np

from ... import cells
from ...nn import Sequential
from ...readout import Readout
from ...recurrent import Recurrent
from ...wiring import Dense, Sparse
from ..tasks.copy_curriculum import CopyCurriculum
from ._algorithms import algorithm, known
from ._experiment import Experiment, Recorder, Row, Trial
from ._minibatches import SeedBatch, Update, train
from ._settings import at_least, positive, some
from ._tuning import TUNING_SEED, tuned, tuning_views

Gates = Literal["own", "shared"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Copy with a curriculum."""

    cells: tuple[Literal["vanilla", "gru", "lstm"], ...] = ("vanilla", "gru", "lstm")
    """The recurrent cells."""
    networks: tuple[str, ...] = ("dense-32", "sparse-32-2")
    """dense-N: N units; sparse-N-K: N units, each gate of which has links from K, drawn once for all seeds."""
    gates: Gates = "own"
    """Whether the gates of a unit have links of their own, or share them: SnAp-2 and SnAp-3 then keep far less."""
    updates: tuple[Update, ...] = ("token", "sequence")
    """token: weights change at every token that is asked for; sequence: once a sequence, by the sum of its gradients
    (BPTT, which needs all of it, only then; RTRL, which then is BPTT, only at every token)."""
    dense: tuple[str, ...] = ("Frozen", "BPTT", "SnAp-1", "UORO", "RFLO")
    """Algorithms for dense networks."""
    sparse: tuple[str, ...] = ("Frozen", "BPTT", "RTRL", "SnAp-1", "SnAp-2", "SnAp-3", "UORO", "RFLO")
    """Algorithms for sparse ones."""
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2)
    """Learning rates of Adam to choose from, half-decades, for every variant by short runs: by the length reached,
    and between equal ones by the bits a character at their end."""
    sweep: bool = False
    """Every rate for the whole length, instead of short runs to choose one: what holds at which rate."""
    tuning_tokens: int = 128_000
    """Length of the short runs; as many seeds as those that count, and none of them."""
    seeds: int = 3
    """Repetitions: other weights, other strings, run together."""
    tokens: int = 768_000
    """Data-time: tokens seen, in all sequences of a minibatch."""
    every: int = 16_000
    """Tokens between two rows of results."""
    task: CopyCurriculum = dataclasses.field(default_factory=CopyCurriculum)

    def __post_init__(self):
        some(self, "cells", "networks", "updates")
        positive(self, "rates")
        at_least(1, self, "seeds")
        if self.sweep and len(self.rates) < 2:
            raise ValueError(f"sweep is for several rates, got {self.rates}.")
        at_least(self.task.batch, self, "tokens", "tuning_tokens", "every")
        known(self, "dense", "sparse")
        for name in self.networks:
            sizes(name)


def sizes(network: str) -> tuple[int, int | None]:
    """Units, and links of each, None when dense."""
    if not (match := re.fullmatch(r"dense-([1-9]\d*)|sparse-([1-9]\d*)-([1-9]\d*)", network)):
        raise ValueError(f"no network {network!r} in networks: give dense-N, or sparse-N-K.")
    return (int(match[1]), None) if match[1] else (int(match[2]), int(match[3]))


def worth_a_chunk(network: str) -> bool:
    """Whether a pass backwards is faster than traces: with dense links, 1.3 to 2.4 times; sparse ones are scattered
    into on the way back, eight times slower."""
    return sizes(network)[1] is None


def layer(kind: str, network: str, gates: Gates, learning: str, in_size: int, key) -> Recurrent:
    """A recurrent layer of a network by name."""
    units, links = sizes(network)
    wiring = Dense() if links is None else Sparse(fan_in=links, gates=gates)
    return Recurrent(cells.cell(kind)(in_size, units, wiring=wiring, key=key), algorithm(learning))


def model(kind: str, network: str, gates: Gates, learning: str, task: CopyCurriculum, key) -> Sequential:
    """A recurrent layer and a readout of the two symbols."""
    key_cell, key_out = jax.random.split(key)
    recurrent = layer(kind, network, gates, learning, task.in_size, key_cell)
    return Sequential((recurrent, Readout(sizes(network)[0], task.classes, key=key_out)))


@functools.lru_cache(maxsize=1)
def _crowd(kind: str, network: str, gates: Gates, learning: str, task: CopyCurriculum, update: Update) -> SeedBatch:
    """One program for every rate."""
    make = functools.partial(model, kind, network, gates, learning, task)
    return SeedBatch(make, task, update, chunked=worth_a_chunk(network))


def run(settings: Settings, variant: dict[str, Any], tuning: bool, recorder: Recorder) -> None:
    """One trial, all seeds."""
    kind, network, update, learning = (variant[key] for key in ("cell", "network", "update", "learning"))
    train(
        _crowd(kind, network, settings.gates, learning, settings.task, update),
        [seed + TUNING_SEED * tuning for seed in range(settings.seeds)],
        variant["rate"],
        recorder,
        tokens=settings.tuning_tokens if tuning else settings.tokens,
        every=settings.every,
        measure=lambda state, bits: {"length": state.level, "bits": bits, "loss": bits - np.asarray(state.level)},
        streams=settings.updates if learning == "BPTT" else (update,),  # it stands beside the others in every figure
        tuning=tuning,
    )


def _trials(settings: Settings, rows: list[Row]) -> Iterator[Trial]:
    def trial(variant: dict[str, Any], tuning: bool) -> Trial:
        return Trial(variant, functools.partial(run, settings, variant, tuning), tuning)

    variants = [
        {"cell": kind, "network": network, "update": update, "learning": learning}
        for kind in settings.cells
        for network in settings.networks
        for update in settings.updates
        for learning in (settings.dense if sizes(network)[1] is None else settings.sparse)
        if (learning, update) not in (("BPTT", "token"), ("RTRL", "sequence"))
    ]
    if settings.sweep:
        yield from (trial({**variant, "rate": rate}, False) for variant in variants for rate in settings.rates)
    else:
        yield from tuned(variants, settings.rates, rows, trial)


def _views(settings: Settings) -> list[dict[str, Any]]:
    keys = ["cell", "network", "update", "learning"]
    end = {"view": "table", "title": f"Length reached after {settings.tokens:,} tokens", "rows": [*keys, "rate"]}
    curves = {"view": "curves", "x": "tokens seen", "metric": "length", "by": ["learning"]}
    if settings.sweep:
        by_rate = {"view": "against", "x": "rate", "metric": "length", "by": keys[1:]}
        title = f"Length reached after {settings.tokens:,} tokens, by rate"
        return [{**end, "metrics": ["length", "bits"], "split": "end"}, {**by_rate, "title": title, "split": "end"}]
    titles = {"token": "Updates at every token, BPTT's at the end of a sequence", "sequence": "One update a sequence"}
    return [
        {**end, "metrics": ["length", "bits"], "split": "end"},
        *({**curves, "title": titles[update], "split": update} for update in settings.updates),
        *tuning_views(settings.rates, f"{settings.tuning_tokens:,} tokens", keys),
    ]


EXPERIMENT = Experiment(
    name="snap-copy",
    title="Copy with a curriculum: SnAp, BPTT and others",
    about="A string of bits, a delimiter, and then the string must be said again (Menick et al., 2020). Strings of a "
    "minibatch have one length, drawn from U[max(1, L - 5), L]; L begins at 1 and rises by 1 whenever a minibatch "
    "costs less than 0.15 bits a character, so that L - 5 is what a network has mastered. State and traces begin anew "
    "with each string. Adam; the learning rate of every variant is chosen from the same list by short runs of other "
    "seeds. Compared at equal data-time, tokens seen: with updates at every token (T = 1), and with one a sequence.",
    duration="1 hour",
    config=Settings(),
    quick=Settings(
        cells=("gru",),
        networks=("sparse-8-2",),
        sparse=("BPTT", "SnAp-2"),
        rates=(3e-3,),
        seeds=2,
        tokens=1200,
        tuning_tokens=400,
        every=400,
        task=CopyCurriculum(batch=4, most=6),
    ),
    trials=_trials,
    metrics={
        "length": {"label": "L reached", "better": "higher", "floors": {}},
        "bits": {"label": "bits a character, in training", "better": "lower", "floors": {"chance": 1.0}},
        "loss": {"label": "bits a character, less L", "better": "lower", "floors": {}},
    },
    views=_views,
)
