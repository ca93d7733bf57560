"""Updates by eligibility traces."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from .._cpu.order import ordered
from ..optimisers._trained import check_update, updated
from ._update import Price, Update


class TracesState(NamedTuple):
    """`trace`: the eligibility of each trained parameter, (*lead, predictions, ...), or (*lead, ...) of a prediction's
    own rows; `optimiser`: Optax's state."""

    trace: PyTree[Array]
    optimiser: Any


class Traces(Update):
    r"""Accumulating eligibility over all parameters, for errors that are known one step later.

        θ ← optimiser(θ, -δ_t e_{t-1})        all predictions together: the sum over j of δ_j e_j
        e_t = γ_t λ_t e_{t-1} + ∂y_t/∂θ

    - `predictions`: how many the model makes; `own`: which parameters have a row for each prediction of its own.

    Reference: Sutton, 1988; van Seijen et al., 2016 (accumulating traces).
    """

    def __init__(self, optimiser: optax.GradientTransformation, predictions: int, own: PyTree[bool]):
        self.optimiser, self.predictions, self.own = optimiser, predictions, own

    def init(self, trained, lead):
        rows = lambda leaf, own: leaf.shape if own else (self.predictions, *leaf.shape)
        zeros = lambda leaf, own: jnp.zeros((*lead, *rows(leaf, own)), leaf.dtype)
        return TracesState(jax.tree.map(zeros, trained, self.own), self.optimiser.init(trained))

    def check(self, trained):
        check_update(self.optimiser, trained, {}, "TDLambda")

    def price(self, state, streams=1):
        del state, streams
        return Price("eligibility traces and an Optax transformation", pullbacks=self.predictions)

    def sensitivity(self, pull, y):
        """∂y/∂θ: a row for each prediction, or of its own rows the derivative of the sum, which is the same."""
        (together,) = pull(jnp.ones_like(y))
        if self.predictions == 1:
            return together
        (each,) = jax.vmap(pull)(jnp.eye(self.predictions, dtype=y.dtype))
        return jax.tree.map(lambda all, one, own: all if own else one, together, each, self.own)

    def __call__(self, state, trained, evidence, guard):
        there, error, decay = evidence.finding.there, evidence.finding.error, evidence.finding.decay
        over = jnp.maximum(there.sum(), 1).astype(evidence.y.dtype)
        gradient = jax.tree.map(lambda e, own: -self._credited(e, error, own, over), state.trace, self.own)
        moved, optimiser = updated(self.optimiser, gradient, state.optimiser, trained)
        moved = evidence.kept(moved, trained)
        # In place: the weights, then the optimiser's state, which they have read, then the traces, which both have.
        use = evidence.given
        moved = jax.tree.map(guard.choose(use), moved, trained)
        moved, use = ordered((moved, use))
        optimiser = jax.tree.map(guard.choose(use), optimiser, state.optimiser)
        moved, optimiser, decay = ordered((moved, optimiser, decay))
        accumulate = lambda e, slope: self._by_row(decay, e) * e + slope
        trace = jax.tree.map(accumulate, state.trace, evidence.sensitivity)
        return TracesState(trace, optimiser), moved, jnp.array(True)

    def _by_row(self, each, trace):
        """A number for each prediction, (*lead, predictions), broadcastable to a trace of them."""
        lead = each.shape[:-1]
        rows = () if self.predictions == 1 else each.shape[-1:]
        return each.reshape(*lead, *rows, *(1,) * (trace.ndim - len(lead) - len(rows))).astype(trace.dtype)

    def _credited(self, trace, error, own, over):
        """The sum of δ e over predictions that share a parameter, and the mean over streams."""
        if self.predictions > 1 and not own:
            return jnp.tensordot(error.astype(trace.dtype), trace, axes=error.ndim) / over.astype(trace.dtype)
        each = self._by_row(error, trace) * trace
        return each if error.ndim == 1 else jnp.sum(each, 0) / over.astype(trace.dtype)

    def parts(self, state):
        return state.trace, state.optimiser

    def joined(self, by_stream, shared):
        return TracesState(by_stream, shared)
