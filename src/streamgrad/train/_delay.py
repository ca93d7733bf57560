"""Signals that come late."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from ._carries import states_only
from ._memory import Memory, Told
from ._soundness import finite_by_stream

if TYPE_CHECKING:
    from ._program import Program


class Pending(NamedTuple):
    """`serving`: the carry of the copy that predicts; `xs`, `resets`, `ys`: inputs, resets and predictions whose
    signals have not come yet, oldest first."""

    serving: PyTree
    xs: Any
    resets: Bool[Array, "delay ..."]
    ys: Any


class Delay:
    """A delay: a learning copy runs `steps` behind, and a serving copy of the state predicts the present. The learning
    copy runs on the inputs of the time being scored; the serving copy has the newest weights: nothing learns from the
    future."""

    def __init__(self, steps: int):
        self.steps = steps

    def init(self, carry: PyTree, x: Any, y: Any, lead: tuple[int, ...]) -> Pending:
        """Nothing pending yet; predictions that were never made count as missing."""
        ring = lambda tree, fill: jax.tree.map(lambda like: jnp.full((self.steps, *like.shape), fill, like.dtype), tree)
        serving = jax.tree.map(lambda a: jnp.array(a, copy=True), states_only(carry))
        return Pending(serving, ring(x, 0), jnp.zeros((self.steps, *lead), bool), ring(y, jnp.nan))

    def serving(self, pending: Pending, streams: int | None) -> tuple[PyTree, Array]:
        """The serving copy's carry, and the streams in which it is not finite."""
        return pending.serving, ~finite_by_stream(pending.serving, streams)

    def __call__(self, program: Program, memory: Memory, x, signal, reset) -> tuple[Memory, Told]:
        """Learn from the signal of the input `steps` ago, then predict at the present."""
        pending = memory.pending
        then = lambda ring: jax.tree.map(lambda a: a[0], ring)
        reset = jnp.zeros(program.lead, bool) if reset is None else reset
        # A signal whose input lies before the start or before an episode's boundary belongs to nothing.
        begun = (memory.steps[0] >= self.steps) | (memory.steps[1] > 0)
        due = then(pending.ys)
        signal = program.rule.without(pending.resets[1:].any(0) | reset | ~begun, due, signal)
        loss, _ = program.rule.score(due, signal)

        def learn(memory):
            memory, told = program.learn(memory, then(pending.xs), signal, pending.resets[0])
            return memory, told.learned

        nothing = lambda memory: (memory, jnp.zeros(program.lead, bool))
        memory, learned = jax.lax.cond(begun, learn, nothing, memory)
        model = program.serving(memory.model)
        serving, broken = self.serving(pending, program.streams)
        serving = program.restart(model, serving, reset | broken, memory.key)
        serving, y = jax.lax.stop_gradient(program.call(model, serving, x))
        push = lambda ring, new: jax.tree.map(lambda a, b: jnp.concatenate([a[1:], b[None].astype(a.dtype)]), ring, new)
        pending = Pending(serving, push(pending.xs, x), push(pending.resets, reset), push(pending.ys, y))
        return memory._replace(pending=pending), Told(y, loss, learned)
