"""The influence as it is written, dense and without any structure: what every layout of this room computes."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from ..cells import Bank, Core

Influence = Float[Array, "rows parameters"]


def pattern(core: Bank, n: int) -> Influence:
    r"""$M_n$ of SnAp-n on a bank: 1 where the unit of a parameter reaches a state within n steps."""
    unit = jnp.concatenate([jnp.broadcast_to(jnp.arange(core.units), w.shape).ravel() for w in core.weights])
    return jnp.tile(jnp.asarray(core.structure.reach(n), float), (core.entries, 1))[:, unit]


def advance(core: Core, influence: Influence, state: Any, x: Array, mask: Influence) -> tuple[Any, Influence]:
    r"""The new state, and $J \leftarrow M \circ (I + D J)$, of real states and parameters laid out as vectors."""
    parameters, fixed = eqx.partition(core, eqx.is_inexact_array)
    theta, as_parameters = ravel_pytree(parameters)
    rows, as_state = ravel_pytree(state)
    step = lambda theta, rows: ravel_pytree(eqx.combine(as_parameters(theta), fixed)(as_state(rows), x))[0]
    immediate, dynamics = jax.jacfwd(step, argnums=(0, 1))(theta, rows)
    return as_state(step(theta, rows)), mask * (immediate + dynamics @ influence)


def pullback(core: Core, influence: Influence, cotangent: Any) -> Any:
    r"""The gradient $\frac{\partial L}{\partial s} J$, shaped like the parameters."""
    _, as_parameters = ravel_pytree(eqx.filter(core, eqx.is_inexact_array))
    return as_parameters(ravel_pytree(cotangent)[0] @ influence)
