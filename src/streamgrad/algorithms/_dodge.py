"""The influence along one direction in the space of parameters."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ._algorithm import Online
from ._products import as_gradient, inner, normal, parameters_of, products, scaled, traits, wide


class DODGE(Online):
    r"""Directional gradients: the influence along one direction u, which is the derivative of the state along u.

    $$\dot s_t = D_t \dot s_{t-1} + I_t u = J_t u, \qquad g_t = (\delta_t \cdot \dot s_t)\, u$$

    - `direction`: None, then u is drawn from N(0, 1) for each stream and sequence, and the mean of the gradient over
      it is exact; or a guess of the gradient, shaped like the parameters of `cell.core()`: then the gradient is
      projected on it, $g_t = (\delta_t \cdot \dot s_t)\, u / |u|^2$, biased, without variance. The
      guess is constant, and takes no gradient itself.

    For every cell, at the price of one forward product a step: a tangent of the state, and u.

    Raises `ValueError` when bound, for a direction that is not shaped like the core's parameters.

    Reference: Silver et al., Learning by directional gradient descent, 2022.
    """

    direction: PyTree = None

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
        like = parameters_of(core)
        if self.direction is None:
            return jax.tree.map(jnp.zeros_like, wide(state)), normal(key, like)
        guess = jax.lax.stop_gradient(wide(self.direction))
        return jax.tree.map(jnp.zeros_like, wide(state)), guess

    def advance(self, core, trace, state, x, context):
        del context
        tangent, u = trace
        new, push, _ = products(core, state, x)
        tangent = push(tangent, u)
        return new, (tangent, u), (tangent, u)

    def pullback(self, core, residual, cotangent):
        tangent, u = residual
        along = inner(cotangent, tangent)
        if self.direction is not None:
            along = along / inner(jax.tree.map(jnp.conj, u), u)
        return None, as_gradient(scaled(along, jax.tree.map(jnp.conj, u)), core)

    def traits(self, core):
        structure = core.structure
        guided = self.direction is not None
        return traits(
            core,
            bias="biased" if guided else "unbiased",
            reason="projected on the direction given" if guided else "projected on one random direction",
            exact_at_one_step=False,
            kept=structure.rows + structure.parameters,
            flops=4 * structure.parameters,
            layout="a tangent of the state and a direction",
            reference="Silver et al. 2022",
        )
