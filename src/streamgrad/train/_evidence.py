"""What one step tells an update about the parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from ._streams import total

if TYPE_CHECKING:
    from ._guard import Guard


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a rule reads from the predictions y and the signal that came; `lead` is the axis of streams, if any.

    - `there`: whether something came, (*lead,); `loss`: of each stream, NaN where nothing came;
    - `slope`: ∂(sum of losses)/∂y, zero where nothing came; None for a rule without a loss;
    - `error`, `given`: y* - y of each output, 0 where it is missing, and whether it came; None where a rule has none;
    - `fisher`, `weight`, `reach`: of the errors, as in `Errors`;
    - `discount`, `decay`: γ, and γλ of eligibility, of each prediction; None for a rule without.
    """

    there: Bool[Array, "*lead"]
    loss: Any = None
    slope: Any = None
    error: Any = None
    given: Any = None
    fisher: Any = None
    weight: Any = None
    reach: Any = None
    discount: Any = None
    decay: Any = None


@dataclasses.dataclass(frozen=True)
class Evidence:
    """A finding, and how the predictions depend on the trained parameters.

    - `pull`: a cotangent of y to the gradient, summed over streams: for updates that follow a gradient;
    - `sensitivity`: what `Update.sensitivity` made of each stream's own pullback, for all others;
    - `estimate`: the gradient itself, where an estimator knows nothing else;
    - `untouched`: which parameters no gradient can reach, None where that is not known;
    - `told_by_row`: of which parameters the first row of the gradient tells whether all of it is finite, None: of none;
      `closely`: whether this step is looked at whole all the same;
    - `rare`: whether a gradient is asked for only where something is given: `pull` is dear beside a step;
    - `streams`: their number, None for one; `due`: whether this step ends a window of `update_every` steps.
    """

    finding: Finding
    y: Any
    streams: int | None
    due: Bool[Array, ""] | bool = True
    pull: Callable[[Any], PyTree] | None = None
    sensitivity: PyTree = None
    estimate: PyTree = None
    untouched: PyTree = None
    told_by_row: PyTree = None
    closely: Bool[Array, ""] | bool = True
    rare: bool = False

    @property
    def given(self) -> Bool[Array, ""]:
        """Whether there is anything to learn from."""
        return self.finding.there.any()

    @property
    def loss(self) -> Array:
        """The loss of all streams together."""
        return total(self.finding.loss, self.finding.there)

    @property
    def value(self) -> Array:
        """The mean loss of the streams that have one."""
        if self.streams is None:
            return self.loss
        return self.loss / jnp.maximum(self.finding.there.sum(), 1).astype(self.loss.dtype)

    def kept(self, new: PyTree, old: PyTree) -> PyTree:
        """The new parameters, and the old ones where no gradient reaches: neither decay nor noise moves those."""
        if self.untouched is None:
            return new
        return jax.tree.map(lambda new, old, stays: old if stays else new, new, old, self.untouched)

    def read_from(self, parameters: PyTree, same: PyTree) -> Evidence:
        """The evidence with a pullback that reads the parameters from other arrays of the same values. Where those are
        about to be overwritten, the compiler would keep a copy of what it read of the former."""
        at = {id(leaf): k for k, leaf in enumerate(jax.tree.leaves(parameters))}
        new = jax.tree.leaves(same)
        pull = jax.tree.map(lambda leaf: new[at[id(leaf)]] if id(leaf) in at else leaf, self.pull)
        return dataclasses.replace(self, pull=pull)

    def sound(self, guard: Guard, gradient: PyTree) -> Bool[Array, ""]:
        """Whether the guard lets the step be learned from. It looks at all of the gradient, or at the first row of what
        a row tells of: a look at all of it would write it to memory and read it again."""
        if self.told_by_row is None or not guard.by_row:
            return guard.sound(self.loss, self.given, gradient)
        part = jax.tree.map(lambda g, told: g[:1] if told else g, gradient, self.told_by_row)
        # Made again within the branch: one made outside would be written to memory for it at every step.
        whole = lambda: guard.sound(self.loss, self.given, self.gradient())
        return jax.lax.cond(self.closely, whole, lambda: guard.sound(self.loss, self.given, part))

    def gradient(self) -> PyTree:
        """The gradient of the loss, its mean over the streams that have one."""
        gradient = self.estimate if self.pull is None else self.pull(self.finding.slope)
        if self.streams is None:
            return gradient
        count = jnp.maximum(self.finding.there.sum(), 1)
        return jax.tree.map(lambda g: g / count.astype(g.dtype), gradient)
