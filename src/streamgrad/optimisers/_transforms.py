"""Optimisers with a group of their own for recurrent parameters: Optax, arranged for this kind of network."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from ..readout import Readout
from ..recurrent import Recurrent
from ._trained import trained

#: What makes a transformation for a model.
OfModel = Callable[[Any], optax.GradientTransformation]


def recurrent_parameters(model: Any) -> PyTree[bool]:
    """A mask over the model's parameters: whether each learns inside a recurrence: a parameter of a `sg.Recurrent`'s
    cell that enters a unit, and not one of the cell's output (an LRU's ν, θ, γ and B; not C and D). One that no
    gradient trains, as under `sg.Frozen()`, does not."""

    def mark(node):
        if not isinstance(node, Recurrent):
            return jax.tree.map(lambda leaf: False, eqx.filter(node, eqx.is_inexact_array))
        parameters = eqx.filter(node, eqx.is_inexact_array)
        inside = jax.tree.map(lambda leaf, unit: not np.all(unit == -1), parameters.cell, node.cell.parameter_unit())
        return eqx.tree_at(lambda layer: layer.cell, jax.tree.map(lambda leaf: False, parameters), inside)

    inside = jax.tree.map(mark, model, is_leaf=lambda node: isinstance(node, Recurrent))
    return jax.tree.map(lambda inside, moves: inside and moves, inside, _moves(model))


def _moves(model: Any) -> PyTree[bool]:
    """For each parameter of the model, whether an optimiser is to move it."""
    inexact = jax.tree.map(eqx.is_inexact_array, eqx.filter(model, eqx.is_array))
    return eqx.filter(trained(model), inexact)


def adamw(
    learning_rate: float,
    *,
    updates: int | None = None,
    warmup: int = 0,
    recurrent_factor: float = 0.5,
    weight_decay: float = 0.05,
) -> OfModel:
    r"""AdamW in two groups: recurrent parameters learn at `recurrent_factor` times the rate and do not decay.

    Returns a function of the model that makes the transformation, as every learner takes it:
    `sg.Learner(model, sg.optimisers.adamw(1e-3), loss=...)`.

    - `learning_rate`: the highest one; it rises linearly over `warmup` updates and, when `updates` is given, falls as a
      cosine to 0 at the last one;
    - `weight_decay`: of all parameters outside the recurrences, as in AdamW (times the rate); none of what no gradient
      trains.

    Reference: Zucchet et al., 2023 (2305.15947), who train deep LRU networks so.
    """
    if updates is not None and not 0 <= warmup < updates:
        raise ValueError(f"warmup must lie in [0, updates), got {warmup} of {updates} updates.")

    def schedule(top):
        if updates is not None:
            return optax.warmup_cosine_decay_schedule(0.0 if warmup else top, top, warmup, updates)
        return optax.linear_schedule(0.0, top, warmup) if warmup else top

    label = lambda inside, moves: ("recurrent" if inside else "rest") if moves else "still"
    groups: dict[Hashable, optax.GradientTransformation] = {
        "recurrent": optax.adam(schedule(learning_rate * recurrent_factor)),
        "rest": optax.adamw(schedule(learning_rate), weight_decay=weight_decay),
        "still": optax.set_to_zero(),
    }

    def of(model: Any) -> optax.GradientTransformation:
        labels = jax.tree.map(label, recurrent_parameters(model), _moves(model))
        return optax.multi_transform(groups, lambda _: labels)  # a model is callable, and Optax would call it

    return of


def rmsprop(learning_rate: Any, *, decay: float = 0.9999, initial: float = 1.0, eps: float = 1e-8) -> OfModel:
    r"""RMSProp without bias correction, as columnar networks are trained, the readout at α / features.

        v ← β v + (1-β) g²        w ← w - α g / (√v + ε)        in a `sg.Readout` α / its features in the place of α

    Returns a function of the model that makes the transformation, as every learner takes it, and asks it again when the
    model grows: `sg.td.TDLambda(model, sg.optimisers.rmsprop(1e-3), gamma=0.9)`.

    - `learning_rate`: α; `decay`: β; `initial`: v before the first step (1: plain descent at first); `eps`: ε.

    Reference: Javed et al., 2023 (2302.05326).
    """

    def factor(node):
        over = node.weight.shape[1] if isinstance(node, Readout) else 1
        return jax.tree.map(lambda leaf: -1 / over, eqx.filter(node, eqx.is_inexact_array))

    def of(model: Any) -> optax.GradientTransformation:
        factors = jax.tree.map(factor, model, is_leaf=lambda node: isinstance(node, Readout))
        scale = lambda u, f: None if u is None else u * (f * learning_rate)
        scaled = lambda updates, _: jax.tree.map(scale, updates, factors, is_leaf=_is_none)
        return optax.chain(optax.scale_by_rms(decay, eps, initial, eps_in_sqrt=False), optax.stateless(scaled))

    return of


def fractional(learning_rate: float, fractional_rate: float, *, order: float = 0.9) -> optax.GradientTransformation:
    r"""Gradient descent with a term of fractional order beside the plain one.

        w ← w - η g - η_f g |w|^{1-ν} / Γ(2-ν)

    - `learning_rate`: η; `fractional_rate`: η_f; `order`: ν in (0, 1], of the Caputo derivative; with 1 the two terms
      are one.

    The second term is a step whose size grows with the weight; at a weight of 0 there is none. Chain it behind other
    transformations of the gradient as one would `optax.sgd`.

    Raises `ValueError` for an order outside (0, 1]; its update raises one when it is not given the parameters.

    Reference: Khan et al., A novel fractional gradient-based learning algorithm for recurrent neural networks, 2018
    (FBPTT).
    """
    if not 0 < order <= 1:
        raise ValueError(f"fractional(order=ν) needs 0 < ν <= 1, got {order!r}.")
    factor = fractional_rate / math.gamma(2 - order)

    def update(updates, params):
        if params is None:
            raise ValueError("fractional weighs the gradient by the parameters: call update(gradient, state, params).")

        def one(g, w):
            return None if g is None else -g * (learning_rate + factor * jnp.abs(w) ** (1 - order))

        return jax.tree.map(one, updates, params, is_leaf=_is_none)

    return optax.stateless(update)


def _is_none(leaf) -> bool:
    return leaf is None
