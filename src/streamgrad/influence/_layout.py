"""How a structured influence J is laid out in memory: the contract of the layouts."""

from __future__ import annotations

import abc
from typing import Generic, TypeVar

import equinox as eqx
import jax
from jaxtyping import Array, PyTree

from ..cells import Core

C = TypeVar("C", bound=Core)


class Layout(abc.ABC, Generic[C]):
    """A static, hashable plan of how J is kept. The residual of `advance` is the new trace itself."""

    @abc.abstractmethod
    def init(self, core: C) -> PyTree[Array]:
        """J before the first step: zeros."""

    @abc.abstractmethod
    def advance(self, core: C, trace: PyTree[Array], state: PyTree[Array], x: Array) -> tuple[PyTree, PyTree]:
        """The new state and `M ∘ (I + D J)`."""

    @abc.abstractmethod
    def pullback(self, core: C, trace: PyTree[Array], cotangent: PyTree[Array]) -> C:
        """`(dL/ds) J`, shaped like the core."""

    def told_by_row(self, core: C) -> tuple[Array, ...]:
        """The arrays of the core whose gradient is finite if its first row is, given moderate states and inputs."""
        del core
        return ()

    def whole(self, core: C, n: int) -> bool:
        """Whether all of the pattern `M_n` is kept."""
        del core, n
        return True

    @abc.abstractmethod
    def flops(self, core: C) -> int:
        """Floating-point operations of one update of J, real ones."""

    def temporaries(self, core: C) -> int:
        """Bytes of temporaries of a step beside J: a product cannot be formed in place."""
        return self.nbytes(core)

    def nbytes(self, core: C) -> int:
        """Bytes that J takes."""
        trace = eqx.filter_eval_shape(self.init, core)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(trace))

    @abc.abstractmethod
    def describe(self) -> str:
        """The layout in a few words."""
