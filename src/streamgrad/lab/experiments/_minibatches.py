"""Recurrent networks on minibatches of drawn sequences, all seeds together: updates at every token, or one a sequence.

Time is counted in data: tokens seen. A sequence begins with a fresh state and fresh traces.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ... import compiler_options
from ...algorithms import Algorithm
from ...losses import cross_entropy
from ...nn import check_unroll, unroll
from ..tasks.drawn import Drawn
from ._experiment import Recorder

#: Whether weights change at every token (T = 1), or once a sequence by the gradient of all of it.
Update = Literal["token", "sequence"]


class State(NamedTuple):
    """Everything that training changes, with a leading axis of seeds.

    `key`: of all sequences; `count`: the number of the present one; `t`: its tokens so far; `carry`, `gradient`: its
    carry, and the sum of its gradients; `said`: the sum of its bits, and how many characters they were, each over the
    minibatch's size; `seen`: tokens of the whole run; `skipped`: updates left out since they were not finite.
    """

    parameters: Any
    optimiser: Any
    key: Any
    level: Any
    count: Any
    t: Any
    carry: Any
    gradient: Any
    said: Any
    seen: Any
    skipped: Any


class SeedBatch:
    """Many seeds of one network. `make(key)` builds it; its answers are logits of the next character.

    With updates at every token algorithms learn by their traces. With one a sequence weights are frozen within it:
    the same gradient is one pass backwards over it, where `chunked` asks for that and every algorithm has such a form
    (`sg.nn.unroll`; BPTT has no other).
    Raises `ValueError` for BPTT with updates at every token.
    """

    def __init__(self, make: Callable[[Any], Any], task: Drawn, update: Update, *, chunked: bool = False):
        self.make, self.task, self.update = make, task, update
        example = make(jax.random.key(0))
        self.whole = _carries_credit(example) or (chunked and update == "sequence" and _has_chunks(example))
        self.static = eqx.partition(example, eqx.is_inexact_array)[1]
        self.optimiser = optax.scale_by_adam()
        if _carries_credit(example) and update == "token":
            raise ValueError("BPTT needs all of a sequence: it has one update for each, none at every token.")
        options = compiler_options(batched=True)
        run = self._sequences if self.whole else self._tokens
        self.start = jax.jit(jax.vmap(self._start))
        self._run = jax.jit(run, donate_argnums=0, compiler_options=options)

    def run(self, state: State, rate: float, stop: int) -> tuple[State, np.ndarray]:
        """Run until so many tokens of a sequence were seen: the state then, and the mean bits a character of each seed
        on the way, before each update."""
        state, said = self._run(state, jnp.asarray(rate), jnp.asarray(stop, jnp.int32))
        bits, characters = np.asarray(said).T
        return state, bits / np.maximum(characters, 1)

    def model(self, parameters: Any) -> Any:
        """The network with these parameters."""
        return eqx.combine(parameters, self.static)

    def _start(self, seed) -> State:
        key_model, key = jax.random.split(jax.random.key(seed))
        parameters = eqx.filter(self.make(key_model), eqx.is_inexact_array)
        zero, nothing = jnp.zeros((), jnp.int32), jnp.zeros(2)
        level = jnp.asarray(self.task.first, jnp.int32)
        carry = () if self.whole else self._fresh(parameters, key)
        gradient = jax.tree.map(jnp.zeros_like, parameters) if self.update == "sequence" and not self.whole else ()
        optimiser = self.optimiser.init(parameters)
        return State(parameters, optimiser, key, level, zero, zero, carry, gradient, nothing, zero, zero)

    def _fresh(self, parameters, key):
        keys = jax.random.split(jax.random.fold_in(key, 0), self.task.batch)
        return jax.vmap(lambda k: self.model(parameters).init(key=k))(keys)

    def _updated(self, state: State, gradient, rate, due) -> State:
        """A step of Adam where one is due and the gradient is finite."""
        sound = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient)]).all()
        with jax.numpy_dtype_promotion("standard"):
            updates, optimiser = self.optimiser.update(gradient, state.optimiser)
            updates = jax.tree.map(lambda u: -rate.astype(u.dtype) * u, updates)
        new = optax.apply_updates(state.parameters, updates), optimiser
        choose = functools.partial(jnp.where, due & sound)
        parameters, optimiser = jax.tree.map(choose, new, (state.parameters, state.optimiser))
        skipped = state.skipped + (due & ~sound).astype(jnp.int32)
        return state._replace(parameters=parameters, optimiser=optimiser, skipped=skipped)

    # Token by token: the gradient is in the traces.

    def _tokens(self, state: State, rate, stop):
        def body(_, both):
            state, sums = both
            state, said = jax.vmap(self._token, in_axes=(0, None))(state, rate)
            return state, sums + said

        return jax.lax.fori_loop(state.seen[0], stop, body, (state, jnp.zeros((len(state.seen), 2))))

    def _token(self, state: State, rate):
        key = jax.random.fold_in(state.key, state.count)
        length = self.task.length(key, state.level)
        x, target, asked = self.task.at(key, state.level, state.t)
        begins = functools.partial(jnp.where, state.t == 0)
        carry = jax.tree.map(begins, self._fresh(state.parameters, key), state.carry)

        def objective(parameters):
            new, logits = jax.vmap(self.model(parameters))(carry, x)
            bits = jax.vmap(cross_entropy)(logits, target) / np.log(2)
            return jnp.mean(jnp.where(asked, bits, 0)), new

        (bits, carry), gradient = jax.value_and_grad(objective, has_aux=True)(state.parameters)
        carry, last = jax.lax.stop_gradient(carry), state.t + 1 == length
        said = jnp.stack([bits, jnp.mean(asked, dtype=bits.dtype)])
        total = state.said + said
        state = state._replace(carry=carry, t=jnp.where(last, 0, state.t + 1), seen=state.seen + 1)
        if self.update == "token":
            state = self._updated(state, gradient, rate, asked.any())
        else:
            gradient = jax.tree.map(jnp.add, state.gradient, gradient)
            mean = jax.tree.map(lambda g: g / total[1].astype(g.dtype), gradient)
            state = self._updated(state, mean, rate, last)
            state = state._replace(gradient=jax.tree.map(lambda g: jnp.where(last, 0, g), gradient))
        level = jnp.where(last, self.task.next(state.level, total[0] / total[1]), state.level)
        count = state.count + last.astype(jnp.int32)
        return state._replace(level=level, count=count, said=jnp.where(last, 0, total)), said

    # Sequence by sequence: the gradient of frozen weights, in one pass backwards. Sequences run to their end.

    @functools.cached_property
    def _times(self) -> list[int]:
        """Lengths to which sequences are padded: each twice the one before."""
        times = [self.task.time(self.task.most)]
        while times[0] // 2 >= max(16, self.task.time(self.task.first)):
            times.insert(0, -(-times[0] // 2))
        return times

    def _sequences(self, state: State, rate, stop):
        def one(state: State):
            def body(both):
                state, sums = both
                state, bits, said = self._sequence(state, rate)
                return state, sums + jnp.stack([bits * said, said])

            return jax.lax.while_loop(lambda both: both[0].seen < stop, body, (state, jnp.zeros(2)))

        return jax.lax.map(one, state)

    def _sequence(self, state: State, rate):
        key = jax.random.fold_in(state.key, state.count)
        length = self.task.length(key, state.level)

        def objective(parameters, time):
            t = jnp.arange(time, dtype=jnp.int32)
            xs, targets, asked = jax.vmap(self.task.at, in_axes=(None, None, 0))(key, state.level, t)
            model, carry = self.model(parameters), self._fresh(parameters, key)
            logits = jax.vmap(lambda c, x: unroll(model, c, x)[1], in_axes=(0, 1), out_axes=1)(carry, xs)
            bits = jax.vmap(jax.vmap(cross_entropy))(logits, targets) / np.log(2)
            there = asked & (t < length)[:, None]
            said = jnp.sum(jnp.mean(there, axis=1, dtype=bits.dtype))
            return jnp.sum(jnp.mean(jnp.where(there, bits, 0), axis=1)) / said, said

        def differentiate(time, parameters):
            return jax.value_and_grad(objective, has_aux=True)(parameters, time)

        index = sum((length > time).astype(jnp.int32) for time in self._times)
        branches = [functools.partial(differentiate, time) for time in self._times]
        (bits, said), gradient = jax.lax.switch(index, branches, state.parameters)
        state = self._updated(state, gradient, rate, jnp.array(True))
        level, count = self.task.next(state.level, bits), state.count + 1
        return state._replace(level=level, count=count, seen=state.seen + length), bits, said


def _carries_credit(model: Any) -> bool:
    """Whether an algorithm of the model needs all of a sequence at once."""
    is_algorithm = lambda node: isinstance(node, Algorithm)
    return any(is_algorithm(node) and node.credit == "carry" for node in jax.tree.leaves(model, is_leaf=is_algorithm))


def _has_chunks(model: Any) -> bool:
    """Whether every algorithm of the model has a gradient of a whole sequence in one pass backwards."""
    try:
        check_unroll(model)
    except TypeError:
        return False
    return True


def train(
    crowd: SeedBatch,
    seeds: list[int],
    rate: float,
    recorder: Recorder,
    *,
    tokens: int,
    every: int,
    measure: Callable[[State, np.ndarray], dict[str, Any]],
    probe: Callable[[State], dict[str, dict[str, Any]]] | None = None,
    streams: tuple[str, ...] = ("stream",),
    tuning: bool = False,
) -> None:
    """Train every seed on so many tokens, a row of `measure(state, bits)` after each `every`, and resumably.

    Rows stand in the splits `streams`, the last one in "end", too.
    The value "loss" of a measure is what rates are chosen by: written by tuning runs, alone and at their end.
    `probe(state) -> {credit: {name: values}}` is written with each row as the split "influence", and at the start."""
    batch = crowd.task.batch
    steps, stride = max(1, tokens // batch), max(1, every // batch)
    state, first = crowd.start(jnp.asarray(seeds, jnp.uint32)), 0

    def write(split, step, values, final, **about):
        for k, seed in enumerate(seeds):
            row = {name: float(np.asarray(value)[k]) for name, value in values.items()}
            recorder.write(seed, step * batch, split, final=final, **about, **row)

    def look(step):
        for credit, values in (probe(state) if probe is not None and not tuning else {}).items():
            write("influence", step, values, step == steps, credit=credit)

    if (kept := recorder.load(lambda step: state)) is not None:
        state, first = kept
    else:
        look(0)
    for begin in range(first // batch, steps, stride):
        stop = min(begin + stride, steps)
        state, bits = crowd.run(state, rate, stop)
        recorder.progress(stop, steps, f"{bits.mean():.3f} bits a character")
        last = stop == steps
        if tuning and not last:
            continue
        values = dict(measure(state, bits))
        loss = values.pop("loss")
        if tuning:
            write("tuning", stop, {"loss": loss}, True)
            continue
        for split in streams:
            write(split, stop, values, False)
        if last:
            write("end", stop, values, True)
        look(stop)
        recorder.save(state, stop * batch)
