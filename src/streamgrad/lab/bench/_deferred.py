"""The programs of the deferred rows: traces that are written at every step, and those written once in many."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ... import inference, losses, nn
from ...algorithms import SnAp
from ...cells import GRU, LRU, LSTM, RTU
from ...readout import Readout
from ...recurrent import Recurrent
from ...train import Learner
from ...wiring import Columns
from ._deep import DTYPE, served
from ._programs import in_place
from ._timing import Program

KEY = jax.random.key(0)


#: Cells by name, and how many steps are deferred.
CELLS = {
    "lru-128": (lambda: LRU(128, 128, key=KEY, dtype=DTYPE), 16),
    "lru-512": (lambda: LRU(512, 512, key=KEY, dtype=DTYPE), 16),
    "rtu-128": (lambda: RTU(128, 128, key=KEY, dtype=DTYPE), 16),
    "rtu-512": (lambda: RTU(512, 512, key=KEY, dtype=DTYPE), 16),
    "gru-128": (lambda: GRU(128, 128, key=KEY, dtype=DTYPE), 16),
    "columns": (lambda: LSTM(16, 1024, wiring=Columns(), key=KEY, dtype=DTYPE), 4),
}


class Rare(SnAp):
    """SnAp with traces as usual, and a gradient only where there is a target."""

    @property
    def defers(self):
        return True


def layers(name: str) -> dict[str, Recurrent]:
    """The same cell with its traces as usual and deferred."""
    make, steps = CELLS[name]
    cell = make()
    return {"traces": Recurrent(cell, SnAp(1)), "deferred": Recurrent(cell, SnAp(1, defer=steps))}


def traces(name: str):
    """Makes the programs of a row without any gradient, and a check that the gradient after them is the same."""

    def make(steps: int) -> dict[str, Program]:
        made = layers(name)
        xs = jax.random.normal(jax.random.key(1), (steps, made["traces"].cell.in_size), DTYPE)
        models = {"state": inference(made["traces"])} | made
        wide = made["traces"].cell.out_size
        floats = sum(leaf.nbytes for leaf in jax.tree.leaves(made["traces"].init(key=KEY).trace)) // 4
        programs = {name: served(model, wide, steps, inputs=xs) for name, model in models.items()}
        return programs | {"in-place loop": in_place(floats, steps)}

    def deviation() -> float:
        made = layers(name)
        xs = jax.random.normal(jax.random.key(2), (83, made["traces"].cell.in_size), DTYPE)

        @jax.jit
        def last(layer):
            carry, _ = jax.lax.scan(lambda carry, x: (layer(carry, x)[0], None), layer.init(key=KEY), xs[:-1])
            return jax.grad(lambda layer: jnp.sum(jnp.sin(layer(carry, xs[-1])[1])))(layer).cell

        one, other = (jax.tree.leaves(last(layer)) for layer in (made["deferred"], made["traces"]))
        return max(float(jnp.abs(a - b).max() / jnp.abs(b).max()) for a, b in zip(one, other, strict=True))

    return {"make": make, "counts": lambda: {"deviation": deviation()}}


def learners(name: str, apart: int):
    """Makes the programs of a row with a target once in `apart` steps, and a check that both learn the same."""
    sort = {"traces": SnAp(1), "a gradient only for a target": Rare(1), "deferred": SnAp(1, defer=CELLS[name][1])}

    def learner(algorithm):
        layer = Recurrent(CELLS[name][0](), algorithm)
        model = nn.Sequential([layer, Readout(layer.cell.out_size, 1, key=KEY, dtype=DTYPE)])
        return Learner(model, optax.sgd(1e-3), loss=losses.mse)

    def stream(steps):
        xs = np.asarray(jax.random.normal(jax.random.key(1), (steps, CELLS[name][0]().in_size), DTYPE))
        there = np.arange(steps)[:, None] % apart == apart - 1
        return xs, np.where(there, np.sin(np.arange(steps) / 8)[:, None], np.nan).astype(np.float32)

    def make(steps: int) -> dict[str, Program]:
        xs, ys = stream(steps)

        def program(algorithm):
            taught = learner(algorithm)
            opened = lambda: (taught.init(key=KEY, like=(xs[0], ys[0])),)
            return Program(lambda st: taught.run(st, xs, ys)[0].arrays, opened, steps)

        return {name: program(algorithm) for name, algorithm in sort.items()}

    def deviation() -> float:
        xs, ys = stream(16 * apart)
        taught = [learner(algorithm) for algorithm in (sort["deferred"], sort["traces"])]
        one, other = (t.model(t.run(t.init(key=KEY), xs, ys)[0]).layers[-1].weight for t in taught)
        moved = jnp.abs(other - taught[0].template.layers[-1].weight).max()
        return float(jnp.abs(one - other).max() / moved)

    return {"make": make, "counts": lambda: {"deviation": deviation()}}
