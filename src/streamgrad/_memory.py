"""What a learner knows between two steps, and how it is chosen, checked and counted."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ._packing import Packing
from .algorithms import Algorithm, Carry
from .nn import Fixed
from .readout import Fitted


class Output(NamedTuple):
    """What a step returns; of `run`, every leaf has a leading axis of time.

    - `prediction`: of this step's target (with a delay h: of the target that arrives h steps later), made
      before that target was seen;
    - `loss`: of the prediction that was made for the target that arrived now; NaN when none did;
    - `learned`: whether something was learned: False when the target is missing or the step was skipped (of a window
      that is learned from at once, its last step says so).
    """

    prediction: Array
    loss: Float[Array, ...]
    learned: Bool[Array, ...]


@functools.partial(jax.tree_util.register_dataclass, data_fields=["arrays"], meta_fields=["packing"])
class LearnerState:
    """The whole state of a learner, packed into few arrays: a checkpoint of it is complete.

    `steps`, `skipped`: how many steps were taken, and how many updates were left out because the loss or a
    gradient was not finite. A state that was given to `step` or `run` is consumed (its buffers are donated).
    """

    __slots__ = ("arrays", "packing")

    def __init__(self, arrays: tuple[Any, ...], packing: Packing):
        self.arrays, self.packing = arrays, packing

    @property
    def memory(self) -> Any:
        """The parts, a `streamgrad.train.Memory`."""
        return self.packing.unpack(self.arrays)

    @property
    def steps(self) -> int:
        low, high = self.memory.steps
        return int(low) + (int(high) << 32)

    @property
    def skipped(self) -> int:
        return int(self.memory.skipped)


def is_algorithm(node) -> bool:
    return isinstance(node, Algorithm)


def fitted(model):
    """For every array of the model, whether it fits itself."""
    is_fitted = lambda node: isinstance(node, Fitted)
    mark = lambda node: jax.tree.map(lambda _: is_fitted(node), eqx.filter(node, eqx.is_array))
    return jax.tree.map(mark, model, is_leaf=is_fitted)


def untrained(model):
    """For every array of the model, whether no optimiser moves it: it fits itself, or is fixed, as those of an
    algorithm that learns nothing itself."""
    is_own = lambda node: isinstance(node, Fitted | Fixed) or (is_algorithm(node) and not node.learns)
    mark = lambda node: jax.tree.map(lambda _: is_own(node), eqx.filter(node, eqx.is_array))
    return jax.tree.map(mark, model, is_leaf=is_own)


def of_algorithms(model):
    """For every array of the model, whether it is a leaf of an algorithm."""
    mark = lambda node: jax.tree.map(lambda _: is_algorithm(node), eqx.filter(node, eqx.is_array))
    return jax.tree.map(mark, model, is_leaf=is_algorithm)


def total(each, there):
    """The sum over the streams that have a target."""
    return jnp.sum(jnp.where(there, each, 0))


def mean(each, there):
    """The mean over the streams that have a target; 0 when none has."""
    return total(each, there) / jnp.maximum(there.sum(), 1).astype(each.dtype)


def finite(tree) -> Bool[Array, ""]:
    """Whether all is finite, and no sum over rows so large that its square would overflow in an optimiser.

    Summed by a matrix product: XLA's own sums take one number after another on a CPU."""
    ok = jnp.array(True)
    for leaf in jax.tree.leaves(tree):
        rows = leaf.reshape(-1, leaf.shape[-1]) if leaf.ndim > 1 else leaf.reshape(1, -1)
        largest = float(jnp.finfo(leaf.dtype).max) ** 0.5
        ok &= (jnp.abs(jnp.ones((1, len(rows)), leaf.dtype) @ rows) < largest).all()
    return ok


def finite_by_stream(tree, streams):
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    ok = jnp.ones(() if streams is None else (streams,), bool)
    for leaf in leaves:
        ok &= jnp.isfinite(leaf).all(axis=tuple(range(ok.ndim, leaf.ndim)))
    return ok


def is_carry(node) -> bool:
    return isinstance(node, Carry)


def states(carry):
    """The carry without traces: what is small enough to be looked through at every step."""
    return jax.tree.map(lambda node: node.state if is_carry(node) else node, carry, is_leaf=is_carry)


def states_only(carry):
    """The carry of the serving copy: states, and no trace."""
    return jax.tree.map(lambda node: Carry(node.state, ()) if is_carry(node) else node, carry, is_leaf=is_carry)
