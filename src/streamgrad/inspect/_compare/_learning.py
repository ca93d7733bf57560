"""How well every algorithm learns, and how long a step takes: the same model, optimiser and rates for all."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..._cpu.options import compiler_options
from ...readout import RLS, Readout
from ...train import Learner

LATE = 0.5  # of the stream: what comes after counts


def learner(make: Callable, optimiser: Callable, loss: Callable, window: int = 1) -> Callable:
    """`run(rate, key, xs, targets)`, compiled: the mean loss in the late part of a stream, (time, ...), of a learner
    with the model `make(key)`."""

    def run(rate, key, xs, targets):
        one = Learner(make(key), optimiser(rate), loss=loss, update_every=window)
        st = one.init(key=jax.random.fold_in(key, 2), like=(xs[0], targets[0]))
        losses = one.run(st, xs, targets)[1].loss
        return jnp.nanmean(losses[int(LATE * len(losses)) :])

    return jax.jit(run, compiler_options=compiler_options())


class Best(NamedTuple):
    """The rate of the least mean loss over seeds, its losses, and whether it is at an edge of the list."""

    rate: float
    losses: tuple[float, ...]
    edge: bool


class Runs(NamedTuple):
    """What runs of one learner gave: late losses for each rate and seed, and microseconds a step for each run."""

    losses: dict[float, list[float]]
    microseconds: list[float]

    def best(self) -> Best:
        """The best rate by the mean over seeds; a rate with a non-finite seed is the worst."""
        mean = {rate: float(np.mean(each)) if np.isfinite(each).all() else np.inf for rate, each in self.losses.items()}
        rate = min(mean, key=lambda rate: mean[rate])
        return Best(rate, tuple(self.losses[rate]), len(mean) > 1 and rate in (min(mean), max(mean)))

    def time(self) -> float:
        """The median over runs."""
        return float(np.median(self.microseconds))


def in_turn(
    learners: dict[str, Callable], rates: tuple[float, ...], keys: Any, xs: Any, targets: Any, progress: Callable
) -> dict[str, Runs]:
    """All learners on all rates and seeds, taking turns, so that a noisy machine is noisy for all."""
    found = {name: Runs({rate: [] for rate in rates}, []) for name in learners}
    compiled = {}
    for name, run in learners.items():
        progress(f"compiling {name}")
        compiled[name] = run.lower(rates[0], keys[0], xs, targets).compile()
    for k, key in enumerate(keys):
        progress(f"learning, seed {k + 1} of {len(keys)}")
        for rate in rates:
            for name, run in compiled.items():
                start = time.perf_counter()
                found[name].losses[rate].append(float(run(rate, key, xs, targets)))
                found[name].microseconds.append((time.perf_counter() - start) / len(xs) * 1e6)
    return found


def last_target(loss: Callable, targets: Any) -> float:
    """The loss of predicting the target before, in the late part of the stream."""
    late = max(1, int(LATE * len(targets)))
    both = jnp.isfinite(targets[:-1]).all(1) & jnp.isfinite(targets[1:]).all(1)
    each = jnp.where(both, jax.vmap(loss)(targets[:-1], targets[1:]), jnp.nan)
    return float(jnp.nanmean(each[late - 1 :]))


class Linear(eqx.Module):
    """A linear readout of the inputs as a model, by gradient (LMS) or by least squares (RLS)."""

    layer: Any

    def __init__(self, in_size: int, out_size: int, kind: str, key: Any):
        self.layer = RLS(in_size, out_size) if kind == "RLS" else Readout(in_size, out_size, key=key, scale=0.0)

    def init(self, *, key):
        return self.layer.init(key=key) if isinstance(self.layer, RLS) else ()

    def __call__(self, carry, x):
        return self.layer(carry, x) if isinstance(self.layer, RLS) else (carry, self.layer(x))

    def fit(self, carry, target):
        """Least squares learn from the target themselves."""
        if not isinstance(self.layer, RLS):
            return self
        return eqx.tree_at(lambda m: m.layer, self, self.layer.fit(carry, target))
