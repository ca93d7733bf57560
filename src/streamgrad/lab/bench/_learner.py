"""What users call, beside the same arithmetic in a loop written by hand."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ... import losses, nn, piece
from ...algorithms import BPTT, SnAp
from ...cells import GRU
from ...readout import Readout
from ...recurrent import Recurrent
from ...train import Kalman, Learner
from ._programs import compiled
from ._timing import Program

KEY = jax.random.key(0)
RATE = 1e-3
WINDOW = 128


def net(inputs: int = 32, units: int = 128, algorithm: Any = None) -> Any:
    """A dense GRU with a linear readout of one number."""
    layer = Recurrent(GRU(inputs, units, key=KEY), algorithm or SnAp(1))
    return nn.Sequential([layer, Readout(units, 1, key=KEY)])


def stream(inputs: int, steps: int) -> tuple[Any, Any]:
    """Inputs and targets, (steps, inputs) and (steps, 1)."""
    xs = jax.random.normal(jax.random.key(1), (steps, inputs))
    return xs, jnp.sin(jnp.arange(steps) / 8)[:, None]


def by_hand(
    optimiser: optax.GradientTransformation, steps: int, every: int = 1, through: bool = False, whole: bool = False
) -> Program:
    """The gradient of `every` steps at frozen weights, then one update, and nothing else: no check, no counter.

    `through`: by BPTT over these steps, instead of from traces; `whole`: all of it as one kernel (`sg.piece`)."""
    if through:
        return _bptt_by_hand(optimiser, steps)
    model = net()
    xs, ys = stream(32, steps)
    parameters, static = eqx.partition(model, eqx.is_inexact_array)

    def one(parameters, carry, x, y):
        carry, said = eqx.combine(parameters, static)(carry, x)
        return losses.mse(said, y), carry

    def from_traces(parameters, carry, xs, ys):
        def add(both, now):
            carry, total = both
            gradient, carry = jax.grad(one, has_aux=True)(parameters, carry, *now)
            return (carry, jax.tree.map(jnp.add, total, gradient)), None

        if every == 1:
            gradient, carry = jax.grad(one, has_aux=True)(parameters, carry, xs[0], ys[0])
            return gradient, carry
        (carry, total), _ = jax.lax.scan(add, (carry, jax.tree.map(jnp.zeros_like, parameters)), (xs, ys))
        return jax.tree.map(lambda g: g / every, total), carry

    def update(both, now):
        parameters, carry, state = both
        gradient, carry = from_traces(parameters, carry, *now)
        updates, state = optimiser.update(gradient, state, parameters)
        return (optax.apply_updates(parameters, updates), carry, state), None

    parts = jax.tree.map(lambda a: a.reshape(-1, every, *a.shape[1:]), (xs, ys))
    window = piece(update) if whole else update
    run = compiled(lambda *both: jax.lax.scan(window, both, parts)[0], donate=(0, 1, 2), pieces=whole)
    fresh = lambda: jax.tree.map(jnp.copy, parameters)
    return Program(run, lambda: (fresh(), model.init(key=KEY), optimiser.init(parameters)), steps)


def _bptt_by_hand(optimiser: optax.GradientTransformation, steps: int) -> Program:
    """BPTT over windows, the update at their end."""
    cell, readout = GRU(32, 128, key=KEY), Readout(128, 1, key=KEY)
    xs, ys = jax.tree.map(lambda a: a.reshape(-1, WINDOW, *a.shape[1:]), stream(32, steps))
    parameters, static = eqx.partition((cell, readout), eqx.is_inexact_array)

    def loss(parameters, state, xs, ys):
        cell, readout = eqx.combine(parameters, static)

        def step(state, now):
            x, y = now
            state = cell(state, x)
            said = readout(cell.output(state, x))
            return state, losses.mse(said, y)

        state, each = jax.lax.scan(step, state, (xs, ys))
        return each.mean(), state

    def update(both, now):
        parameters, carry, state = both
        gradient, carry = jax.grad(loss, has_aux=True)(parameters, carry, *now)
        updates, state = optimiser.update(gradient, state, parameters)
        return (optax.apply_updates(parameters, updates), carry, state), None

    run = compiled(lambda *both: jax.lax.scan(update, both, (xs, ys))[0], donate=(0, 1, 2))
    fresh = lambda: jax.tree.map(jnp.copy, parameters)
    return Program(run, lambda: (fresh(), cell.init_state(), optimiser.init(parameters)), steps)


def by_learner(optimiser: Any, steps: int, *, inputs: int = 32, units: int = 128, algorithm=None, **options) -> Program:
    """`Learner.run` on the same net and stream."""
    learner = Learner(net(inputs, units, algorithm), optimiser, loss=losses.mse, **options)
    xs, ys = map(np.asarray, stream(inputs, steps))
    opened = lambda: (learner.init(key=KEY, like=(xs[0], ys[0])),)
    return Program(lambda st: learner.run(st, xs, ys)[0].arrays, opened, steps)


def deviation(optimiser: optax.GradientTransformation, every: int = 1, through: bool = False, **options) -> float:
    """How far the readout's weights of both are apart after 256 steps, relative to how far they moved."""
    steps = 256
    learner = Learner(net(algorithm=BPTT() if through else None), optimiser, loss=losses.mse, **options)
    st, _ = learner.run(learner.init(key=KEY), *stream(32, steps))
    program = by_hand(optimiser, steps, every, through)
    found = program.run(*program.make())[0]
    mine = learner.model(st).layers[-1].weight
    other = (found[1] if through else found.layers[-1]).weight
    moved = jnp.abs(other - net().layers[-1].weight).max()
    return float(jnp.abs(mine - other).max() / moved)


