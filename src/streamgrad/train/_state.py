"""The packed state of a learner, and what its steps return."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.core
import numpy as np
from jaxtyping import Array, Bool, Float

from .._base.owned import refuse_consumed
from .._base.packing import Packing


class Output(NamedTuple):
    """What a step returns; of `run`, every leaf has a leading axis of time.

    - `prediction`: of this step's target (with a delay h: of the target that arrives h steps later), made
      before that target was seen;
    - `loss`: of the prediction that was made for the target that arrived now; NaN when none did;
    - `learned`: whether something was learned: False when the target is missing or the step was skipped (of a window
      that is learned from at once, its last step says so).
    """

    prediction: Array
    loss: Float[Array, " ..."]
    learned: Bool[Array, " ..."]


@functools.partial(jax.tree_util.register_dataclass, data_fields=["arrays"], meta_fields=["packing"])
class LearnerState:
    """The whole state of a learner, packed into few arrays: a checkpoint of it is complete.

    `steps`, `skipped`: how many steps were taken, and how many updates were left out because the loss or a
    gradient was not finite. A state that was given to `step` or `run` is consumed (its buffers are donated).
    """

    __slots__ = ("arrays", "packing")

    def __init__(self, arrays: tuple[Any, ...], packing: Packing):
        self.arrays, self.packing = arrays, packing

    def __repr__(self) -> str:
        if any(not isinstance(leaf, jax.Array) or isinstance(leaf, jax.core.Tracer) for leaf in self.arrays):
            return f"LearnerState({len(self.arrays)} arrays)"
        if any(leaf.is_deleted() for leaf in self.arrays):
            return "LearnerState(consumed by a step)"
        size = sum(leaf.nbytes for leaf in self.arrays)
        return f"LearnerState(steps={self.steps}, skipped={self.skipped}, {size:,} bytes in {len(self.arrays)} arrays)"

    @property
    def memory(self) -> Any:
        """The parts, a `streamgrad.train.Memory`; of a state under `jax.vmap` with its leading axis."""
        try:
            return self.packing.unpack(self.arrays)
        except RuntimeError:
            refuse_consumed(self.arrays, CALL)
            raise

    @property
    def steps(self) -> Any:
        """Steps taken: a number, or an array of them for a state made under `jax.vmap`."""
        try:
            words = _steps(self.packing, self.arrays)
        except (RuntimeError, ValueError):
            refuse_consumed(self.arrays, CALL)
            raise
        low, high = np.moveaxis(np.asarray(words), -1, 0).astype(np.int64)
        return _number(low + (high << 32))

    @property
    def skipped(self) -> Any:
        """Updates left out: a number, or an array of them for a state made under `jax.vmap`."""
        return _number(np.asarray(self.memory.skipped))


#: How a step is called: said where a state was consumed.
CALL = "st, out = learner.step(st, ...)"


@functools.partial(jax.jit, static_argnums=0)
def _steps(packing: Packing, arrays: tuple[Any, ...]) -> Any:
    return packing.unpack(arrays).steps


def _number(array: Any) -> Any:
    return array if np.ndim(array) else int(array)
