"""The influence along one direction in the space of parameters."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ._algorithm import Online
from ._jvp_vjp import TINY, as_gradient, inner, norm, normal, parameters_of, products, scaled, traits, wide


class DODGE(Online):
    r"""Directional gradients: the influence along one direction u, which is the derivative of the state along u.

    $$\dot s_t = D_t \dot s_{t-1} + I_t u = J_t u, \qquad g_t = (\delta_t \cdot \dot s_t)\, u$$

    - `direction`: None, then u is drawn from N(0, 1) for each stream and sequence, and the mean of the gradient over
      it is exact; or a guess of the gradient, shaped like the parameters of `cell.core()`: then the gradient is
      projected on it (u is the guess over its length), biased, without variance. The guess is constant, and takes no
      gradient itself.
    - `horizon`: every so many steps a fresh direction is drawn, and credit starts anew from there (biased); None: at
      resets alone. On an endless stream choose a number, since along one direction not much is learned.

    For every cell, at the price of one forward product a step: a tangent of the state, and u.

    Raises `ValueError` for a horizon below 1 or beside a direction, and, when bound, for a direction that is not shaped
    like the core's parameters.

    Reference: Silver et al., Learning by directional gradient descent, 2022.
    """

    direction: PyTree = None
    horizon: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        whole = isinstance(self.horizon, int) and not isinstance(self.horizon, bool)
        if self.horizon is not None and not (whole and self.horizon >= 1 and self.direction is None):
            raise ValueError(
                f"DODGE(horizon) is None or an integer >= 1, without a direction of its own, got {self.horizon!r}."
            )

    def bind(self, core, state, x):
        if self.direction is None:
            return self
        shapes = lambda tree: jax.tree.map(jnp.shape, eqx.filter(tree, eqx.is_inexact_array))
        if (got := jax.tree.leaves(shapes(self.direction))) != (want := jax.tree.leaves(shapes(core))):
            raise ValueError(
                f"DODGE(direction=...) has leaves of shapes {got}, the core's parameters {want}: give a gradient of "
                "cell.core()."
            )
        like = eqx.filter(core, eqx.is_inexact_array)
        leaves = jax.tree.leaves(eqx.filter(self.direction, eqx.is_inexact_array))
        return dataclasses.replace(self, direction=jax.tree.unflatten(jax.tree.structure(like), leaves))

    def init(self, core, state, *, key):
        still = jax.tree.map(jnp.zeros_like, wide(state))
        if self.direction is not None:
            guess = jax.lax.stop_gradient(wide(self.direction))
            return still, scaled(1 / jnp.maximum(norm(guess), TINY), guess), ()
        key, fresh = jax.random.split(key)
        age = () if self.horizon is None else (jnp.zeros((), jnp.int32), key)
        return still, normal(fresh, parameters_of(core)), age

    def advance(self, core, trace, state, x, context):
        del context
        tangent, u, age = trace
        if self.horizon is not None:
            steps, key = age
            key, fresh = jax.random.split(key)
            anew = steps == self.horizon
            u = jax.lax.cond(anew, lambda u: normal(fresh, u), lambda u: u, u)
            tangent = jax.tree.map(lambda leaf: jnp.where(anew, 0, leaf), tangent)
            age = jnp.where(anew, 1, steps + 1), key
        new, push, _ = products(core, state, x)
        tangent = push(tangent, u)
        return new, (tangent, u, age), (tangent, u)

    def pullback(self, core, residual, cotangent):
        tangent, u = residual
        along = inner(cotangent, tangent)
        return None, as_gradient(scaled(along, jax.tree.map(jnp.conj, u)), core)

    def traits(self, core):
        structure = core.structure
        if self.direction is not None:
            bias, reason = "biased", "projected on the direction given"
        elif self.horizon is not None:
            bias, reason = (
                "biased",
                f"projected on a random direction; after {self.horizon} steps the past is forgotten",
            )
        else:
            bias, reason = "unbiased", "projected on one random direction"
        return traits(
            core,
            bias=bias,
            reason=reason,
            exact_at_one_step=False,
            kept=structure.rows + structure.parameters,
            flops=4 * structure.parameters,
            layout="a tangent of the state and a direction",
            reference="Silver et al. 2022",
        )
