"""What does not go together is refused, from shapes alone, before anything is learned."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base.dependence import dependence
from ..optimisers._masks import fitted
from ._memory import Memory
from ._program import Program
from ._targets import check_target


def check(program: Program, memory: Memory, x: Any, target: Any) -> None:
    """Refuse a model, a loss and a target that do not go together."""
    carry, prediction = eqx.filter_eval_shape(program.forward, memory.model, memory.carry, x)
    if jax.tree.structure(carry) != jax.tree.structure(memory.carry):
        raise TypeError("The model returned a carry of another structure than init(key=...) gave.")
    target = program.rule.typed(prediction, target)
    check_target(prediction, target)
    each, _ = eqx.filter_eval_shape(program.rule.score, prediction, target)
    if each.shape != program.lead:
        raise ValueError(
            f"The loss must be a scalar for each step, got shape {each.shape[len(program.lead) :]}: take the mean, as "
            "sg.losses.mse does."
        )
    program.update.check(eqx.filter(memory.model, program.trained))
    own = jax.tree.leaves(fitted(program.model(memory.model)))

    def fit(prediction, target):
        target = program.rule.numbers(prediction, target)
        return jax.tree.leaves(program.fit(memory.model, memory.carry, target, jnp.array(True)))

    seen = len(jax.tree.leaves(prediction))  # the target's leaves are the inputs behind these
    if any(own) and not dependence(jax.make_jaxpr(fit)(prediction, target).jaxpr)[own, seen:].any(1).all():
        raise ValueError(
            "A part of the model fits itself from targets (sg.RLS), but the model's fit(carry, target) does "
            "not reach it: put it last in sg.nn.Sequential, or give your model a fit that calls it."
        )


def check_key(key: Any) -> Any:
    """The key. Raises `TypeError` for what is none."""
    dtype = getattr(key, "dtype", None)
    if dtype is None or not (jnp.issubdtype(dtype, jax.dtypes.prng_key) or np.dtype(dtype) == np.uint32):
        raise TypeError(f"init expects a key, such as key=jax.random.key(0), got {key!r}.")
    return key


def check_reset(reset: Any, lead: tuple[int, ...]) -> None:
    """Raise `TypeError` for a reset that is no truth value, `ValueError` for one of another shape than the streams'."""
    if reset.dtype.kind not in "bui":
        raise TypeError(
            f"reset says whether x begins a new episode, True or False, got {reset.dtype}: compare it first, such as "
            "reset > 0."
        )
    if reset.shape not in ((), lead):
        raise ValueError(f"The reset of a step must have shape {lead}, got {reset.shape}.")


def check_share(name: str, value: float, *, below_one: bool = False) -> float:
    """The value as a float; `ValueError` when it lies outside of [0, 1] (or of [0, 1))."""
    inside = 0 <= value < 1 if below_one else 0 <= value <= 1
    if not inside:
        raise ValueError(f"{name} must lie in [0, 1{')' if below_one else ']'}, got {value}.")
    return float(value)
