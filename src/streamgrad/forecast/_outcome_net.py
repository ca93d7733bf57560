"""What forecasts outcomes: a readout of an LSTM's columns and of lags, under one Kalman filter with the right family.

    output = offset + W · [features of the net, average, lags, season, others, 1]

is the log-odds of an event, the logarithm of an expected count, or a logit for each class; W and the weights of the net
start at 0 and at random, and learn together by online natural gradient (`train/_families.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from .. import cells, losses, wiring
from .._base.static import Static
from .._cpu.loop import form_of_one, loop, padded
from .._cpu.options import in_one_thread
from .._cpu.piece import ByPieces
from ..algorithms import SnAp
from ..readout import Readout
from ..recurrent import Recurrent
from ..train import Kalman, Learner
from ._experts import FULL
from ._outcome_inputs import LAGS, OutcomeInputs

UNITS = 8
PORTION = 64  # rows of one call
LOSSES = {"event": losses.binary_cross_entropy, "count": losses.poisson, "class": losses.cross_entropy}
BIAS, FEATURE, INSIDE = 0.1, 0.03, 0.1  # prior variances
LAG = {"event": 0.1, "count": 0.03, "class": 0.1}  # likewise, of the newest outcome; of lag k it is 1/k of this
FORGETTING = {"readout": 0.9998, "net": 0.9999}


class OutcomeModel(eqx.Module):
    """The net, the readout, and which inputs each of them sees. `offset`: how many inputs come first as offsets."""

    net: Recurrent | None
    readout: Readout
    heard: Static = eqx.field(static=True)
    offset: int = eqx.field(static=True)

    def init(self, *, key) -> Any:
        """The net's carry."""
        return () if self.net is None else self.net.init(key=key)

    def __call__(self, carry, x):
        seen = x[self.offset :]
        if self.net is not None:
            carry, features = self.net(carry, x[self.heard.value])
            seen = jnp.concatenate([features, seen])
        return carry, self.readout(seen) + x[: self.offset]


def build(inputs: OutcomeInputs, net: bool, *, key) -> OutcomeModel:
    """The model before the first row: it says what running frequencies say."""
    lags, other = inputs.parts["lags"].start, inputs.parts["season"].start
    heard = np.array([*range(lags, lags + inputs.wide), *range(other, inputs.size)])
    recurrent, features = None, 0
    if net:
        cell = cells.LSTM(len(heard), UNITS, wiring=wiring.Columns(), key=key)
        recurrent, features = Recurrent(cell, SnAp(1)), UNITS
    readout = Readout(features + inputs.size - inputs.outputs, inputs.outputs, key=key, scale=0.0)
    return OutcomeModel(recurrent, readout, Static(heard), inputs.outputs)


def prior(inputs: OutcomeInputs, model: Any) -> Any:
    """Prior variances: less for what is further back."""
    features = model.readout.weight.shape[1] - (inputs.size - inputs.outputs)
    lag = np.repeat(LAG[inputs.kind] / np.arange(1, 1 + LAGS[inputs.kind]), inputs.wide)
    rest = inputs.size - inputs.parts["season"].start
    row = np.concatenate(
        [np.full(features, FEATURE), np.full(inputs.wide, LAG[inputs.kind]), lag, np.full(rest, FEATURE)]
    )
    each = jax.tree.map(lambda _: INSIDE, eqx.filter(model, eqx.is_array))
    return eqx.tree_at(lambda m: (m.readout.weight, m.readout.bias), each, (row[None], BIAS))


def forgetting(model: Any) -> Any:
    """How fast each parameter forgets."""
    each = jax.tree.map(lambda _: FORGETTING["net"], eqx.filter(model, eqx.is_array))
    return eqx.tree_at(lambda m: (m.readout.weight, m.readout.bias), each, (FORGETTING["readout"],) * 2)


@functools.lru_cache(maxsize=8)
def program(kind: str, columns: int, horizon: int, period: int | None, net: bool) -> tuple[Learner, Callable]:
    """A learner for all streams of a form, and its first n steps of a portion, compiled once."""
    inputs = OutcomeInputs(kind, columns, horizon=horizon, period=period)
    model = build(inputs, net, key=jax.random.key(0))
    many = sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array)))
    form = "full" if many <= FULL else "unit"
    kalman = Kalman(form, prior=functools.partial(prior, inputs), forgetting=forgetting)
    learner = Learner(model, kalman, loss=LOSSES[kind], delay=horizon)

    def one(state, x, y, reset):
        return learner.step(state, x, y, reset=reset)

    def run(whole, state, inputs, n):
        state, out = loop(whole(one), state, inputs, n)
        return state, out.prediction

    step = lambda state, inputs, n: (one, (state, *form_of_one(inputs)))
    return learner, ByPieces(run, step, options=in_one_thread(), donate_argnums=0)


class OutcomeLearner:
    """Learn from encoded rows, and say the outputs at each. `memory` is all that it knows; `experts`: itself."""

    experts = ("network",)

    def __init__(self, inputs: OutcomeInputs, *, net: bool, seed: int):
        self._kind = inputs.kind
        self._learner, self._run = program(inputs.kind, inputs.columns, inputs.horizon, inputs.period, net)
        key = jax.random.key(seed)
        model = build(inputs, net, key=key)
        self._dtype = np.dtype(jnp.result_type(float))
        like = np.zeros(inputs.size, self._dtype), self._targets(np.zeros(1))[0]
        self.memory = self._learner.init(key=key, like=like, model=model)
        self.outputs, self.anew = inputs.outputs, np.zeros(1, bool)

    def _targets(self, learn: Float[np.ndarray, " n"]) -> np.ndarray:
        if self._kind == "class":
            return np.where(np.isfinite(learn), learn, -1).astype(np.int32)
        return learn[:, None].astype(self._dtype)

    def __call__(self, inputs: np.ndarray, learn: np.ndarray) -> Float[np.ndarray, "n outputs"]:
        """Learn from n rows in turn, each of what came due with it, and say the outputs at each."""
        n, out = len(inputs), [np.empty((0, self.outputs))]
        if n == 0:
            return out[0]
        resets = np.zeros(n, bool)
        resets[0], self.anew = self.anew[0], np.zeros(1, bool)
        xs, ys = inputs.astype(self._dtype), self._targets(learn)
        for at in range(0, n, PORTION):
            part = tuple(each[at : at + PORTION] for each in (xs, ys, resets))
            many = len(part[0])
            self.memory, said = self._run(self.memory, padded(part, PORTION), np.int32(many))
            out.append(np.asarray(said, float)[:many])
        return np.concatenate(out)

    def weights(self) -> dict[str, float]:
        """One expert, which counts alone."""
        return {"network": 1.0}

    def warnings(self) -> list[str]:
        """What is no longer finite, or grows out of bounds."""
        return self._learner.warnings(self.memory)

    def restart(self) -> None:
        """Keep what was learned; the next row begins another stream."""
        self.anew = np.ones(1, bool)
