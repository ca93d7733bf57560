"""The forecaster of `streamgrad learn`: a recurrent part learned online, under least squares.

The readout is fitted by recursive least squares on the encoded lags and a few features of a
recurrent net; the net is learned by the gradient that passes through the readout. Least squares is
hard to beat with what is linear in the lags; the net adds what is not, and what is older.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

import streamgrad as sg
from streamgrad._memory import LearnerState

# Chosen on the hourly series of two cities, one and 24 rows ahead, together with the defaults of
# the command line. The floors' least squares was given the same care, with the same prior.
FEATURES = 2  # that the readout sees of the recurrent part: few, as each adds to the fit's variance
RIDGE = 10.0
DIGITS = 18  # binary ones, of an input
CELLS = ("lru", "gru", "lstm", "vanilla", "leaky", "indrnn", "mingru", "rtu")


def cell_name(name: str) -> str:
    """The name in `CELLS` of a cell in any spelling. Raises `ValueError` for one that is not there."""
    own = {sg.cells.cell(name): name for name in CELLS}
    if (kind := sg.cells.cell(name)) not in own:
        raise ValueError(f"the forecaster has no cell {name!r}; it has {', '.join(CELLS)}.")
    return own[kind]


def make_cell(name: str, in_size: int, units: int, *, key: PRNGKeyArray) -> tuple[Any, int]:
    """A cell by its name in `CELLS`, and the size of its output."""
    name = cell_name(name)
    if name == "lru":  # its own output matrix makes the features; memories of two to 100 rows
        options = {"out_size": FEATURES, "r_min": 0.5, "r_max": 0.99}
        return sg.cells.LRU(in_size, units, key=key, **options), FEATURES
    cell = sg.cells.cell(name)(in_size, units, key=key)
    out = jax.eval_shape(lambda: cell.output(cell.init_state(), jnp.zeros(in_size)))
    return cell, out.shape[0]


class Model(eqx.Module):
    """The first `recurrent_size` inputs through the net, the others (from 2 on) past it."""

    net: sg.Recurrent
    mix: eqx.nn.Linear | None
    readout: sg.RLS
    recurrent_size: int = eqx.field(static=True)

    def init(self, *, key: PRNGKeyArray) -> tuple[Any, Array]:
        """The net's carry, and the readout's."""
        return self.net.init(key=key), self.readout.init(key=key)

    def __call__(self, carry, x):
        net, readout = carry
        net, features = self.net(net, x[: self.recurrent_size])
        if self.mix is not None:
            features = self.mix(features)
        readout, y = self.readout(readout, jnp.concatenate([features, x[2:]]))
        return (net, readout), y

    def fit(self, carry, target):
        """Fit the readout."""
        return eqx.tree_at(lambda m: m.readout, self, self.readout.fit(carry[1], target))


class Forecaster:
    """A `Learner` on encoded rows, a portion at a time.

    **Arguments:**

    - `size`, `recurrent_size`: of `Encoder`.
    - `horizon`: rows that a target comes late. Adam's rate is `learning_rate / horizon`: the errors
      of forecasts that overlap are alike, and so one error is counted about `horizon` times.
    - `cell`, `units`, `algorithm`: names, as on the command line.
    - `forgetting`: of the readout.

    `state` belongs in the checkpoint. `portion` is the largest number of rows in one call.
    """

    portion = 256

    def __init__(
        self,
        size: int,
        recurrent_size: int,
        *,
        horizon: int = 1,
        cell: str = "lru",
        units: int = 32,
        algorithm: str = "snap-1",
        learning_rate: float = 1e-3,
        forgetting: float = 0.999,
        seed: int = 0,
    ):
        rule = sg.algorithms.algorithm(algorithm)
        optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(learning_rate / horizon))
        self._dtype = np.dtype(jnp.result_type(float))
        like = (np.zeros(size, self._dtype), np.zeros(1, self._dtype))

        def make_model(key):
            key_cell, key_mix = jax.random.split(key)
            core, out = make_cell(cell, recurrent_size, units, key=key_cell)
            mix = None if out == FEATURES else eqx.nn.Linear(out, FEATURES, key=key_mix)
            readout = sg.RLS(FEATURES + size - 2, 1, forgetting=forgetting, ridge=RIDGE)
            return Model(sg.Recurrent(core, rule), mix, readout, recurrent_size)

        def make_learner(model):
            return sg.Learner(model, optimiser, loss=sg.losses.mse, delay=horizon)

        @eqx.filter_jit  # one compilation, where a hundred small ones would take seconds
        def start(key):
            key_model, key_state = jax.random.split(key)
            model = make_model(key_model)
            state = make_learner(model).init(key=key_state, like=like)
            return model, state.arrays, state.packing

        self.model, arrays, packing = start(jax.random.key(seed))
        self.state = LearnerState(arrays, packing)
        self._learner = learner = make_learner(self.model)
        self._size = size
        self._skipped: Array | None = None  # of `state`, which is packed: costly to look into

        # One compiled loop for any number of rows: the same arithmetic in whatever portions they
        # come, so that a run that was interrupted and one that was not agree in every bit.
        def loop(state, inputs, targets, n):
            def body(t, carry):
                state, outputs = carry
                state, out = learner.step(state, inputs[t], targets[t])
                return state, outputs.at[t].set(out.prediction[0])

            outputs = jnp.zeros(self.portion, inputs.dtype)
            state, outputs = jax.lax.fori_loop(0, n, body, (state, outputs))
            return state, outputs, state.memory.skipped

        self._loop = jax.jit(loop, donate_argnums=0)

    def __call__(self, inputs: Float[np.ndarray, "n size"], learn: Float[np.ndarray, " n"]) -> Float[Array, " portion"]:
        """Learn from n rows in turn and forecast from each; the outputs after the n-th are zeros.

        `learn` is NaN where nothing is to be learned. The result is still being computed when this
        returns.
        """
        n = len(inputs)
        rows = np.zeros((self.portion, self._size), self._dtype)
        targets = np.full((self.portion, 1), np.nan, self._dtype)
        rows[:n], targets[:n, 0] = _steady(inputs), _steady(learn)
        self.state, outputs, self._skipped = self._loop(self.state, rows, targets, n)
        return outputs

    def warnings(self) -> list[str]:
        """What is growing out of bounds, with the likely cause."""
        return self._learner.warnings(self.state)

    @property
    def skipped(self) -> int:
        """Updates that were left out since a loss or gradient was not finite."""
        return self.state.skipped if self._skipped is None else int(self._skipped)


def _steady(values: np.ndarray) -> np.ndarray:
    """Values with `DIGITS` binary digits.

    The same stream in another unit differs in its last digits, and where that changed the last one of
    a float32, learning would amplify it. It seldom changes one of these."""
    digits, powers = np.frexp(values)
    return np.ldexp(np.round(np.ldexp(digits, DIGITS)), powers - DIGITS)
