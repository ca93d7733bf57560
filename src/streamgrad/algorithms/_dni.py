"""Decoupled neural interfaces: synthetic gradients."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..cells._function_core import from_rows, to_rows
from ._algorithm import Online
from ._jvp_vjp import as_gradient, products, traits, wide


class DNI(Online):
    r"""Synthetic gradients: a linear guess of what the state will cost, now and later, learned by bootstrapping.

    $$\hat c_t = A\, \tilde h_t, \quad \tilde h_t = [s_t; y^*_t; 1], \qquad g_t = \hat c_t\, I_t, \qquad
      A \leftarrow A - \eta\, (\hat c_t - \delta_t - A' \tilde h_{t+1}\, D_{t+1})\, \tilde h_t^\top$$

    A is a leaf of the algorithm and learns through the model's own optimiser, from gradients: $(\hat c_t - \delta_t)
    \tilde h_t^\top$ at step t, and what only the step after can tell, $-A' \tilde h_{t+1} D_{t+1} \tilde h_t^\top$,
    then (after a reset there is nothing that follows). $A'$ follows A slowly, $A' \leftarrow A' + \tau (A - A')$, so
    that the target stands still; it is part of the trace, one for each stream, and starts at A. All streams share A,
    and a reset leaves it alone. It starts at zero: at first nothing learns but A.

    - `slowness`: 1/τ >= 1, in steps;
    - `context_size`: the length of y*, which the layer takes as `layer(carry, x, context=y)`, in a loop of your own; 0:
      none.

    Give A a rate of its own when the rest learns by plain descent: its error is squared, and its inputs are not
    normalised (`optax.multi_transform`, by `jax.tree.map` over the model's leaves, `model...algorithm.weight`).

    For every cell: it needs two backward products a step. Raises `ValueError` for sizes out of range.

    Reference: Jaderberg et al., Decoupled neural interfaces using synthetic gradients, 2017 (1608.05343); in this form
    Marschall et al., 2020 (1907.02649).
    """

    weight: Float[Array, "rows features"] | None = None
    slowness: float = eqx.field(static=True, default=10.0)
    context_size: int = eqx.field(static=True, default=0)

    @property
    def learns(self):
        return True

    def __check_init__(self):
        if not self.slowness >= 1:
            raise ValueError(f"DNI(slowness=1/τ) needs 1/τ >= 1, got {self.slowness!r}.")
        if isinstance(self.context_size, bool) or not isinstance(self.context_size, int) or self.context_size < 0:
            raise ValueError(
                f"DNI(context_size) is the length of the context, an integer >= 0, got {self.context_size!r}."
            )

    def bind(self, core, state, x):
        rows = jax.eval_shape(lambda s: to_rows(wide(s)), state)
        shape = (rows.shape[0], rows.shape[0] + self.context_size + 1)
        if self.weight is None:
            return dataclasses.replace(self, weight=jnp.zeros(shape, rows.dtype))
        if jnp.shape(self.weight) != shape:
            raise ValueError(f"DNI(weight=...) has shape {jnp.shape(self.weight)}, this cell needs {shape}.")
        return self

    def _bound(self) -> Array:
        if self.weight is None:
            raise ValueError("DNI was used before it knew its cell: give it to sg.Recurrent(cell, algorithm).")
        return self.weight

    def init(self, core, state, *, key):
        del key
        # No step before the first: with h̃ = 0 its regression has no gradient.
        weight = self._bound()
        return jnp.array(weight, copy=True), jnp.zeros(weight.shape[1], weight.dtype)

    def advance(self, core, trace, state, x, context):
        (slow, before), weight = trace, self._bound()
        new, _, pull = products(core, state, x)
        features = self._features(new, context)
        target = cotangent_to_rows(pull(rows_to_cotangent(slow @ features, wide(new)))[1])
        guess = weight @ features
        guessed = pull(rows_to_cotangent(guess, wide(new)))[0]
        known = jnp.outer(guess, features) - jnp.outer(target, before)
        slow = slow + (weight - slow) / self.slowness
        return new, (slow, features), (guessed, features, known)

    def pullback(self, core, residual, cotangent):
        guessed, features, known = residual
        delta = cotangent_to_rows(wide(cotangent))
        by_weight = known - jnp.outer(delta, features)
        own = eqx.tree_at(lambda dni: dni.weight, self, by_weight.astype(self._bound().dtype))
        return own, as_gradient(guessed, core)

    def _features(self, state, context):
        dtype = self._bound().dtype
        parts = [to_rows(wide(state)).astype(dtype)]
        if self.context_size:
            if context is None or jnp.shape(context) != (self.context_size,):
                raise ValueError(
                    f"DNI(context_size={self.context_size}) needs layer(carry, x, context=y) with y of shape "
                    f"({self.context_size},), got {None if context is None else jnp.shape(context)}."
                )
            parts.append(jnp.asarray(context, dtype))
        return jnp.concatenate([*parts, jnp.ones(1, dtype)])

    def traits(self, core):
        rows, features = self._bound().shape
        found = traits(
            core,
            bias="biased",
            reason="a learned guess stands for the gradient of all that follows",
            exact_at_one_step=False,
            kept=rows * features + features,
            flops=8 * core.structure.parameters + 8 * rows * features,
            temporaries=core.structure.parameters + rows * features,
            layout="a slow copy of the guess, and the features of the last step",
            reference="Jaderberg et al. 2017, arXiv 1608.05343",
        )
        return dataclasses.replace(
            found, bytes=found.kept * self._bound().dtype.itemsize
        )  # real, also of complex states


def cotangent_to_rows(cotangent):
    """A cotangent of the state as a real vector: that of the real and imaginary parts."""
    return to_rows(jax.tree.map(jnp.conj, cotangent))


def rows_to_cotangent(rows, like):
    """The inverse of `cotangent_to_rows`."""
    return jax.tree.map(jnp.conj, from_rows(rows, like))
