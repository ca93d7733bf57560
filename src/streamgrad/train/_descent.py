"""Updates by any Optax transformation."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from .._cpu.branches import when
from ..optimisers._trained import check_update, updated, value_dtype
from ._soundness import finite
from ._update import Price, Update


class DescentState(NamedTuple):
    """`optimiser`: Optax's state; `total`: sums within a window, of gradients, their number, and losses; `owed`:
    gradients of leaves that algorithms learn themselves, from steps without a target."""

    optimiser: Any
    total: Any
    owed: PyTree[Array]


class Descent(Update):
    """θ ← θ + optimiser(mean of the gradients of `every` steps).

    - `own`: which trained leaves algorithms learn themselves, targets or not; False: none. Steps without a target
      update nothing: what these leaves are owed for them is added to the next step with one.
    """

    def __init__(self, optimiser: optax.GradientTransformation, own: PyTree[bool] = False, every: int = 1):
        self.optimiser, self.own, self.every = optimiser, own, every

    def init(self, trained, lead):
        del lead
        zeros = jax.tree.map(jnp.zeros_like, trained)
        return DescentState(
            optimiser=self.optimiser.init(trained),
            total=_nothing(trained) if self.every > 1 else (),
            owed=eqx.filter(zeros, self.own),
        )

    def check(self, trained):
        value = jnp.zeros((), value_dtype(trained))
        check_update(self.optimiser, trained, {"value": value, "grad": trained}, "Learner")

    def price(self, state, streams=1):
        del state, streams
        return Price("an Optax transformation")

    def __call__(self, state, trained, evidence, guard):
        if evidence.rare and not jax.tree.leaves(state.owed):

            def learn(kept):
                state, same, _ = kept
                return self._learn(state, same, evidence.read_from(trained, same), guard)

            state, trained, sound = when(evidence.given, learn, (state, trained, jnp.array(True)))
        else:
            state, trained, sound = self._learn(state, trained, evidence, guard)
        if self.every == 1:
            return state, trained, sound

        def move(both):
            state, trained = both
            total, count, values = state.total
            over = lambda a: a / jnp.maximum(count, 1).astype(a.dtype)
            mean = jax.tree.map(over, total)
            state, trained = self._move(state, trained, mean, over(values), count > 0, evidence, guard)
            return state._replace(total=_nothing(total)), trained

        state, trained = when(jnp.asarray(evidence.due), move, (state, trained))
        return state, trained, sound

    def _learn(self, state, trained, evidence, guard):
        """Takes the gradient, and moves by it or adds it to the window's."""
        gradient, given, value = evidence.gradient(), evidence.given, evidence.value
        sound = evidence.sound(guard, gradient)
        if jax.tree.leaves(state.owed):
            state, gradient = self._with_owed(state, gradient, given)
        learned = given & sound
        if self.every == 1:
            state, trained = self._move(state, trained, gradient, value, learned, evidence, guard)
            return state, trained, sound
        total, count, values = state.total
        total = jax.tree.map(lambda a, g: a + jnp.where(learned, g, 0), total, gradient)
        count, values = count + learned.astype(jnp.int32), values + jnp.where(learned, value, 0).astype(values.dtype)

        return state._replace(total=(total, count, values)), trained, sound

    def _move(self, state, trained, gradient, value, learned, evidence, guard):
        value = value.astype(value_dtype(trained))

        def move(trained, optimiser):
            moved, new = updated(self.optimiser, gradient, optimiser, trained, value=value, grad=gradient)
            return moved, jax.tree.map(lambda a, old: jnp.broadcast_to(a, jnp.shape(old)), new, optimiser)

        if any(leaf.ndim for leaf in jax.tree.leaves(state.optimiser)):
            # A branch: chosen entry by entry, the arrays of the optimiser would each be read and written once more.
            moved, optimiser = jax.lax.cond(learned, move, lambda *both: both, trained, state.optimiser)
        else:
            choose = guard.choose(learned)
            moved, optimiser = jax.tree.map(choose, move(trained, state.optimiser), (trained, state.optimiser))
        return state._replace(optimiser=optimiser), evidence.kept(moved, trained)

    def _with_owed(self, state, gradient, given):
        own, rest = eqx.partition(gradient, self.own)
        own = jax.tree.map(jnp.add, own, state.owed)
        keep = ~given & finite(own)
        owed = jax.tree.map(lambda g: jnp.where(keep, g, 0), own)
        return state._replace(owed=owed), eqx.combine(own, rest)


def _nothing(trained):
    """Sums before the first step of a window: of gradients, of steps that counted, of their losses."""
    return jax.tree.map(jnp.zeros_like, trained), jnp.zeros((), jnp.int32), jnp.zeros((), value_dtype(trained))
