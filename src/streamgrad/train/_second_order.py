"""A Kalman filter as an update of the driver."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._cpu.branches import when
from ..readout import Readout
from ._growth import overlaid
from ._kalman import Kalman, KalmanState
from ._update import Price, Update


class FilterState(NamedTuple):
    """`kalman`: covariance and noise, () before the number of outputs is known; `moved`: where the filter stands beside
    the weights in use, within a window of `every` steps; `before`: the sensitivities of the last predictions, under
    TD."""

    kalman: KalmanState | tuple[()]
    moved: PyTree[Array] = ()
    before: PyTree[Array] = ()


class Filter(Update):
    """θ follows from errors and sensitivities by a `Kalman` filter.

    - `model`: says which parameters belong to a unit or a layer; `every`: steps for which the weights in use stay;
    - `temporal`: whether errors are temporal differences, whose sensitivity is ∂(y_{t-1} - γ y_t)/∂θ (KTD).

    Raises `TypeError` for a readout whose feedback is no derivative.

    Within a window the filter goes on, from errors corrected by what it has learned since: e - H (θ' - θ).

    Reference: Geist & Pietquin, Kalman temporal differences, 2010.
    """

    def __init__(self, kalman: Kalman, model: Any, every: int = 1, *, temporal: bool = False):
        is_readout = lambda node: isinstance(node, Readout)
        for node in filter(is_readout, jax.tree.leaves(model, is_leaf=is_readout)):
            if node.feedback != "symmetric":
                raise TypeError(
                    f"A Kalman filter needs sensitivities, and Readout(feedback={node.feedback!r}) sends down feedback "
                    'of its own in their place: use feedback="symmetric".'
                )
        self.kalman, self.model, self.every, self.temporal = kalman, model, every, temporal

    def init(self, trained, lead):
        del lead
        return FilterState((), jax.tree.map(jnp.zeros_like, trained) if self.every > 1 else ())

    def price(self, state, streams=1):
        kalman = state.kalman
        rows = len(kalman.noise) * streams
        name = f"Kalman(blocks={self.kalman.blocks!r})"
        return Price(name, kalman.parts, kalman.numbers, kalman.multiply_adds(rows), rows)

    def is_sized(self, state):
        return state.kalman != ()

    def sized(self, state, trained, y, lead):
        outputs = y.shape[len(lead) :]
        if len(outputs) != 1:
            raise ValueError(f"A Kalman filter needs predictions of shape (outputs,), got {outputs}: reshape them.")
        state = state._replace(kalman=self.kalman.init(trained, self.model, outputs=outputs[0]))
        if not self.temporal:
            return state
        rows = jax.tree.map(lambda leaf: jnp.zeros((*lead, *outputs, *leaf.shape), leaf.dtype), trained)
        return state._replace(before=rows)

    def sensitivity(self, pull, y):
        return self.kalman.sensitivity(pull, y)

    def __call__(self, state, trained, evidence, guard):
        finding, lead = evidence.finding, 0 if evidence.streams is None else 1
        if finding.error is None:
            raise TypeError("A Kalman filter needs a rule that gives errors: use a loss it knows, or TD.")
        rows = evidence.sensitivity
        if self.temporal:
            by_row = lambda gamma, leaf: gamma.reshape(*gamma.shape, *(1,) * (leaf.ndim - gamma.ndim))
            change = lambda old, new: old - by_row(finding.discount, new).astype(new.dtype) * new
            rows, state = jax.tree.map(change, state.before, rows), state._replace(before=rows)
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[lead + 1 :]), rows)
        error, given = finding.error.ravel(), finding.given.ravel()
        optional = {"weight": finding.weight, "reach": finding.reach}
        kind = {"fisher": finding.fisher, **{k: None if v is None else v.ravel() for k, v in optional.items()}}
        sound = guard.sound(error.sum(), evidence.given, flat)
        given = given & sound
        if self.every == 1:
            kalman, trained = self.kalman(state.kalman, trained, flat, error, given, **kind)
            return state._replace(kalman=kalman), trained, sound
        error = error - _times(flat, state.moved).astype(error.dtype)
        kalman, moved = self.kalman(state.kalman, state.moved, flat, error, given, **kind)
        move = lambda both: (jax.tree.map(jnp.zeros_like, both[0]), jax.tree.map(jnp.add, both[1], both[0]))
        moved, trained = when(jnp.asarray(evidence.due), move, (moved, trained))
        return state._replace(kalman=kalman, moved=moved), trained, sound

    def parts(self, state):
        return state.before, (state.kalman, state.moved)

    def joined(self, by_stream, shared):
        kalman, moved = shared
        return FilterState(kalman, moved, by_stream)

    def grown(self, state, trained, lead):
        fresh = self.init(trained, lead)
        if state.kalman == ():
            return fresh
        kalman = self.kalman.grow(state.kalman, trained, self.model)
        if not self.temporal:
            return FilterState(kalman, fresh.moved)
        new = self.sized(fresh, trained, jax.ShapeDtypeStruct((*lead, len(kalman.noise)), float), lead).before
        return FilterState(kalman, fresh.moved, overlaid(new, state.before))


def _times(rows, moved):
    """H times a displacement of the parameters."""
    by_leaf = jax.tree.map(lambda h, d: h.reshape(len(h), -1) @ d.ravel(), rows, moved)
    return jnp.sum(jnp.stack(jax.tree.leaves(by_leaf)), axis=0)
