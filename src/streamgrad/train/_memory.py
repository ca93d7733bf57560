"""What a learner knows between two steps."""

from __future__ import annotations

from typing import Any, NamedTuple

from jaxtyping import Array, Bool, PRNGKeyArray, PyTree, Shaped


class Memory(NamedTuple):
    """Everything a learner knows, as one pytree.

    `model`: its arrays; `carry`: of the learning copy; `update`, `rule`, `estimate`: what the update, the rule and an
    estimator keep; `broken`: streams that start anew at the next step; `steps`: how many were taken, in two words, low
    first (a long stream has more than one word counts); `phase`: the place within `update_every` steps; `skipped`:
    steps that were left out since something was not finite; `restarts`: carries begun anew for it; `key`: of fresh
    carries; `window`: past steps that are
    differentiated at once; `pending`: what waits for late targets, and the serving copy's carry.
    """

    model: PyTree
    carry: PyTree
    update: Any
    rule: Any
    broken: Bool[Array, " ..."]
    steps: Shaped[Array, " 2"]
    phase: Shaped[Array, ""]
    skipped: Shaped[Array, ""]
    key: PRNGKeyArray
    estimate: PyTree = ()
    window: PyTree = ()
    pending: PyTree = ()
    restarts: Any = ()

    @property
    def optimiser(self) -> Any:
        """The state of an Optax optimiser, () of another update."""
        return getattr(self.update, "optimiser", ())


class Told(NamedTuple):
    """What a step tells: the prediction `y` of the present, how `wrong` the one was whose signal came (its loss or its
    error, NaN where none came), and where something was `learned`."""

    y: Any
    wrong: Any
    learned: Bool[Array, "*lead"]


def counted(steps):
    """One step more, in two words, low first."""
    low, high = steps
    low = low + 1
    return low, high + (low == 0).astype(high.dtype)
