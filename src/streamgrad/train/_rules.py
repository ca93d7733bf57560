"""What is to be learned from a prediction: the loss of a target, or a temporal difference."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ._evidence import Finding
from ._families import Family
from ._scored import scored
from ._streams import total
from ._targets import missing_where, numbers, typed


class Rule(abc.ABC):
    """Reads a finding from predictions and the signal that came with the step."""

    @abc.abstractmethod
    def init(self, lead: tuple[int, ...], dtype: Any) -> Any:
        """What the rule remembers before the first step."""

    @abc.abstractmethod
    def __call__(self, memory: Any, y: Any, signal: Any, reset: Any) -> tuple[Any, Finding]:
        """The memory after the step, and the finding. `reset`: None, or where an episode begins with this step."""

    @abc.abstractmethod
    def wrong(self, finding: Finding) -> Array:
        """What a caller is told of the error, NaN where nothing came."""

    def typed(self, y: Any, signal: Any) -> Any:
        """The signal with a type that can say "missing"."""
        del y
        return signal

    def score(self, y: Any, signal: Any) -> tuple[Array, Array]:
        """The loss of each stream, NaN where nothing came, and whether something came: for late signals and windows."""
        raise TypeError(f"{type(self).__name__} scores no prediction by itself: leave delay and windows out.")

    def without(self, flag: Array, y: Any, signal: Any) -> Any:
        """The signal of the prediction y, missing where the flag is set."""
        raise TypeError(f"{type(self).__name__} cannot leave out a signal: leave delay and windows out.")

    def numbers(self, y: Any, signal: Any) -> Any:
        """The signal as seen by parts of the model that fit themselves; None for rules without one."""
        del y, signal

    def forget(self, memory: Any, fault: Array, clear: Callable[[Array], Array]) -> Any:
        """The memory of streams at fault as it was before the first step."""
        del fault, clear
        return memory

    def by_stream(self, memory: Any) -> Any:
        """What of the memory may be not finite."""
        return memory


class Loss(Rule):
    """A loss of prediction and target, scored at once. A target that is NaN is missing, entry by entry.

    - `family`: of the loss, for updates that learn from errors and not from a gradient.
    """

    def __init__(self, loss: Callable[[Any, Any], Array], streams: int | None = None, family: Family | None = None):
        self.loss, self.streams, self.family = loss, streams, family

    def init(self, lead, dtype):
        del lead, dtype
        return ()

    def score(self, y, signal):
        one = lambda y, target: scored(self.loss, y, target)
        return one(y, signal) if self.streams is None else jax.vmap(one)(y, signal)

    def __call__(self, memory, y, signal, reset):
        del reset

        def together(y):
            loss, there = self.score(y, signal)
            # The sum, so that algorithms see each stream's own cotangent; the mean is taken of gradients.
            return total(loss, there), (loss, there)

        slope, (loss, there) = jax.grad(together, has_aux=True)(y)
        if self.family is None:
            return memory, Finding(there, loss, slope)
        each = self.family if self.streams is None else jax.vmap(self.family)
        return memory, Finding(there, loss, slope, **each(y, self.typed(y, signal))._asdict())

    def wrong(self, finding):
        return finding.loss

    def typed(self, y, signal):
        return typed(self.loss, y, signal)

    def without(self, flag, y, signal):
        return missing_where(flag, self.typed(y, signal))

    def numbers(self, y, signal):
        return numbers(y, self.typed(y, signal))


class Predicted(NamedTuple):
    """`prediction`: the last one; `begun`: whether it may be learned from."""

    prediction: Float[Array, "*lead predictions"]
    begun: Bool[Array, "*lead"]


class TemporalDifference(Rule):
    """The temporal difference δ_t = c_t + γ_t y_t - y_{t-1} of a signal (cumulant, γ, λ). Where γ or λ is None it is
    that of the rule."""

    def __init__(self, gamma: Any, lam: Any, predictions: int):
        self.gamma, self.lam, self.predictions = gamma, lam, predictions

    def init(self, lead, dtype):
        return Predicted(jnp.zeros((*lead, self.predictions), dtype), jnp.zeros(lead, bool))

    def __call__(self, memory, y, signal, reset):
        cumulant, gamma, lam = signal
        filled = lambda given, own: jnp.broadcast_to(jnp.asarray(own if given is None else given, y.dtype), y.shape)
        gamma, lam = filled(gamma, self.gamma), filled(lam, self.lam)
        if reset is not None:  # the sum of the episode before ends here
            gamma = jnp.where(reset[..., None], 0, gamma)
        given = memory.begun[..., None] & jnp.isfinite(cumulant)
        error = jnp.where(given, cumulant.astype(y.dtype) + gamma * y - memory.prediction, 0)
        # Where an episode begins γ is 0, and the traces start anew.
        finding = Finding(there=given.any(-1), error=error, given=given, discount=gamma, decay=gamma * lam)
        return Predicted(y, jnp.ones_like(memory.begun)), finding

    def wrong(self, finding):
        return jnp.where(finding.given, finding.error, jnp.nan)

    def forget(self, memory, fault, clear):
        return Predicted(clear(memory.prediction), memory.begun & ~fault)

    def by_stream(self, memory):
        return memory.prediction
