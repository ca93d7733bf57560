"""Windows of steps that are differentiated at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from .._base.select import select
from .._cpu.branches import after, when
from ..nn import unroll
from ..optimisers._trained import frozen
from ._evidence import Evidence, Finding
from ._streams import mean
from ._targets import missing_value

if TYPE_CHECKING:
    from ._memory import Memory
    from ._program import Program


class Past(NamedTuple):
    """`start`: the carry at the window's beginning; `xs`, `signals`, `resets`: of its steps so far."""

    start: PyTree
    xs: Any
    signals: Any
    resets: Bool[Array, "every ..."]


class Window:
    """Remembers the steps of a window, and at its end differentiates all of them with the weights frozen.

    - `chunked`: False, credit goes back through the carry (BPTT); True, each layer's own algorithm runs the window in
      one pass, without traces (`sg.nn.unroll`).
    """

    def __init__(self, chunked: bool):
        self.chunked = chunked

    def init(self, carry: PyTree, x: Any, signal: Any, every: int, lead: tuple[int, ...]) -> Past:
        """An empty window, of signals whose type can say "missing"."""
        ring = lambda like, fill: jnp.full((every, *like.shape), fill, like.dtype)
        none = lambda like: ring(like, missing_value(like.dtype))
        start = jax.tree.map(lambda a: jnp.array(a, copy=True), carry)
        xs = jax.tree.map(lambda like: ring(like, 0), x)
        return Past(start, xs, jax.tree.map(none, signal), jnp.zeros((every, *lead), bool))

    def __call__(self, program: Program, memory: Memory, x, signal, reset):
        """Remember the step; at a window's end learn from all of it."""
        at, past = memory.phase, memory.window
        put = lambda ring, new: jax.tree.map(
            lambda a, b: jax.lax.dynamic_update_index_in_dim(a, b.astype(a.dtype), at, 0), ring, new
        )
        reset = jnp.zeros(program.lead, bool) if reset is None else reset
        start = jax.tree.map(select(at == 0), memory.carry, past.start)
        carry, y = program.forward(memory.model, memory.carry, x)
        signals = put(past.signals, program.rule.typed(y, signal))
        past = Past(start, put(past.xs, x), signals, put(past.resets, reset & (at > 0)))
        _, finding = program.rule(memory.rule, y, signal, reset)
        memory = memory._replace(carry=carry, window=past)
        end = lambda both: self._learn(program, both[0])
        memory, sound = when(after(at == program.every - 1, (carry, y)), end, (memory, jnp.array(True)))
        return memory, y, finding, sound

    def _learn(self, program: Program, memory: Memory):
        parameters, fixed = eqx.partition(memory.model, program.trained)
        past = memory.window
        # The keys with which each step of the window drew its fresh carry, had there been a reset.
        first = memory.steps[0] + jnp.uint32(1) - jnp.uint32(program.every)
        steps = first + jnp.arange(program.every, dtype=jnp.uint32)
        keys = jax.vmap(lambda step: jax.random.fold_in(memory.key, step))(steps)
        predict = self._at_once if self.chunked else self._step_by_step
        run = lambda parameters: predict(program, eqx.combine(parameters, fixed), past, keys)
        ys, pull = jax.vjp(run, parameters)

        def objective(ys):
            losses, there = jax.vmap(program.rule.score)(ys, past.signals)
            each, there = jax.vmap(mean)(losses, there), there.reshape(program.every, -1).any(1)
            return jnp.sum(each) / jnp.maximum(there.sum(), 1).astype(each.dtype), there.any()

        (loss, there), slope = jax.value_and_grad(objective, has_aux=True)(ys)
        summed = lambda parameters: (sum(jnp.sum(leaf) for leaf in jax.tree.leaves(run(parameters))), None)
        untouched = frozen(summed, parameters)
        evidence = Evidence(
            Finding(there, loss, slope), ys, None, True, lambda slope: pull(slope)[0], untouched=untouched
        )
        state, parameters, sound = program.update(memory.update, parameters, evidence, program.guard)
        return memory._replace(model=eqx.combine(parameters, fixed), update=state), sound

    def _at_once(self, program, arrays, past, keys):
        model = program.model(arrays)
        run = lambda carry, xs, resets, keys: unroll(model, carry, xs, (resets, keys))[1]
        if program.streams is None:
            return run(past.start, past.xs, past.resets, keys)
        each = jax.vmap(lambda key: jax.random.split(key, program.streams))(keys)
        return jax.vmap(run, in_axes=(0, 1, 1, 1), out_axes=1)(past.start, past.xs, past.resets, each)

    def _step_by_step(self, program, arrays, past, keys):
        def body(carry, now):
            x, reset, key = now
            carry = program.restart(program.model(arrays), carry, reset, key)
            return program.forward(arrays, carry, x)

        return jax.lax.scan(body, past.start, (past.xs, past.resets, keys))[1]
