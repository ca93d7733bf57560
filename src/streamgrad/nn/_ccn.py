"""Columnar-constructive networks."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

from ..algorithms import SnAp
from ..cells import LSTM
from ..readout import Readout
from ..recurrent import Recurrent
from ..wiring import Columns
from ._compose import Sequential
from ._constructive import Constructive
from ._normalise import Normalise


@dataclasses.dataclass(frozen=True)
class Statistics:
    """How inputs and features are normalised online: `decay`, `floor` and `prior` of `sg.nn.Normalise`, unclipped."""

    decay: float = 0.99999
    floor: float = 0.01
    prior: float = 100_000.0

    def layer(self, size: int) -> Normalise:
        """A layer for `size` entries."""
        return Normalise(size, decay=self.decay, floor=self.floor, prior=self.prior, clip=float("inf"))


@dataclasses.dataclass(frozen=True)
class ColumnStage:
    """Makes a stage of LSTM columns that normalises its own inputs: all parameters start as U(-scale, scale), the
    forget biases that much around `forget_bias`."""

    inputs: Statistics = Statistics()
    scale: float = 0.01
    forget_bias: float = 0.0

    def __call__(self, in_size: int, units: int, *, key: PRNGKeyArray) -> Sequential:
        cell = LSTM(in_size, units, wiring=Columns(), forget_bias=self.forget_bias, key=key)
        draw = lambda k, leaf: jax.random.uniform(k, leaf.shape, leaf.dtype, -self.scale, self.scale)
        keys = jax.random.split(key, 3)
        weights = (draw(keys[0], cell.weight_x), draw(keys[1], cell.weight_h), cell.bias + draw(keys[2], cell.bias))
        cell = eqx.tree_at(lambda c: (c.weight_x, c.weight_h, c.bias), cell, weights)
        return Sequential([self.inputs.layer(in_size), Recurrent(cell, SnAp(1))])


def ccn(
    in_size: int,
    predictions: int = 1,
    *,
    units: int,
    per_stage: int,
    every: int | None = None,
    stage: ColumnStage | None = None,
    features: Statistics | None = None,
    key: PRNGKeyArray,
) -> Sequential:
    """A columnar-constructive network: stages of LSTM columns whose traces are exact at O(parameters), features
    normalised online, a linear readout that starts at 0.

    - `units`: columns in all, `per_stage` of them at a time, a new stage `every` so many steps (`sg.nn.Constructive`):
      all in one stage is a columnar network, one a stage a constructive one;
    - `stage`: how a stage begins and normalises its inputs; `features`: how what the columns show is normalised.

        model   = sg.nn.ccn(12, units=20, per_stage=4, every=200_000, key=key)
        learner = sg.td.TDLambda(model, sg.optimisers.rmsprop(1e-3), gamma=0.9, lam=0.99)

    Reference: Javed, Shah, Sutton & White, 2023 (2302.05326).
    """
    key_columns, key_readout = jax.random.split(key)
    columns = Constructive(
        stage or ColumnStage(), in_size, units=units, per_stage=per_stage, every=every, key=key_columns
    )
    size = columns.out_size
    readout = Readout(size, predictions, key=key_readout, scale=0.0)
    return Sequential([columns, (features or Statistics()).layer(size), readout])
