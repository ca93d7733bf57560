"""What an estimator is: a transform of the loss of one step into an estimate of its gradient."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
from jaxtyping import Array, Bool, PRNGKeyArray, PyTree


class Estimator(eqx.Module):
    """Turns the loss of a step into an estimate of its gradient, with a memory of its own.

    Of `sg.Learner(..., estimator=...)`, for one stream."""

    def check(self, model: Any) -> None:
        """Raise `TypeError` for a model whose layers do not fit."""
        del model

    @abc.abstractmethod
    def init(self, trained: PyTree[Array], carry: PyTree, *, key: PRNGKeyArray) -> PyTree:
        """What is kept before the first step, from the trained parameters and a carry of the model."""

    @abc.abstractmethod
    def estimate(
        self,
        objective: Callable[[PyTree, PyTree], tuple[Array, Any]],
        trained: PyTree[Array],
        carry: PyTree,
        kept: PyTree,
        *,
        reset: Bool[Array, ""],
        begins: Bool[Array, ""],
        restart: Callable[[PyTree], PyTree],
    ) -> tuple[tuple[Array, Any], PyTree[Array], PyTree]:
        """One step.

        - `objective(trained, carry) -> (loss, aux)`, `aux[0]` the new carry; `carry` has been restarted if need be;
        - `reset`: whether a sequence begins with this step, and then `restart(carry)` makes any other carry anew;
        - `begins`: whether a window of `update_every` steps begins.

        Returns `objective(trained, carry)`, the gradient, and what is kept."""


class Differentiate(Estimator):
    """The gradient itself: the online gradient, for layers that learn by traces."""

    def init(self, trained, carry, *, key):
        del trained, carry, key
        return ()

    def estimate(self, objective, trained, carry, kept, *, reset, begins, restart):
        del reset, begins, restart
        value, gradient = eqx.filter_value_and_grad(lambda trained: objective(trained, carry), has_aux=True)(trained)
        return value, gradient, kept
