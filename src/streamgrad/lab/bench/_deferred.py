"""The programs of the deferred rows: traces that are written at every step, and those written once in many."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ... import inference, losses, nn
from ...algorithms import SnAp
from ...readout import Readout
from ...recurrent import Recurrent
from ...train import Learner
from ._deep import DTYPE, served
from ._programs import in_place
from ._timing import Program

KEY = jax.random.key(0)


def layers(kind, size: int, steps: int) -> dict[str, Recurrent]:
    """The same cell, of as many units as inputs, with its traces as usual and deferred."""
    cell = kind(size, size, key=KEY, dtype=DTYPE)
    return {"traces": Recurrent(cell, SnAp(1)), "deferred": Recurrent(cell, SnAp(1, defer=steps))}


def traces(kind, size: int, defer: int):
    """Makes the programs of a row without any gradient, and a check that the gradient after them is the same."""
    made = layers(kind, size, defer)

    def make(steps: int) -> dict[str, Program]:
        xs = jax.random.normal(jax.random.key(1), (steps, size), DTYPE)
        models = {"state": inference(made["traces"])} | made
        wide = made["traces"].cell.out_size
        floats = sum(leaf.nbytes for leaf in jax.tree.leaves(made["traces"].init(key=KEY).trace)) // 4
        programs = {name: served(model, wide, steps, inputs=xs) for name, model in models.items()}
        return programs | {"in-place loop": in_place(floats, steps)}

    def deviation() -> float:
        xs = jax.random.normal(jax.random.key(2), (5 * defer + 3, size), DTYPE)

        @jax.jit
        def last(layer):
            carry, _ = jax.lax.scan(lambda carry, x: (layer(carry, x)[0], None), layer.init(key=KEY), xs[:-1])
            return jax.grad(lambda layer: jnp.sum(jnp.sin(layer(carry, xs[-1])[1])))(layer).cell

        one, other = (jax.tree.leaves(last(layer)) for layer in (made["deferred"], made["traces"]))
        return max(float(jnp.abs(a - b).max() / jnp.abs(b).max()) for a, b in zip(one, other, strict=True))

    return {"make": make, "counts": lambda: {"deviation": deviation()}}


def learners(kind, size: int, defer: int, apart: int):
    """Makes the programs of a row with a target once in `apart` steps, and a check that both learn the same."""
    made = layers(kind, size, defer)

    def learner(layer):
        model = nn.Sequential([layer, Readout(layer.cell.out_size, 1, key=KEY, dtype=DTYPE)])
        return Learner(model, optax.sgd(1e-3), loss=losses.mse)

    def stream(steps):
        xs = np.asarray(jax.random.normal(jax.random.key(1), (steps, size), DTYPE))
        there = np.arange(steps)[:, None] % apart == apart - 1
        return xs, np.where(there, np.sin(np.arange(steps) / 8)[:, None], np.nan).astype(np.float32)

    def make(steps: int) -> dict[str, Program]:
        xs, ys = stream(steps)

        def program(layer):
            taught = learner(layer)
            opened = lambda: (taught.init(key=KEY, like=(xs[0], ys[0])),)
            return Program(lambda st: taught.run(st, xs, ys)[0].arrays, opened, steps)

        return {name: program(layer) for name, layer in made.items()}

    def deviation() -> float:
        xs, ys = stream(16 * apart)
        taught = [learner(layer) for layer in made.values()]
        one, other = (t.model(t.run(t.init(key=KEY), xs, ys)[0]).layers[-1].weight for t in taught)
        moved = jnp.abs(other - taught[0].template.layers[-1].weight).max()
        return float(jnp.abs(one - other).max() / moved)

    return {"make": make, "counts": lambda: {"deviation": deviation()}}
