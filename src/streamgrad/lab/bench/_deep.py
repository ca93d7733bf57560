"""The programs of the deep rows: a block with and without its traces, a chunk at once, the recurrence of a chunk."""

from __future__ import annotations

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from ... import inference, nn
from ...algorithms import BPTT, Algorithm, SnAp
from ...cells import LRU
from ...recurrent import Recurrent
from ._bytes import carries
from ._programs import compiled
from ._timing import Program

DTYPE = jnp.float32
IN, OUT = 8, 7  # of a whole network, as copy memory has them


def block(size: int, algorithm: Algorithm) -> nn.Block:
    """LayerNorm, an LRU of as many units as the width, gelu, a gated linear unit, and the shortcut; no dropout."""
    key_cell, key_block = jax.random.split(jax.random.key(0))
    return nn.Block(Recurrent(LRU(size, size, key=key_cell, dtype=DTYPE), algorithm), key=key_block, dtype=DTYPE)


def _inputs(*shape: int):
    return jax.random.normal(jax.random.key(1), shape, DTYPE)


def served(model: Any, size: int, steps: int, streams: int | None = None, inputs: Any = None) -> Program:
    """Step after step with frozen weights, nothing pulled back. All that is carried comes back at the end, with the
    sum of the outputs, of this size as the inputs are unless these are given: neither traces nor outputs are dead
    code."""
    lead = () if streams is None else (streams,)
    xs = _inputs(steps, *lead, size) if inputs is None else inputs

    def run(model, carry, total, xs):
        one = model if streams is None else jax.vmap(lambda carry, x: model(carry, x))

        def step(both, x):
            carry, total = both
            carry, y = one(carry, x)
            return (carry, total + y), None

        return jax.lax.scan(step, (carry, total), xs)[0]

    make = lambda: (model, carries(model, streams), jnp.zeros((*lead, size), DTYPE), xs)
    return Program(compiled(run, donate=(1, 2), batched=streams is not None), make, steps)


def with_traces(size: int, steps: int, streams: int | None = None) -> dict[str, Program]:
    """A block for serving, and the same block with its traces."""
    model = block(size, SnAp(1))
    models = {"inference": inference(model), "inference + traces": model}
    return {name: served(model, size, steps, streams) for name, model in models.items()}


def network(width: int, units: int, depth: int, algorithm: Algorithm) -> nn.Deep:
    """A whole network as for copy memory: encoder, blocks of LRUs, decoder; no dropout."""
    key = jax.random.key(0)
    return nn.Deep(IN, OUT, width=width, units=units, depth=depth, algorithm=algorithm, key=key, dtype=DTYPE)


def price(width: int, units: int, depth: int, steps: int) -> dict[str, Program]:
    """What learning online adds to a network, part after part: its state alone, with the traces, with the gradient of
    every step's loss pulled back through them, and with an update by Adam at every step. Beside them the gradients of
    all steps at once, online and BPTT's."""
    model, whole = (network(width, units, depth, algorithm) for algorithm in (SnAp(1), BPTT()))
    xs, targets = _inputs(steps, IN), _inputs(steps, OUT)
    optimiser = optax.adam(1e-3)

    def through_time(model, carry, xs, targets):
        return jnp.sum(jnp.mean((nn.unroll(model, carry, xs)[1] - targets) ** 2, axis=1))

    def loss(model, carry, x, target):
        carry, y = model(carry, x)
        return jnp.mean((y - target) ** 2), carry

    def run(model, carry, xs, targets, learns):
        parameters, fixed = eqx.partition(model, eqx.is_inexact_array)

        def step(both, now):
            parameters, carry, rest = both
            model = eqx.combine(parameters, fixed)
            (_, carry), gradient = eqx.filter_value_and_grad(loss, has_aux=True)(model, carry, *now)
            if not learns:
                return (parameters, carry, jax.tree.map(jnp.add, rest, gradient)), None
            with jax.numpy_dtype_promotion("standard"):  # Optax mixes precisions
                updates, rest = optimiser.update(gradient, rest)
            return (optax.apply_updates(parameters, updates), carry, rest), None

        zeros = jax.tree.map(jnp.zeros_like, parameters)
        start = parameters, carry, optimiser.init(parameters) if learns else zeros
        return jax.lax.scan(step, start, (xs, targets))[0]

    def program(learns):
        make = lambda: (model, carries(model), xs, targets)
        return Program(compiled(functools.partial(run, learns=learns), donate=(1,)), make, steps)

    def at_once(model):
        make = lambda: (model, carries(model), xs, targets)
        return Program(compiled(jax.value_and_grad(through_time)), make, steps)

    return {
        "state": served(inference(model), OUT, steps, inputs=xs),
        "state, traces": served(model, OUT, steps, inputs=xs),
        "state, traces, gradient": program(False),
        "state, traces, gradient, update": program(True),
        "state, gradient of a chunk": at_once(model),
        "state, gradient of a chunk by BPTT": at_once(whole),
    }


def _by_unroll(model, carry, xs):
    return nn.unroll(model, carry, xs)[1]


def _by_scan(model, carry, xs):
    return jax.lax.scan(lambda carry, x: model(carry, x), carry, xs)[1]


def gradients(size: int, steps: int) -> dict[str, Program]:
    """Loss and gradient of a whole chunk: online, BPTT as `sg.nn.unroll` does it, and autodiff of a scan."""
    xs = _inputs(steps, size)

    def program(algorithm, outputs):
        def loss(model, carry, xs):
            return 0.5 * jnp.mean(outputs(model, carry, xs) ** 2)

        model = block(size, algorithm)
        return Program(compiled(jax.value_and_grad(loss)), lambda: (model, carries(model), xs), steps)

    return {
        "chunked SnAp-1": program(SnAp(1), _by_unroll),
        "BPTT, sg.nn.unroll": program(BPTT(), _by_unroll),
        "BPTT, autodiff of a scan": program(BPTT(), _by_scan),
    }


def _elements(cell, xs):
    """λ and γ B x of every step, (time, units) each: h' = λ h + γ B x."""
    core = cell.core()
    decay, gamma, by_input = jax.vmap(lambda x: core.drives(cell.init_state(), x))(xs)
    return decay, gamma * by_input


def _associative(cell, xs):
    join = lambda early, late: (early[0] * late[0], late[0] * early[1] + late[1])
    return jax.lax.associative_scan(join, _elements(cell, xs))[1]


def _sequential(cell, xs):
    return cell.core().unroll(cell.init_state(), xs)[:, 0]


def states(size: int, steps: int) -> dict[str, Program]:
    """The states of an LRU after every step of a chunk, from its inputs, and what both ways share: the product with
    the inputs. For one stream and for 16."""
    cell = LRU(size, size, key=jax.random.key(0), dtype=DTYPE)
    ways = {
        "sequential": _sequential,
        "associative": _associative,
        "product alone": lambda cell, xs: _elements(cell, xs)[1],
    }

    def program(way, streams):
        if streams == 1:
            return Program(compiled(way), lambda: (cell, _inputs(steps, size)), steps)
        many = compiled(jax.vmap(way, in_axes=(None, 0)), batched=True)
        return Program(many, lambda: (cell, _inputs(streams, steps, size)), steps)

    return {f"{name}, batch {n}": program(way, n) for n in (1, 16) for name, way in ways.items()}
