"""The same learner in the library."""

from __future__ import annotations

import os
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from compiled import Hyperparameters

import streamgrad as sg


def make(inputs: int, columns: int, hyper: Hyperparameters, seed: int = 0) -> tuple[Any, sg.td.TDLambda]:
    """The model and its learner. The library's optimiser has its own rule for the readout's rate: rate / columns."""
    normalise = dict(decay=hyper.norm_beta, prior=hyper.prior, clip=float("inf"))
    key_cell, key_readout = jax.random.split(jax.random.key(seed))
    model = sg.nn.Sequential(
        [
            sg.nn.Normalise(inputs, floor=hyper.floor_x, **normalise),
            sg.Recurrent(sg.cells.LSTM(inputs, columns, wiring=sg.wiring.Columns(), key=key_cell), sg.SnAp(1)),
            sg.nn.Normalise(columns, floor=hyper.floor_h, **normalise),
            sg.Readout(columns, 1, key=key_readout, scale=0),
        ]
    )
    rmsprop = sg.optimisers.rmsprop(hyper.alpha, decay=hyper.beta2, eps=hyper.epsilon)(model)
    return model, sg.td.TDLambda(model, rmsprop, gamma=hyper.gamma, lam=hyper.lambda_)


def parameters(model: Any) -> dict[str, np.ndarray]:
    """What is learned, in the layout and by the names of the other sides."""
    cell, readout = model.layers[1].cell, model.layers[3]
    value = jnp.concatenate([cell.weight_x, cell.weight_h, cell.bias[None]])
    return {"value": np.array(value), "weight": np.array(readout.weight[0]), "bias_value": np.array(readout.bias[0])}


class Single:
    """One learner, by its own `run`."""

    def __init__(self, inputs: int, columns: int, hyper: Hyperparameters, seed: int = 0):
        self.model, self.learner = make(inputs, columns, hyper, seed)
        self.state = self.learner.init(key=jax.random.key(seed))

    def run(self, xs: np.ndarray, cumulants: np.ndarray) -> jax.Array:
        """The predictions of all steps; the state is kept for the next call."""
        self.state, out = self.learner.run(self.state, xs, cumulants[:, None])
        return out.prediction[:, 0]


class Seeds:
    """Learners with weights of their own, and a stream each, at once: `learner.run` under `vmap`."""

    def __init__(self, inputs: int, columns: int, hyper: Hyperparameters, seeds: int):
        made = [make(inputs, columns, hyper, seed) for seed in range(seeds)]
        states = [learner.init(key=jax.random.key(seed)) for seed, (_, learner) in enumerate(made)]
        learner = made[0][1]
        parts = [eqx.partition(state, eqx.is_array) for state in states]
        self.arrays = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(arrays for arrays, _ in parts))
        static = parts[0][1]
        run = eqx.filter_vmap(learner.run, in_axes=(eqx.if_array(0), 1, 1), out_axes=(eqx.if_array(0), 1))

        def together(arrays, xs, cumulants):
            state, out = run(eqx.combine(arrays, static), xs, cumulants)
            return eqx.filter(state, eqx.is_array), out.prediction[..., 0]

        # A loop that XLA compiles in one piece (`--whole-loops`) refuses to keep the order of its parts.
        pieces = "small_while_loop" not in os.environ.get("XLA_FLAGS", "")
        options = sg.compiler_options(batched=True) | (sg.td.KEEP_ORDER if pieces else {})
        self.compiled = jax.jit(together, donate_argnums=0, compiler_options=options)

    def run(self, xs: np.ndarray, cumulants: np.ndarray) -> jax.Array:
        """The predictions (steps, seeds) for xs (steps, seeds, inputs) and cumulants (steps, seeds)."""
        self.arrays, predictions = self.compiled(self.arrays, xs, cumulants[..., None])
        return predictions
