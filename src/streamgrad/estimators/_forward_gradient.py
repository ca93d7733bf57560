"""Forward gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from ..algorithms import Algorithm
from ..algorithms._jvp_vjp import normal, scaled
from ..readout import Readout
from ._estimator import Estimator


class Direction(NamedTuple):
    """`u`; the tangent of the carry along it; steps since both began; `key`."""

    u: PyTree[Array]
    tangent: PyTree[Array]
    age: Int[Array, ""]
    key: PRNGKeyArray


class ForwardGradient(Estimator):
    r"""Forward gradient: the derivative of the loss along one random direction, times that direction.

    $$g_t = (\nabla L_t \cdot u)\, u, \qquad u \sim N(0, 1)$$

    by one forward product through the step, the carry's tangent along u kept from step to step: the whole model at
    once, readout included, as `sg.DODGE` does for one layer. Layers take `sg.BPTT()`, whose step is plain.

    - `horizon`: a fresh direction, with credit from there on, every so many steps; None: at resets alone, and then the
      estimate is unbiased for constant weights through all of the past. On an endless stream choose a number, since
      along one direction not much is learned.

    Raises `ValueError` for a horizon below 1; `TypeError` for a model whose layers keep traces or whose readout sends
    back feedback of its own.

    Reference: Baydin et al., Gradients without backpropagation, 2022 (2202.08587); through time Silver et al., 2022.
    """

    horizon: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        whole = isinstance(self.horizon, int) and not isinstance(self.horizon, bool)
        if self.horizon is not None and not (whole and self.horizon >= 1):
            raise ValueError(f"ForwardGradient(horizon) is None or an integer >= 1, got {self.horizon!r}.")

    def check(self, model):
        is_part = lambda node: isinstance(node, Algorithm | Readout)
        for node in jax.tree.leaves(model, is_leaf=is_part):
            if isinstance(node, Algorithm) and node.credit != "carry":
                raise TypeError(
                    f"ForwardGradient pushes a tangent through the carry, and {type(node).__name__} keeps a trace "
                    "instead: give the layers sg.BPTT(), whose step is plain."
                )
            if isinstance(node, Readout) and node.feedback != "symmetric":
                raise TypeError(
                    f"ForwardGradient sends nothing back, so that Readout(feedback={node.feedback!r}) means nothing: "
                    'use feedback="symmetric".'
                )

    def init(self, trained, carry, *, key):
        zeros = lambda tree: jax.tree.map(jnp.zeros_like, eqx.filter(tree, eqx.is_inexact_array))
        key, first = jax.random.split(key)
        return Direction(normal(first, trained), zeros(carry), jnp.zeros((), jnp.int32), key)

    def estimate(self, objective, trained, carry, kept: Any, *, reset, begins, restart):
        del begins, restart
        key, fresh = jax.random.split(kept.key)
        anew = reset if self.horizon is None else reset | (kept.age == self.horizon)
        u = jax.lax.cond(anew, lambda u: normal(fresh, u), lambda u: u, kept.u)
        tangent = jax.tree.map(lambda leaf: jnp.where(anew, 0, leaf), kept.tangent)
        moving, still = eqx.partition(carry, eqx.is_inexact_array)

        def along(trained, moving):
            loss, aux = objective(trained, eqx.combine(moving, still))
            new, rest = eqx.partition(aux[0], eqx.is_inexact_array)
            return (loss, new), (rest, aux[1:])

        (loss, new), (slope, tangent), (rest, aux) = jax.jvp(along, (trained, moving), (u, tangent), has_aux=True)
        age = jnp.where(anew, 1, kept.age + 1)
        if self.horizon is None:
            age = kept.age  # not needed, and an endless stream would overflow it
        value = loss, (eqx.combine(new, rest), *aux)
        return value, scaled(slope, u), Direction(u, tangent, age, key)
