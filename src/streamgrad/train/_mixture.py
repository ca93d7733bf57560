"""Several programs on one stream, and one prediction from theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree, Shaped

from ._memory import Memory, Told, counted
from ._mixing import Mixed, Mixing, MixingState
from ._program import Program


class MixtureMemory(NamedTuple):
    """`experts`: what each program knows; `mixing`: what is known of them; `waiting`: what was predicted and has not
    been judged yet, oldest first, for `delay` steps; `steps`: as in a `Memory`."""

    experts: tuple[Memory, ...]
    mixing: MixingState
    waiting: Any
    steps: Shaped[Array, 2]

    @property
    def skipped(self) -> Array:
        """Steps that some expert left out."""
        return jnp.stack([jnp.sum(memory.skipped) for memory in self.experts]).sum()


class MixtureProgram:
    """Programs with one signal, run side by side; predictions of one number each, combined by `Mixing`.

    - `programs`: with one delay and one stream each; `mixing`: how their predictions are made into one.
    """

    lead = ()
    streams = None

    def __init__(self, programs: Sequence[Program], mixing: Mixing):
        self.programs, self.mixing = tuple(programs), mixing
        self.steps_late = programs[0].delay.steps if programs[0].delay is not None else 0

    def init(self, arrays: Sequence[PyTree[Array]], key_carry: PRNGKeyArray, key: PRNGKeyArray) -> MixtureMemory:
        """What is known before the first step."""
        keys = zip(*(jax.random.split(k, len(self.programs)) for k in (key_carry, key)), strict=True)
        experts = tuple(p.init(own, *two) for p, own, two in zip(self.programs, arrays, keys, strict=True))
        mixing = self.mixing.init(len(experts))
        nothing = self.mixing.forecast(mixing, jnp.full(len(experts), jnp.nan))
        waiting = jax.tree.map(lambda a: jnp.repeat(a[None], self.steps_late, axis=0), nothing)
        return MixtureMemory(experts, mixing, waiting, jnp.zeros(2, jnp.uint32))

    def is_open(self, memory: MixtureMemory) -> bool:
        """Whether every expert has all that depends on shapes which only a step tells."""
        return all(p.is_open(own) for p, own in zip(self.programs, memory.experts, strict=True))

    def opened(self, memory: MixtureMemory, x: Any, signal: Any, y: Any) -> MixtureMemory:
        """The memory with what depends on shapes."""
        experts = tuple(p.opened(own, x, signal, y) for p, own in zip(self.programs, memory.experts, strict=True))
        return memory._replace(experts=experts)

    def step(self, memory: MixtureMemory, x: Any, signal: Any, reset: Any) -> tuple[MixtureMemory, Told]:
        """Every expert predicts and learns; the mixture learns from the prediction whose signal came, and predicts."""
        both = [p.step(own, x, signal, reset) for p, own in zip(self.programs, memory.experts, strict=True)]
        experts, told = zip(*both, strict=True)
        ys = jnp.concatenate([each.y for each in told])
        mixing, waiting = memory.mixing, memory.waiting
        if self.steps_late:
            due: Mixed = jax.tree.map(lambda a: a[0], waiting)
            mixing = self.mixing.update(mixing, due, signal[0])
            made = self.mixing.forecast(mixing, ys)
            waiting = jax.tree.map(lambda ring, new: jnp.concatenate([ring[1:], new[None]]), waiting, made)
        else:
            due = made = self.mixing.forecast(mixing, ys)
            mixing = self.mixing.update(mixing, made, signal[0])
        memory = MixtureMemory(experts, mixing, waiting, jnp.stack(counted(memory.steps)))
        learned = jnp.stack([each.learned for each in told]).any()
        return memory, Told(made.forecast[None], (signal[0] - due.forecast) ** 2, learned)

    def run(self, memory: MixtureMemory, xs: Any, signals: Any, resets: Any) -> tuple[MixtureMemory, Told]:
        """Many steps, with a leading axis of time."""
        return jax.lax.scan(lambda memory, now: self.step(memory, *now), memory, (xs, signals, resets))

    def predict(self, memory: MixtureMemory, x: Any) -> Array:
        """The prediction for x after all that was seen. Changes nothing."""
        ys = [p.predict(own, x) for p, own in zip(self.programs, memory.experts, strict=True)]
        return self.mixing.forecast(memory.mixing, jnp.concatenate(ys)).forecast[None]
