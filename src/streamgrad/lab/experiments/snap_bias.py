"""What SnAp leaves out: the exact influence of a network in training, inside the pattern that is kept and outside."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from ...cells import Cell
from ...nn import Sequential
from ..tasks.copy_curriculum import CopyCurriculum
from ._algorithms import known
from ._experiment import Experiment, Recorder, Row, Trial
from ._minibatches import SeedBatch, State, train
from ._settings import at_least, positive, some
from ._tuning import TUNING_SEED, tuned, tuning_views
from .snap_copy import Gates, model, sizes


@dataclasses.dataclass(frozen=True)
class Settings:
    """What SnAp leaves out."""

    learning: tuple[str, ...] = ("BPTT", "SnAp-1", "SnAp-2", "SnAp-3")
    """By what the network is trained, one update a sequence; a trial for each."""
    cell: Literal["vanilla", "gru", "lstm"] = "gru"
    """The recurrent cell."""
    network: str = "sparse-32-2"
    """sparse-N-K: N units, each gate of which has links from K."""
    gates: Gates = "own"
    """Whether the gates of a unit have links of their own, or share them."""
    orders: tuple[int, ...] = (1, 2, 3)
    """n of the patterns of SnAp-n."""
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    """Learning rates of Adam to choose from, half-decades, by short runs of other seeds."""
    tuning_tokens: int = 128_000
    """Their length; as many seeds as those that count, and none of them."""
    seeds: int = 3
    """Repetitions: other weights, other strings, run together."""
    tokens: int = 512_000
    """Tokens seen, in all sequences of a minibatch."""
    every: int = 32_000
    """Tokens between two looks at the influence."""
    task: CopyCurriculum = dataclasses.field(
        default_factory=lambda: CopyCurriculum(first=16, most=16, spread=0, threshold=0.0)
    )
    """Strings of 16 bits, from the beginning to the end."""

    def __post_init__(self):
        some(self, "learning", "orders")
        positive(self, "rates")
        at_least(1, self, "orders", "seeds")
        at_least(self.task.batch, self, "tokens", "tuning_tokens", "every")
        known(self, "learning")
        sizes(self.network)


def influence(cell: Cell, xs: Float[Array, "time in_size"]) -> Float[Array, "time rows parameters"]:
    """J after every step, from its definition: J = I + D J, by differentiating the step."""
    parameters, fixed = eqx.partition(cell, eqx.is_inexact_array)
    theta, unravel = ravel_pytree(parameters)
    first, like = ravel_pytree(cell.init_state())
    step = lambda theta, s, x: ravel_pytree(eqx.combine(unravel(theta), fixed).core()(like(s), x))[0]

    def body(carry, x):
        s, j = carry
        i, d = jax.jacrev(step, argnums=(0, 1))(theta, s, x)
        j = i + d @ j
        return (step(theta, s, x), j), j

    return jax.lax.scan(body, (first, jnp.zeros((len(first), len(theta)), first.dtype)), xs)[1]


def pattern(cell: Cell, n: int) -> Bool[np.ndarray, "rows parameters"]:
    """The entries of J that SnAp-n keeps."""
    structure = cell.core().structure
    leaves = jax.tree.leaves(eqx.filter(cell, eqx.is_inexact_array))
    units = zip(jax.tree.leaves(cell.parameter_unit()), leaves, strict=True)
    entered = np.concatenate([np.broadcast_to(unit, leaf.shape).ravel() for unit, leaf in units])
    return structure.reach(n)[structure.entry_unit.value][:, entered]


def sizes_of_entries(cell: Cell, xs: Float[Array, "batch time in_size"], n: int) -> dict[str, Array]:
    """Mean sizes of the entries that SnAp-n keeps and drops, and their ratio. Also the share of the sum of squares in
    those kept, and their share of all entries: over all steps and sequences."""
    kept = pattern(cell, n)
    j = jnp.concatenate(jax.vmap(functools.partial(influence, cell))(xs))
    inside, outside = (jnp.mean(jnp.abs(j), where=where) if where.any() else jnp.zeros(()) for where in (kept, ~kept))
    squares = jnp.sum(j * j, axis=0)
    share = jnp.sum(squares, where=kept) / jnp.sum(squares)
    entries = jnp.asarray(kept.mean(), j.dtype)
    return {"kept": inside, "dropped": outside, "ratio": inside / outside, "share": share, "entries": entries}


@functools.lru_cache(maxsize=1)
def _made(settings: Settings, learning: str) -> tuple[SeedBatch, Callable[[State], dict[str, dict[str, Any]]]]:
    """One program for every rate: training, and the look at the influence, on the same strings every time."""
    task = settings.task
    make: Callable[[Any], Sequential] = functools.partial(
        model, settings.cell, settings.network, settings.gates, learning, task
    )
    crowd = SeedBatch(make, task, "sequence")
    steps = jnp.arange(task.time(task.first), dtype=jnp.int32)
    level = jnp.asarray(task.first, jnp.int32)
    xs = jax.vmap(lambda t: task.at(jax.random.key(TUNING_SEED), level, t).x, out_axes=1)(steps)

    def look(parameters):
        cell = crowd.model(parameters).layers[0].cell
        return {f"SnAp-{n}": sizes_of_entries(cell, xs, n) for n in settings.orders}

    looks = jax.jit(lambda parameters: jax.lax.map(look, parameters))
    return crowd, lambda state: looks(state.parameters)


def run(settings: Settings, learning: str, rate: float, tuning: bool, recorder: Recorder) -> None:
    """One trial, all seeds."""
    crowd, looks = _made(settings, learning)
    train(
        crowd,
        [seed + TUNING_SEED * tuning for seed in range(settings.seeds)],
        rate,
        recorder,
        tokens=settings.tuning_tokens if tuning else settings.tokens,
        every=settings.every,
        measure=lambda state, bits: {"bits": bits, "loss": bits},
        probe=looks,
        tuning=tuning,
    )


def _trials(settings: Settings, rows: list[Row]) -> Iterator[Trial]:
    def trial(variant: dict[str, Any], tuning: bool) -> Trial:
        rest = variant["learning"], variant["rate"]
        return Trial(variant, functools.partial(run, settings, *rest, tuning), tuning)

    yield from tuned([{"learning": name} for name in settings.learning], settings.rates, rows, trial)


def _views(settings: Settings) -> list[dict[str, Any]]:
    note = "credit: the pattern of SnAp-n that entries are kept by. Exact influence, of 16 strings that stay the same."
    curves = {"view": "curves", "x": "tokens seen", "by": ["credit"], "split": "influence", "note": note}
    table = {
        "view": "table",
        "title": "Entries of the influence at the end",
        "rows": ["learning", "credit"],
        "split": "influence",
        "note": note,
    }
    return [
        {**table, "metrics": ["kept", "dropped", "ratio", "share", "entries"]},
        {**curves, "title": "Kept over dropped entries, by tokens seen", "metric": "ratio", "log": True},
        {**curves, "title": "Share of the squares that is kept", "metric": "share"},
        {**curves, "title": "Bits a character", "metric": "bits", "by": ["learning"], "split": "stream", "note": ""},
        *tuning_views(settings.rates, f"{settings.tuning_tokens:,} tokens", ["learning"]),
    ]


EXPERIMENT = Experiment(
    name="snap-bias",
    title="What SnAp leaves out of the influence",
    about="A small sparse network learns to copy strings of 16 bits. Now and then its exact influence J, the "
    "derivative of every state by every parameter, is computed from its definition on strings that stay the same: the "
    "mean size of the entries that SnAp-n keeps, of those that it drops, and the share of the sum of squares that is "
    "kept (Menick et al., 2020).",
    duration="10 minutes",
    config=Settings(),
    quick=Settings(
        learning=("SnAp-1",),
        network="sparse-6-1",
        orders=(1, 2),
        rates=(3e-3,),
        seeds=2,
        tokens=200,
        every=100,
        task=CopyCurriculum(batch=4, first=2, most=2, spread=0, threshold=0.0),
    ),
    trials=_trials,
    metrics={
        "kept": {"label": "mean size of a kept entry", "better": None, "floors": {}},
        "dropped": {"label": "mean size of a dropped entry", "better": None, "floors": {}},
        "ratio": {"label": "kept over dropped", "better": None, "floors": {}},
        "share": {"label": "share of the squares that is kept", "better": None, "floors": {}, "percent": True},
        "entries": {"label": "share of the entries that is kept", "better": None, "floors": {}, "percent": True},
        "bits": {"label": "bits a character, in training", "better": "lower", "floors": {"chance": 1.0}},
        "loss": {"label": "bits a character, in training", "better": "lower", "floors": {"chance": 1.0}},
    },
    views=_views,
)
