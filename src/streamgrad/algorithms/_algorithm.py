"""What a learning algorithm is: a way of keeping the influence J = ds/dθ small."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar, Literal, Self

import equinox as eqx
import jax
from jaxtyping import Array, PRNGKeyArray, PyTree

from ..cells import Core
from ._once import once
from ._unroll import Starts, everywhere, unroll


class Carry(eqx.Module):
    """What a recurrent layer carries from one step to the next.

    - `state`: of the recurrence;
    - `trace`: whatever the algorithm keeps of the past, () when nothing.
    """

    state: PyTree[Array]
    trace: PyTree[Array]


@dataclasses.dataclass(frozen=True)
class Traits:
    """What an algorithm promises on a given core: computed, and held to by the tests.

    - `bias`: of the gradient for frozen weights; `reason`: the proof or the cause, a sentence;
    - `exact_at_one_step`: whether the gradient of the first step equals backprop's;
    - `zero_leaves`: patterns of leaf names whose gradient is zero by definition;
    - `kept`: numbers that stand for J: entries inside the pattern, or those of a sketch; `full`: entries of J at
      large (a complex entry counts once);
    - `bytes`: allocated for the trace; `temporaries`: bytes that its update needs beside it;
    - `flops`: of one trace update, multiply and add counted apart;
    - `layout`: how the trace is laid out; `reference`: where the algorithm comes from.
    """

    bias: Literal["exact", "unbiased", "biased"]
    reason: str
    exact_at_one_step: bool
    zero_leaves: tuple[str, ...]
    kept: int
    full: int
    bytes: int
    temporaries: int
    flops: int
    layout: str
    reference: str


class Algorithm(eqx.Module):
    """A learning algorithm: hyperparameters, and the leaves that it learns itself, if any.

    `credit` says where the past lives: in the `"trace"`, so that `jax.grad` of one step's loss is the online
    gradient, or in the `"carry"`, so that a window of steps must be differentiated (`BPTT`).
    """

    credit: ClassVar[Literal["trace", "carry"]] = "trace"

    def __eq__(self, other: object) -> Any:
        """Whether both have the same settings; a cell that one was bound to does not count."""
        return type(self) is type(other) and self._settings == other._settings  # pyright: ignore[reportAttributeAccessIssue]

    def __hash__(self) -> int:
        return hash((type(self), self._settings))

    @property
    def _settings(self) -> tuple[Any, ...]:
        given = (field for field in dataclasses.fields(self) if field.metadata.get("static") and field.repr)
        return tuple((field.name, getattr(self, field.name)) for field in given)

    @property
    def defers(self) -> bool:
        """Whether a gradient is dear beside a step, so that a driver asks for one only where there is a target."""
        return False

    @property
    def learns(self) -> bool:
        """Whether it has leaves of its own that an optimiser moves; those of any other are held fixed."""
        return False

    def bind(self, core: Core, state: PyTree, x: Any) -> Self:
        """Fit the algorithm to a core, from shapes alone: make patterns, refuse what does not fit."""
        del core, state, x
        return self

    @abc.abstractmethod
    def init(self, core: Core, state: PyTree[Array], *, key: PRNGKeyArray) -> PyTree[Array]:
        """The trace before the first step."""

    @abc.abstractmethod
    def step(self, core: Core, carry: Carry, x: Array, *, context: PyTree | None = None) -> Carry:
        """One step of the recurrence and of the trace."""

    @abc.abstractmethod
    def traits(self, core: Core) -> Traits:
        """What holds of this algorithm on this core."""

    def told_by_row(self, core: Core) -> tuple[Array, ...]:
        """The arrays of the core whose gradient is finite if its first row is, given moderate states and inputs: a
        step then need not be looked at whole."""
        del core
        return ()

    # A chunk at once, for frozen weights.

    def unroll(self, core: Core, state: PyTree[Array], xs: Array, starts: Starts = None) -> PyTree[Array]:
        """The states after every step of a chunk, (time, ...), without traces. Their gradient is the sum of this
        algorithm's online gradients from the chunk's start on: weights are frozen and `state` gets none.

        `starts`: bool (time,), where a sequence begins anew, with the state it begins from.

        Raises `TypeError` for an algorithm whose gradient is not a pass backwards in time."""
        self.check_unroll(core)
        return unroll(self, core, state, xs, starts)

    def check_unroll(self, core: Core) -> None:
        """Raise `TypeError` if this algorithm has no chunked gradient on this core."""
        del core
        if type(self).backward_credit is Algorithm.backward_credit:
            raise self._no_chunk()

    def _no_chunk(self) -> TypeError:
        return TypeError(
            f"{type(self).__name__} has no chunked gradient: it is not one pass backwards in time. Run it one step at "
            "a time, or choose SnAp(1), RTRL, TBPTT, Spatial, Frozen or BPTT."
        )

    def backward_credit(self, core: Core, before: PyTree, xs: Array, delta: PyTree, starts: Array | None) -> PyTree:
        """ε, the credit of each step of a chunk, from δ, dL/ds of each step: see `algorithms/_unroll.py`.

        `before`: the state before each step; `starts`: where a sequence begins anew."""
        raise self._no_chunk()

    def gradient_source(self, core: Core) -> PyTree[str]:
        """For each parameter of the core, whether its chunked gradient is through `"time"` (ε I), of the step
        alone, `"now"` (δ I), or `"nothing"`."""
        return everywhere(core, "time")


def instantaneous(core: Core, state: PyTree[Array], x: Array, cotangent: PyTree[Array]) -> Core:
    """dL/ds times ∂f/∂θ of this step alone, shaped like the core."""
    parameters, fixed = eqx.partition(core, eqx.is_inexact_array)
    return jax.vjp(lambda p: eqx.combine(p, fixed)(state, x), parameters)[1](cotangent)[0]


class Online(Algorithm):
    """An algorithm whose past lives in its trace. A subclass writes `advance` and `pullback`, apart because
    in a stack dL/ds exists only after every layer has advanced; `step` is final.

    The backward rule of `step`: the core gets `pullback` of dL/ds, the input gets the ordinary derivative
    of this step, and the old carry gets nothing. It has no derivative itself: a second one is refused.
    """

    @abc.abstractmethod
    def advance(
        self, core: Core, trace: PyTree[Array], state: PyTree[Array], x: Array, context: PyTree | None
    ) -> tuple[PyTree[Array], PyTree[Array], PyTree[Array]]:
        """Along time: the new state, the new trace, and what `pullback` needs."""

    @abc.abstractmethod
    def pullback(
        self, core: Core, residual: PyTree[Array], cotangent: PyTree[Array]
    ) -> tuple[Self | None, Core | None]:
        """Across space: dL/ds to gradients shaped like the algorithm and the core (None: all zero)."""

    def step(self, core: Core, carry: Carry, x: Array, *, context: PyTree | None = None) -> Carry:
        return _online_step((self, core, x), jax.lax.stop_gradient(carry), context)


@eqx.filter_custom_vjp
def _online_step(differentiable, carry, context):
    algorithm, core, x = differentiable
    state, trace, _ = algorithm.advance(core, carry.trace, carry.state, x, context)
    return Carry(state, trace)


@_online_step.def_fwd
def _online_fwd(perturbed, differentiable, carry, context):
    del perturbed
    algorithm, core, x = once(differentiable)
    state, trace, residual = algorithm.advance(core, carry.trace, carry.state, x, context)
    return Carry(state, trace), (residual, carry.state)


@_online_step.def_bwd
def _online_bwd(residuals, cotangent, perturbed, differentiable, carry, context):
    del carry, context
    algorithm, core, x = differentiable
    residual, state = residuals
    new = eqx.filter_eval_shape(core, state, x)
    by_state = jax.tree.map(
        lambda shape, ct: jax.numpy.zeros(shape.shape, shape.dtype) if ct is None else ct,
        new,
        cotangent.state,
        is_leaf=lambda leaf: leaf is None,
    )
    by_algorithm, by_core = algorithm.pullback(core, residual, by_state)
    by_x = core.by_input(state, x, by_state) if perturbed[2] else None
    return (
        eqx.filter(algorithm, False) if by_algorithm is None else by_algorithm,
        eqx.filter(core, False) if by_core is None else by_core,
        by_x,
    )
