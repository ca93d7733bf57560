"""Unbiased online recurrent optimisation."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ._algorithm import Online
from ._jvp_vjp import TINY, as_gradient, inner, norm, parameters_of, products, scaled, signs, traits, wide


class UORO(Online):
    r"""Unbiased online recurrent optimisation: the influence as one random rank-one product, $J_t \approx s_t t_t$.

    $$s_t = \rho_0 D_t s_{t-1} + \rho_1 \nu_t, \qquad
      t_t = t_{t-1} / \rho_0 + \nu_t^\top I_t / \rho_1, \qquad g_t = (\delta_t \cdot s_t)\, t_t$$

    with fresh signs $\nu_t \in \{\pm 1\}$ at each step, and $\rho_0 = \sqrt{|t| / |D s|}$,
    $\rho_1 = \sqrt{|\nu^\top I| / |\nu|}$, which make the variance small. The mean over the signs is the exact gradient
    for frozen weights; the variance grows with the state. For every cell: it needs one forward and one backward
    product a step.

    Reference: Tallec & Ollivier, Unbiased online recurrent optimization, 2017 (1702.05043).
    """

    def init(self, core, state, *, key):
        zeros = lambda tree: jax.tree.map(jnp.zeros_like, wide(tree))
        return zeros(state), zeros(parameters_of(core)), key

    def advance(self, core, trace, state, x, context):
        del context
        s, t, key = trace
        key, fresh = jax.random.split(key)
        new, push, pull = products(core, state, x)
        nu = signs(fresh, s)
        moved, met = push(s), pull(jax.tree.map(jnp.conj, nu))[0]
        rho_0 = jnp.sqrt((norm(t) + TINY) / (norm(moved) + TINY))
        rho_1 = jnp.sqrt((norm(met) + TINY) / norm(nu))
        s = jax.tree.map(jnp.add, scaled(rho_0, moved), scaled(rho_1, nu))
        t = jax.tree.map(jnp.add, scaled(1 / rho_0, t), scaled(1 / rho_1, met))
        return new, (s, t, key), (s, t)

    def pullback(self, core, residual, cotangent):
        s, t = residual
        return None, as_gradient(scaled(inner(cotangent, s), t), core)

    def traits(self, core):
        structure = core.structure
        return traits(
            core,
            bias="unbiased",
            reason="one random rank-one product, whose mean is J",
            exact_at_one_step=False,
            kept=structure.rows + structure.parameters,
            flops=8 * structure.parameters,
            layout="a tangent of the state and a cotangent of the parameters",
            reference="Tallec & Ollivier 2017, arXiv 1702.05043",
        )
