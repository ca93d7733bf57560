"""The contract of what moves the parameters."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Bool, PyTree

from ._evidence import Evidence
from ._growth import overlaid
from ._guard import Guard


class Price(NamedTuple):
    """What an update keeps and does.

    - `name`; `blocks`: of a covariance, (how many, of how many parameters); `numbers`: that say the covariance;
    - `multiply_adds`: of a step, without the pullbacks; None where nobody counted them; `pullbacks`: of a step.
    """

    name: str
    blocks: tuple[tuple[int, int], ...] = ()
    numbers: int = 0
    multiply_adds: int | None = None
    pullbacks: int = 1


class Update(abc.ABC):
    """How the trained parameters follow from the evidence of a step: by a gradient, by traces, by a filter."""

    #: None when the gradient of the loss is all that is asked for; else what is kept of a stream's pullback.
    sensitivity: Callable[[Callable[[Array], tuple[PyTree]], Array], PyTree] | None = None

    @abc.abstractmethod
    def init(self, trained: PyTree[Array], lead: tuple[int, ...]) -> Any:
        """What the update remembers before the first step; `lead`: the axis of streams, if any."""

    @abc.abstractmethod
    def __call__(
        self, state: Any, trained: PyTree[Array], evidence: Evidence, guard: Guard
    ) -> tuple[Any, PyTree[Array], Bool[Array, ""]]:
        """The state and the parameters after a step, and whether the step was sound."""

    def check(self, trained: PyTree[Array]) -> None:
        """Raise `TypeError` for parameters that it cannot move, from shapes alone."""
        del trained

    def price(self, state: Any, streams: int = 1) -> Price:
        """What it keeps in such a state, and does in a step of so many streams."""
        del state, streams
        return Price(type(self).__name__)

    def is_sized(self, state: Any) -> bool:
        """Whether the state has all that depends on the shape of the predictions."""
        del state
        return True

    def sized(self, state: Any, trained: PyTree[Array], y: Any, lead: tuple[int, ...]) -> Any:
        """The state with what depends on the shape of the predictions y."""
        del trained, y, lead
        return state

    def parts(self, state: Any) -> tuple[PyTree, PyTree]:
        """What of the state belongs to one stream each, and what all share."""
        return (), state

    def joined(self, by_stream: PyTree, shared: PyTree) -> Any:
        """The state of these parts."""
        del by_stream
        return shared

    def grown(self, state: Any, trained: PyTree[Array], lead: tuple[int, ...]) -> Any:
        """The state of a model that has grown to these trained parameters: by path, what is new starts fresh."""
        return overlaid(self.init(trained, lead), state)
