"""What experiments in online prediction share: learners by name, many seeds of one at once, a trial."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ... import compiler_options, nn, optimisers
from ...algorithms import TBPTT, UORO, Algorithm, SnAp
from ...cells import LSTM
from ...inspect import flops
from ...readout import Readout
from ...recurrent import Recurrent
from ...td import TDLambda, TDState
from ._experiment import Recorder, Row, Trial
from ._settings import at_least, positive, some, within
from ._tuning import TUNING_SEED, tuned


@runtime_checkable
class Source(Protocol):
    """An endless stream for one seed: what is seen, what is to be predicted, what came of it."""

    def inputs(self, start: int, stop: int) -> np.ndarray:
        """(steps, in_size)"""
        ...

    def cumulants(self, start: int, stop: int) -> np.ndarray:
        """(steps,), c_t, which arrives with the input of step t."""
        ...

    def returns(self, start: int, stop: int, gamma: float) -> np.ndarray:
        """(steps,), the true discounted sum of what comes after each step."""
        ...


@dataclasses.dataclass(frozen=True)
class Learners:
    """Settings of every experiment in online prediction."""

    learners: tuple[str, ...]
    """A trial for each: columnar-N and constructive-N (N columns), ccn-N-L (N columns, L a stage), tbptt-K-H (an LSTM
    of H dense units, K steps back), snap-H and uoro-H (the same with SnAp-1 and UORO), gnt-N (N memories of three
    inputs that are drawn and tested, without normalisation). Behind any but the last, -init: starts otherwise, see
    `spread` and `forget_bias`; behind tbptt, snap and uoro, -raw: without normalisation."""
    rates: tuple[float, ...] = (1e-3, 3e-4, 1e-4, 3e-5)
    """Step sizes to choose from, the same list for every learner, by the error at the end of short streams. Readout
    weights have it divided by the number of features."""
    tuning_steps: int = 1_000_000
    """Length of these streams."""
    tuning_seeds: int = 3
    """Their number; their seeds are none of those that count."""
    seeds: int = 10
    """Repetitions: other streams and other weights, run together."""
    steps: int = 8_000_000
    """Steps of each stream."""
    every: int = 100_000
    """Steps over which an error is averaged: a row of results."""
    growing: float = 0.5
    """Share of a run after which the last stage begins."""
    trace: float = 0.99
    """λ of the eligibility traces."""
    inputs: nn.Statistics = dataclasses.field(default_factory=nn.Statistics)
    """Online normalisation of the inputs."""
    features: nn.Statistics = dataclasses.field(default_factory=nn.Statistics)
    """Online normalisation of the features, the same for every learner."""
    spread: float = 0.1
    """Parameters of -init learners start as U(-spread, spread) instead of U(-0.01, 0.01)..."""
    forget_bias: float = 3.0
    """...and their forget biases around this instead of 0."""

    def __post_init__(self):
        some(self, "learners")
        positive(self, "rates")
        at_least(1, self, "tuning_seeds", "seeds", "every")
        at_least(2 * self.every, self, "steps", "tuning_steps")
        within(self, "growing", 0.0, 1.0)
        for name in self.learners:
            self.parse(name)

    def parse(self, name: str) -> tuple[str, list[int], set[str]]:
        """The kind of a learner, its numbers and what is behind them."""
        kind, *rest = name.split("-")
        numbers = [int(word) for word in rest if word.isdigit()]
        options = {word for word in rest if not word.isdigit()}
        allowed = {"gnt": set(), "snap": {"raw", "init"}, "uoro": {"raw", "init"}, "tbptt": {"raw", "init"}}.get(
            kind, {"init"}
        )
        if _NUMBERS.get(kind) != len(numbers) or not options <= allowed or 0 in numbers:
            raise ValueError(
                f"no learner {name!r}: give columnar-N, constructive-N, ccn-N-L, gnt-N, tbptt-K-H, snap-H or uoro-H, "
                "if wanted with -init behind (but gnt), or with -raw behind the last three."
            )
        return kind, numbers, options

    def model(self, name: str, in_size: int, steps: int, key) -> nn.Sequential:
        """A learner's network, for a run of so many steps."""
        kind, numbers, options = self.parse(name)
        scale, forget_bias = (self.spread, self.forget_bias) if "init" in options else (0.01, 0.0)
        if kind == "gnt":
            return nn.Sequential([nn.GenerateAndTest(in_size, numbers[0], fan_in=min(3, in_size))])
        if kind in ("columnar", "constructive", "ccn"):
            units = numbers[0]
            per_stage = {"columnar": units, "constructive": 1}.get(kind, numbers[-1])
            stages = -(-units // per_stage)
            every = max(1, round(self.growing * steps / max(stages - 1, 1) / self.every)) * self.every
            stage = nn.ColumnStage(self.inputs, scale, forget_bias)
            sizes: dict[str, Any] = dict(units=units, per_stage=per_stage, every=every)
            return nn.ccn(in_size, **sizes, stage=stage, features=self.features, key=key)
        algorithm: Algorithm = {"snap": SnAp, "uoro": UORO}[kind]() if kind != "tbptt" else TBPTT(numbers[0])
        units = numbers[-1]
        key_cell, key_readout = jax.random.split(key)
        cell = LSTM(in_size, units, forget_bias=forget_bias, key=key_cell)
        readout = Readout(units, 1, key=key_readout, scale=0.0)
        layers = [self.inputs.layer(in_size), Recurrent(cell, algorithm), self.features.layer(units), readout]
        return nn.Sequential(layers[1::2] if "raw" in options else layers)


_NUMBERS = {"columnar": 1, "constructive": 1, "ccn": 2, "gnt": 1, "tbptt": 2, "snap": 1, "uoro": 1}


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is predicted: `in_size`; `gamma`; `source(seed)`; `floors`, predictions to stand beside the learners, by
    name: (source, start, stop) -> (steps,)."""

    in_size: int
    gamma: float
    source: Callable[[int], Source]
    floors: dict[str, Callable[[Any, int, int], np.ndarray]]


class SeedBatch:
    """Many seeds of one learner, run together: all arrays have a leading axis of seeds."""

    def __init__(self, settings: Learners, problem: Problem, name: str, rate: float, steps: int):
        self.settings, self.problem = settings, problem
        self.make = lambda key: settings.model(name, problem.in_size, steps, key)
        self.learner = lambda model: TDLambda(model, optimisers.rmsprop(rate), gamma=problem.gamma, lam=settings.trace)
        options = compiler_options(batched=True)
        self._run = jax.jit(self._scan, static_argnums=0, donate_argnums=1, compiler_options=options)

    def init(self, seeds: list[int]) -> TDState:
        """All learners before the first step."""
        keys = jnp.stack([jax.random.key(seed) for seed in seeds])
        return eqx.filter_vmap(lambda key: self.learner(self.make(key)).init(key=jax.random.fold_in(key, 1)))(keys)

    def grown(self, st: TDState, step: int) -> TDState:
        """The learners with the stages that are due before this step."""
        while (when := nn.next_growth_step(st.model)) is not None and step >= when:
            st = eqx.filter_vmap(lambda st: self.learner(st.model).grow(st))(st)
        return st

    def run(self, st: TDState, xs: np.ndarray, cumulants: np.ndarray) -> tuple[TDState, np.ndarray]:
        """A chunk, (time, seeds, ...): the learners after it and their predictions, (time, seeds)."""
        arrays, rest = eqx.partition(st, eqx.is_array)
        leaves, treedef = jax.tree.flatten(rest)
        arrays, predictions = self._run((tuple(leaves), treedef), arrays, xs, cumulants)
        return eqx.combine(arrays, rest), np.asarray(predictions)

    def _scan(self, static, arrays, xs, cumulants):
        rest = jax.tree.unflatten(static[1], static[0])

        real = jax.dtypes.canonicalize_dtype(float)
        run = lambda st, xs, cumulants: self.learner(st.model).run(st, xs.astype(real), cumulants.astype(real)[:, None])
        together = eqx.filter_vmap(run, in_axes=(eqx.if_array(0), 1, 1), out_axes=(eqx.if_array(0), 1))
        st, out = together(eqx.combine(arrays, rest), xs, cumulants)
        return eqx.filter(st, eqx.is_array), out.prediction[..., 0]

    def cost(self, st: TDState) -> tuple[int, int]:
        """The cost of one learner as it is now: operations of a step as XLA counts them (the body of a loop, TBPTT's
        way back, once), and parameters that learn."""
        one = jax.tree.map(lambda leaf: leaf[0] if eqx.is_array(leaf) else leaf, st)
        arrays, rest = eqx.partition(one, eqx.is_array)
        x, cumulant = jnp.zeros(self.problem.in_size), jnp.zeros(1)

        def step(arrays, x, cumulant):
            st = eqx.combine(arrays, rest)
            new, out = self.learner(st.model).step(st, x, cumulant)
            return eqx.filter(new, eqx.is_array), out.prediction

        return flops(step, arrays, x, cumulant), sum(leaf.size for leaf in jax.tree.leaves(one.trace))


def run(settings: Learners, problem: Problem, name: str, rate: float, tuning: bool, recorder: Recorder) -> None:
    """One trial: all seeds of a learner together, resumed where it was killed."""
    steps = settings.tuning_steps if tuning else settings.steps
    seeds = _seeds(settings, tuning)
    crowd = SeedBatch(settings, problem, name, rate, steps)
    st, first = crowd.init(seeds), 0
    like = lambda step: eqx.filter(crowd.grown(crowd.init(seeds), step - 1), eqx.is_array)
    if (found := recorder.load(like)) is not None:
        arrays, first = found
        st = eqx.combine(arrays, crowd.grown(st, first - 1))
    sources = [problem.source(seed) for seed in seeds]
    for start in range(first, steps, settings.every):
        stop = min(start + settings.every, steps)
        st = crowd.grown(st, start)
        together = lambda method, start=start, stop=stop: np.stack(
            [getattr(s, method)(start, stop) for s in sources], 1
        )
        st, predictions = crowd.run(st, together("inputs"), together("cumulants"))
        came = np.stack([source.returns(start, stop, problem.gamma) for source in sources], 1)
        errors = np.mean((came - predictions) ** 2, axis=0)
        if not tuning:
            for seed, error in zip(seeds, errors, strict=True):
                recorder.write(seed, stop, "stream", error=float(error))
            recorder.save(eqx.filter(st, eqx.is_array), stop)
        elif stop >= steps:
            for seed, error in zip(seeds, errors, strict=True):
                recorder.write(seed, stop, "tuning", final=True, loss=float(error))
        recorder.progress(stop, steps, f"error {errors.mean():.4f}")
    if not tuning:
        operations, parameters = crowd.cost(st)
        skipped = np.asarray(st.skipped)
        for seed, error, left in zip(seeds, errors, skipped, strict=True):
            recorder.write(
                seed,
                steps,
                "end",
                final=True,
                error=float(error),
                operations=operations,
                parameters=parameters,
                skipped=int(left),
            )


def floor(settings: Learners, problem: Problem, name: str, recorder: Recorder) -> None:
    """The error of a prediction that learns nothing, on the streams of the learners."""
    for seed in _seeds(settings, False):
        source, error = problem.source(seed), np.nan
        for start in range(0, settings.steps, settings.every):
            stop = min(start + settings.every, settings.steps)
            made = problem.floors[name](source, start, stop)
            error = float(np.mean((source.returns(start, stop, problem.gamma) - made) ** 2))
            recorder.write(seed, stop, "stream", error=error)
        recorder.write(seed, settings.steps, "end", final=True, error=error)


def trials(settings: Learners, problem: Problem, rows: list[Row]) -> Iterator[Trial]:
    """The floors, then every learner at the best of the rates."""
    for name in problem.floors:
        yield Trial({"learner": name}, functools.partial(floor, settings, problem, name))

    def trial(variant: dict[str, Any], tuning: bool) -> Trial:
        learner, rate = variant["learner"], variant["rate"]
        return Trial(variant, functools.partial(run, settings, problem, learner, rate, tuning), tuning)

    yield from tuned([{"learner": name} for name in settings.learners], settings.rates, rows, trial)


def _seeds(settings: Learners, tuning: bool) -> list[int]:
    first, count = (TUNING_SEED, settings.tuning_seeds) if tuning else (0, settings.seeds)
    return list(range(first, first + count))


def views(settings: Learners) -> list[dict[str, Any]]:
    """A table at the end, curves along the stream, the tuning."""
    end = {"view": "table", "title": f"After {settings.steps:,} steps", "rows": ["learner", "rate"], "split": "end"}
    curves = {"view": "curves", "title": "Error along the stream", "metric": "error", "by": ["learner"]}
    tuning = {"view": "table", "title": f"Tuning: error after {settings.tuning_steps:,} steps"}
    many = len(settings.rates) > 1
    return [
        {**end, "metrics": ["error", "parameters"]},
        {**curves, "split": "stream", "log": True},
        *([{**tuning, "rows": ["learner", "rate"], "metrics": ["loss"], "split": "tuning"}] if many else []),
    ]


METRICS = {
    "error": {"label": "mean squared error of the return", "better": "lower", "floors": {}},
    "loss": {"label": "mean squared error of the return", "better": "lower", "floors": {}},
    "operations": {"label": "operations a step, the body of a loop counted once", "floors": {}},
    "parameters": {"label": "parameters that learn at the end", "floors": {}},
    "skipped": {"label": "updates left out", "better": "lower", "floors": {}},
}
