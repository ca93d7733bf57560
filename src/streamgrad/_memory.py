"""What a learner knows between two steps, and how it is chosen, checked and counted."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree, Shaped

from ._packing import Packing
from ._persistent import Persistent
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


class Memory(NamedTuple):
    """Everything a learner knows, as one pytree.

    `model`: the arrays of the model; `carry`: of the learning copy; `optimiser`: its state;
    `gradient`: the sum so far of `update_every` steps; `window`: past steps, under BPTT; `pending`: inputs,
    resets and predictions that wait for their targets, and the serving copy's carry; `broken`: streams whose
    carry holds something that is not finite, to be reset at the next step; `skipped`: updates left out for that
    reason; `restarts`: carries begun anew for it; `key`: of fresh carries; `steps`: how many were taken, in two
    words, low first (a long stream has more than one word counts); `phase`: the place within `update_every` steps;
    `estimate`: what an estimator keeps; `owed`: gradients of the leaves that algorithms learn themselves, of steps
    without a target, to be added to those of the next step with one.
    """

    model: PyTree
    carry: PyTree
    optimiser: PyTree
    gradient: PyTree
    window: PyTree
    pending: PyTree
    broken: Bool[Array, ...]
    steps: Shaped[Array, 2]
    phase: Shaped[Array, ""]
    skipped: Shaped[Array, ""]
    key: PRNGKeyArray
    estimate: PyTree = ()
    owed: PyTree = ()
    restarts: Any = ()


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
    def memory(self) -> Memory:
        """The parts, unpacked."""
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


def scored(loss, prediction, target):
    """The loss of one prediction, NaN where there is no target, and whether there is one. A NaN (of integers: a
    negative one) is missing, entry by entry."""
    if jnp.issubdtype(target.dtype, jnp.integer):
        there = (target >= 0).all()
        each = loss(prediction, jnp.maximum(target, 0))
    else:
        given = jnp.isfinite(target)
        there = given.any()
        own = jax.lax.stop_gradient(prediction).astype(target.dtype)
        filled = jnp.where(given, target, own).astype(prediction.dtype)
        # A mean over all entries, of which the missing ones are free of error: rescaled to those given.
        share = jnp.maximum(given.sum(), 1) / max(given.size, 1)
        each = loss(prediction, filled)
        each = each / share.astype(each.dtype)
    return jnp.where(there, each, jnp.nan), there


def missing_where(flag, target):
    missing = -1 if jnp.issubdtype(target.dtype, jnp.integer) else jnp.nan
    shape = flag.shape + (1,) * (target.ndim - flag.ndim)
    return jnp.where(flag.reshape(shape), jnp.asarray(missing, target.dtype), target)


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
    """Whether what a restart would begin anew is finite, its squares included: a number like 1e30 is there for ever."""
    is_kept = lambda node: isinstance(node, Persistent)
    leaves = [leaf for leaf in jax.tree.leaves(tree, is_leaf=is_kept) if not is_kept(leaf)]
    ok = jnp.ones(() if streams is None else (streams,), bool)
    for leaf in leaves:
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            largest = float(jnp.finfo(leaf.dtype).max) ** 0.5
            ok &= (jnp.abs(leaf) < largest).all(axis=tuple(range(ok.ndim, leaf.ndim)))
    return ok


def is_carry(node) -> bool:
    return isinstance(node, Carry)


def states(carry):
    """The carry without traces: what is small enough to be looked through at every step."""
    return jax.tree.map(lambda node: node.state if is_carry(node) else node, carry, is_leaf=is_carry)


def states_only(carry):
    """The carry of the serving copy: states, and no trace."""
    return jax.tree.map(lambda node: Carry(node.state, ()) if is_carry(node) else node, carry, is_leaf=is_carry)
