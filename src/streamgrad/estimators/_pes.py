"""Persistent evolution strategies."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray, PyTree

from ..algorithms._jvp_vjp import normal, scaled
from ._estimator import Estimator


class Particles(NamedTuple):
    """`noise`: ε of each pair in this window; `total`: ξ, its sum since the sequence began; `carries`: of the model at
    θ + ε and at θ - ε, (pairs, ...) each; `key`."""

    noise: PyTree[Array]
    total: PyTree[Array]
    carries: tuple[PyTree, PyTree]
    key: PRNGKeyArray


class PES(Estimator):
    r"""Persistent evolution strategies: the gradient from losses at perturbed weights alone, without any derivative.

    N antithetic pairs of particles, each with a carry of its own, see every step. At the beginning of each window of
    `update_every` steps pair i draws $\epsilon_i \sim N(0, \sigma^2)$ and adds it to $\xi_i$; then

    $$g_t = \frac{1}{2 N \sigma^2} \sum_i \xi_i \left( L_t(\theta + \epsilon_i) - L_t(\theta - \epsilon_i) \right)$$

    The estimate is unbiased, for constant weights, for the gradient of the smoothed loss $E_\epsilon L$ through all of
    the past since the last reset; its variance grows with the number of windows since then. Any model will do, also one
    without derivatives; layers with `sg.BPTT()` keep no traces and cost least. A step costs 2N + 1 forward steps.

    - `pairs`: N >= 1; `noise`: σ > 0, in the units of the weights.

    Raises `ValueError` for pairs or noise out of range.

    Reference: Vicol et al., Unbiased gradient estimation in unrolled computation graphs with persistent evolution
    strategies, 2021 (2112.13835).
    """

    pairs: int = eqx.field(static=True, default=16)
    noise: float = eqx.field(static=True, default=0.01)

    def __check_init__(self):
        if isinstance(self.pairs, bool) or not isinstance(self.pairs, int) or self.pairs < 1:
            raise ValueError(f"PES(pairs) needs an integer >= 1, got {self.pairs!r}.")
        if not self.noise > 0:
            raise ValueError(f"PES(noise=σ) needs σ > 0, got {self.noise!r}.")

    def init(self, trained, carry, *, key):
        many = lambda tree: jax.tree.map(lambda leaf: jnp.repeat(leaf[None], self.pairs, axis=0), tree)
        nothing = many(jax.tree.map(jnp.zeros_like, trained))
        return Particles(nothing, nothing, (many(carry), many(carry)), key)

    def estimate(self, objective, trained, carry, kept: Any, *, reset, begins, restart):
        value = objective(trained, carry)
        key, fresh = jax.random.split(kept.key)
        draw = lambda _: scaled(jnp.asarray(self.noise), normal(fresh, kept.noise))
        # At a reset credit starts anew, with the noise under which the steps from here on are seen.
        noise = jax.lax.cond(begins, draw, lambda noise: noise, kept.noise)
        total = jax.tree.map(lambda t, e: jnp.where(reset, e, jnp.where(begins, t + e, t)), kept.total, noise)
        sides = []
        for sign, own in zip((1.0, -1.0), kept.carries, strict=True):
            own = jax.vmap(restart)(own)
            at = lambda e, sign=sign: optax.tree.add_scale(trained, sign, e)
            losses, aux = jax.vmap(lambda e, c, at=at: objective(at(e), c))(noise, own)
            sides.append((losses, aux[0]))
        (high, above), (low, below) = sides
        weight = (high - low) / (2 * self.pairs * self.noise**2)
        gradient = jax.tree.map(lambda xi: jnp.tensordot(weight.astype(xi.dtype), xi, 1), total)
        return value, gradient, Particles(noise, total, (above, below), key)
