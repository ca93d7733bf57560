r"""A whole chunk of steps at once: while weights are frozen, online gradients need no traces.

The sum over a chunk of the online gradients $\delta_t J_t$, with $J_t = I_t + D_t J_{t-1}$ and $J = 0$ before
the chunk, is one pass backwards in time:

$$\sum_t \delta_t J_t = \sum_t \epsilon_t I_t, \qquad \epsilon_t = \delta_t + \epsilon_{t+1} D_{t+1}$$

while the input of each step gets $\delta_t\, \partial f / \partial x_t$ alone, as it does one step at a time. An
algorithm says how its credit spreads from $\delta$ to $\epsilon$; the rest is products over all of the chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from .._base.dependence import dependence
from ..cells import Core
from ._once import once

#: Where a sequence starts anew, and the state it starts from; None when nothing starts within the chunk.
Starts = tuple[Bool[Array, " time"], PyTree[Array]] | None


def unroll(algorithm: Any, core: Core, state: PyTree[Array], xs: Array, starts: Starts) -> PyTree[Array]:
    """The states of all steps, with the algorithm's gradient. See `Algorithm.unroll`."""
    stop = jax.lax.stop_gradient
    state, still, past = stop(state), stop(core), stop(xs)
    states = still.unroll(state, past, starts)
    before = _restarted(starts, jax.tree.map(lambda first, s: jnp.concatenate([first[None], s[:-1]]), state, states))
    parameters, fixed = eqx.partition(core, eqx.is_inexact_array)

    def live(wanted):
        choose = lambda leaf, kind: leaf if kind == wanted else stop(leaf)
        return eqx.combine(jax.tree.map(choose, parameters, algorithm.gradient_source(core)), fixed)

    steps = lambda core, xs: jax.vmap(core)(before, xs)
    whole = algorithm.credit == "carry"
    # Twice the same values; the compiler computes them once.
    through_time, now = steps(live("time"), xs if whole else past), steps(live("now"), past if whole else xs)
    where = None if starts is None else starts[0]
    return _joined((through_time, now), algorithm, (still, before, past, where))


@eqx.filter_custom_vjp
def _joined(pair, algorithm, chunk):
    """One value for two that are equal; backwards, the first gets ε, spread from the second's δ."""
    return pair[0]


@_joined.def_fwd
def _joined_fwd(perturbed, pair, algorithm, chunk):
    return once(pair[0]), None


@_joined.def_bwd
def _joined_bwd(residuals, cotangent, perturbed, pair, algorithm, chunk):
    core, before, xs, starts = chunk
    delta = jax.tree.map(
        lambda like, ct: jnp.zeros_like(like) if ct is None else ct, pair[0], cotangent, is_leaf=lambda x: x is None
    )
    return algorithm.backward_credit(core, before, xs, delta, starts), delta


def _restarted(starts: Starts, before: PyTree[Array]) -> PyTree[Array]:
    if starts is None:
        return before
    where, fresh = starts
    choose = lambda old, new: jnp.where(jnp.expand_dims(where, range(1, old.ndim)), new, old)
    return jax.tree.map(choose, before, fresh)


def backwards(
    back: Callable[[PyTree, PyTree], PyTree],
    linearise: Callable[[PyTree, Array], PyTree],
    before: PyTree,
    xs: Array,
    delta: PyTree,
    starts: Bool[Array, " time"] | None,
) -> PyTree:
    r"""$\epsilon_t = \delta_t + \epsilon_{t+1} D_{t+1}$, with `back(linearise(s, x), ε)` the product $\epsilon D$.

    What `linearise` says is computed for all steps at once, and what is the same at every step (an LRU's λ) once."""
    first = jax.tree.map(lambda a: a[0], (before, xs))
    leaves, treedef = jax.tree.flatten(linearise(*first))
    program = jax.make_jaxpr(lambda s, x: jax.tree.leaves(linearise(s, x)))(*first)
    varies = [bool(row.any()) for row in dependence(program.jaxpr)]
    varying = jax.vmap(lambda s, x: [leaf for leaf, v in zip(jax.tree.leaves(linearise(s, x)), varies) if v])(
        before, xs
    )

    def body(late, now):
        varying, delta, starts = now
        own = iter(varying)
        coefficients = jax.tree.unflatten(treedef, [next(own) if v else leaf for leaf, v in zip(leaves, varies)])
        epsilon = jax.tree.map(jnp.add, delta, late)
        late = back(coefficients, epsilon)
        if starts is not None:
            late = jax.tree.map(lambda leaf: jnp.where(starts, 0, leaf), late)
        return late, epsilon

    nothing = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), delta)
    return jax.lax.scan(body, nothing, (varying, delta, starts), reverse=True)[1]


def by_state(core: Core) -> Callable[[PyTree, PyTree], PyTree]:
    """The full dynamics as a `back` whose coefficients are (state before, input)."""
    return lambda before, epsilon: jax.vjp(lambda s: core(s, before[1]), before[0])[1](epsilon)[0]


def everywhere(core: Core, kind: str) -> PyTree:
    """The same kind of credit for every parameter."""
    return jax.tree.map(lambda leaf: kind, eqx.filter(core, eqx.is_inexact_array))
