"""Updates by any Optax transformation."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from .._memory import finite
from ._update import Update


class DescentState(NamedTuple):
    """`optimiser`: Optax's state; `total`: the sum of gradients within a window, and how many they are; `owed`:
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
            total=(zeros, jnp.zeros((), jnp.int32)) if self.every > 1 else (),
            owed=eqx.filter(zeros, self.own),
        )

    def __call__(self, state, trained, evidence, guard):
        gradient, given = evidence.gradient(), evidence.given
        sound = guard.sound(evidence.loss, given, gradient)
        if jax.tree.leaves(state.owed):
            state, gradient = self._with_owed(state, gradient, given)
        learned = given & sound
        if self.every == 1:
            state, trained = self._move(state, trained, gradient, learned, guard)
            return state, trained, sound
        total, count = state.total
        total = jax.tree.map(lambda a, g: a + jnp.where(learned, g, 0), total, gradient)
        count = count + learned.astype(jnp.int32)

        def move(both):
            mean = jax.tree.map(lambda a: a / jnp.maximum(count, 1).astype(a.dtype), total)
            state, trained = self._move(*both, mean, count > 0, guard)
            zeros = jax.tree.map(jnp.zeros_like, total)
            return state._replace(total=(zeros, jnp.zeros_like(count))), trained

        wait = lambda both: (both[0]._replace(total=(total, count)), both[1])
        state, trained = jax.lax.cond(evidence.due, move, wait, (state, trained))
        return state, trained, sound

    def _move(self, state, trained, gradient, learned, guard):
        with jax.numpy_dtype_promotion("standard"):  # Optax mixes precisions, also where the user forbids it
            updates, optimiser = self.optimiser.update(gradient, state.optimiser, trained)
        choose = guard.choose(learned)
        moved = jax.tree.map(choose, eqx.apply_updates(trained, updates), trained)
        return state._replace(optimiser=jax.tree.map(choose, optimiser, state.optimiser)), moved

    def _with_owed(self, state, gradient, given):
        own, rest = eqx.partition(gradient, self.own)
        own = jax.tree.map(jnp.add, own, state.owed)
        keep = ~given & finite(own)
        owed = jax.tree.map(lambda g: jnp.where(keep, g, 0), own)
        return state._replace(owed=owed), eqx.combine(own, rest)