def beside_by_hand(rule: str, every: int = 1, through: bool = False):
    """Makes the programs of a row, and a check that they learn the same."""
    optimiser = {"SGD": optax.sgd(RATE), "Adam": optax.adam(RATE)}[rule]
    options: dict[str, Any] = {"update_every": every} if every > 1 else {}

    def make(steps):
        algorithm = BPTT() if through else None
        one_kernel = {} if through else {"by hand, one kernel": by_hand(optimiser, steps, every, whole=True)}
        return {
            "by hand": by_hand(optimiser, steps, every, through),
            **one_kernel,
            "Learner.run": by_learner(optimiser, steps, algorithm=algorithm, **options),
        }

    return {"make": make, "counts": lambda: {"deviation": deviation(optimiser, every, through, **options)}}


def filters(steps: int) -> dict[str, Program]:
    """The Kalman filter beside Adam, of a GRU 8 to 16."""
    size = {"inputs": 8, "units": 16}
    return {
        "Adam": by_learner(optax.adam(RATE), steps, **size),
        "Kalman, unit blocks": by_learner(Kalman("unit"), steps, **size),
        "Kalman, full": by_learner(Kalman(), steps, **size),
    }


def rows(steps: int) -> dict[str, Program]:
    """A step from Python with the first entry of its prediction read, three ways; and the same steps in one call."""
    from ...session import why_not

    learner = Learner(net(8, 32), optax.sgd(RATE), loss=losses.mse)
    xs, ys = map(np.asarray, stream(8, steps))

    def singly(st):
        for x, y in zip(xs, ys, strict=True):
            st, out = learner.step(st, x, y)
            float(out.prediction[0])

    def held(session):
        for x, y in zip(xs, ys, strict=True):
            float(session.step(x, y).prediction[0])
        session.close()

    def opened(native):
        session = learner.session(learner.init(key=KEY), native=native)
        session.step(xs[0], ys[0])
        return (session,)

    fresh = lambda: (learner.init(key=KEY),)
    found = {
        "compiled": Program(lambda st: learner.run(st, xs, ys)[1].loss, fresh, steps),
        "step": Program(singly, fresh, steps),
    }
    if why_not() is None:
        found["session"] = Program(held, lambda: opened(True), steps)
    return found
