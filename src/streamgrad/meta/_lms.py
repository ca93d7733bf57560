r"""Meta-learning through a least-mean-squares learner, as a recurrence like any other.

The state holds the readout weights w, that LMS changes at every step; the parameters θ are what shapes this
learning: a representation, or the step sizes. The influence of θ on w is then an influence as of any recurrence, and
the same algorithms keep it: nothing here knows of traces.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._base.dtypes import default_dtype
from ..cells import Cell
from ..cells._cell import cast_input, check_sizes
from ..cells._function import by_unit
from ..cells._function_core import FunctionCore, Seeing


def _lms(weight, feature, target, others, step_size):
    """The new weight of each unit and its part of the prediction; `others`: what the others' parts sum to."""
    part = weight * feature
    return weight + step_size * (target - (others + part)) * feature, part


def _parted(x, state):
    """x_t and the target, in the precision of the weights."""
    x = cast_input(x, state["weight"].dtype)
    return x[:-1], x[-1]


def _others(part):
    """For each unit what the parts of all others sum to: it does not depend on the unit itself."""
    return jnp.sum(part) - part


class _Learner(Cell):
    """A cell whose state holds the weights of a linear readout and its parts of the prediction, unit by unit."""

    def output(self, state, x) -> Float[Array, " 1"]:
        """The prediction, made before the target was seen."""
        return jnp.sum(state["part"], keepdims=True)

    def _core(self, parameters, step) -> FunctionCore:
        structure, groups = by_unit(parameters, self.init_state())
        return FunctionCore(parameters, step, structure, groups)


class LMS(_Learner):
    r"""A representation trained for the learning of an LMS readout on it: the columns of `cell`, and readout weights w.

        h_t = columns(θ, h_{t-1}, x_t)        y_t = ⟨w_{t-1}, h_t⟩        w_t = w_{t-1} + α (target_t - y_t) h_t

    The input is [x_t, target_t]; the output y_t, (1,), does not depend on this step's target. The meta-gradient is the
    online gradient of a loss of y through h *and* w:

    - `sg.RTRL()`: exact, with every influence of a column on the weights of the others;
    - `sg.SnAp(1)`: O(parameters): T and TW, the effects of θ on its own column's h and w,
      `TW ← TW + α δ T - α h (w T + h TW)`, and δ (w T + h TW): the estimate of the reference. It drops the effect on
      other columns' weights, which is not zero even for independent columns (they share the error δ).

    - `cell`: one whose output shows one number for each of its units (LSTM, GRU, `FeatureColumns`, ...), and whose
      parameters have units as their last axis; `step_size`: α > 0.

    State: the cell's, `weight` and `part` (units,). Raises `TypeError` for a cell whose units cannot be told apart.

    Reference: Javed, White & Sutton, 2021 (2103.05787).
    """

    cell: Cell
    step_size: float = eqx.field(static=True)
    in_size: int = eqx.field(static=True)

    def __init__(self, cell: Cell, *, step_size: float):
        _check_step_size(step_size)
        if any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(cell.init_state())):
            raise TypeError(
                f"LMS expects a cell with a real state, got {type(cell).__name__}: use LSTM, GRU, FeatureColumns."
            )
        units = cell.core().structure.units
        if cell.out_size != units:
            raise TypeError(
                f"LMS expects a cell that shows one number for each unit, got {cell.out_size} outputs of {units} units."
            )
        for path, leaf in jax.tree_util.tree_leaves_with_path(eqx.filter(cell, eqx.is_inexact_array)):
            if leaf.shape[-1:] != (units,):
                raise TypeError(
                    f"LMS expects parameters with the {units} units as their last axis, got "
                    f"{jax.tree_util.keystr(path)} of shape {leaf.shape}."
                )
        # Refused here, and not at the first step, when its units cannot be told apart.
        jax.eval_shape(lambda: cell.core().seen(cell.init_state(), jnp.zeros(cell.in_size)))
        self.cell, self.step_size, self.in_size = cell, float(step_size), cell.in_size + 1

    def core(self):
        return self._core(self.cell, Seeing(_Represented(self.step_size), _seen))

    def init_state(self):
        state = self.cell.init_state()
        zeros = jnp.zeros(self.cell.out_size, jax.tree.leaves(state)[0].dtype)
        return {"cell": state, "part": zeros, "weight": zeros}


@dataclasses.dataclass(frozen=True)
class _Represented:
    step_size: float

    def __call__(self, cell, state, x, seen):
        x, target = _parted(x, state)
        of_columns, others = seen
        new = cell.core().apart(state["cell"], x, of_columns)
        weight, part = _lms(state["weight"], cell.output(new, x), target, others, self.step_size)
        return {"cell": new, "part": part, "weight": weight}


def _seen(cell, state, x):
    """What the columns see of each other, and of the prediction that they share."""
    core, (x, _) = cell.core(), _parted(x, state)
    feature = cell.output(core(state["cell"], x), x)
    return core.seen(state["cell"], x), _others(state["weight"] * feature)


class StepSizes(_Learner):
    r"""A step size for each weight of LMS, learned online: $α_i = e^{β_i}$.

        y_t = ⟨w_{t-1}, x_t⟩        w_t = w_{t-1} + e^β ∘ (target_t - y_t) x_t

    The input is [x_t, target_t], the output y_t, (1,). `sg.SnAp(1)` keeps the effect of each step size on its own
    weight: IDBD (without its clipping at 0). `sg.RTRL()` keeps the effect on all weights.

    - `in_size`: of x; `step_size`: α at first, for all weights.

    Parameters: `log_step_size`, β (in_size,). State: `weight` and `part` (in_size,).

    Reference: Sutton, Adapting bias by gradient descent: an incremental version of delta-bar-delta, 1992.
    """

    log_step_size: Float[Array, " inputs"]
    in_size: int = eqx.field(static=True)

    def __init__(self, in_size: int, *, step_size: float, dtype=None):
        check_sizes(in_size=in_size)
        _check_step_size(step_size)
        self.log_step_size = jnp.full(in_size, np.log(step_size), default_dtype(dtype))
        self.in_size = in_size + 1

    def core(self):
        return self._core(self.log_step_size, Seeing(_stepped, _shared))

    def init_state(self):
        zeros = jnp.zeros_like(self.log_step_size)
        return {"part": zeros, "weight": zeros}


def _stepped(log_step_size, state, x, others):
    x, target = _parted(x, state)
    weight, part = _lms(state["weight"], x, target, others, jnp.exp(log_step_size))
    return {"part": part, "weight": weight}


def _shared(log_step_size, state, x):
    del log_step_size
    return _others(state["weight"] * _parted(x, state)[0])


def _check_step_size(step_size: Any) -> None:
    if not step_size > 0:
        raise ValueError(f"step_size must be positive, got {step_size}.")
