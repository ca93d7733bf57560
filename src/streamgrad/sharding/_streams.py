"""Streams side by side on several devices."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from ..fleet import Fleet
from ..train import LearnerState
from ._mesh import AXIS, row

T = TypeVar("T", LearnerState, Fleet)


def streams(state: T, mesh: Mesh) -> T:
    """Independent learners over the devices of a mesh: the state of several, made under `jax.vmap`, or a fleet.

        sts = jax.vmap(lambda key: learner.init(key=key, model=make_model(key)))(keys)
        sts = sg.sharding.streams(sts, jax.make_mesh((4,), ("devices",)))
        sts, out = jax.jit(jax.vmap(learner.step))(sts, xs, targets)

    Each device keeps its share of the leading axis, and no step says a word to another device. Of a fleet, each takes
    waves of its own; bits stay as they were on one of these devices.

    Raises `ValueError` where the learners cannot be shared out evenly, `TypeError` for the state of one learner, also
    of one with `streams=`: its streams share their weights, so that every step must add up gradients of all devices.
    """
    mesh = row(mesh)
    if isinstance(state, Fleet):
        return state.shard(mesh)
    if not isinstance(state, LearnerState):
        raise TypeError(f"sharding.streams expects a learner's state or a sg.Fleet, got {type(state).__name__}.")
    lead: tuple[Any, ...] = state.arrays[0].shape[:-1]
    if not lead:
        raise TypeError(
            "sharding.streams spreads learners that share nothing, and this is the state of one: make several under "
            "jax.vmap. Streams of Learner(streams=...) share their weights: they stay on one device."
        )
    if lead[0] % mesh.size:
        raise ValueError(
            f"sharding.streams: {lead[0]} learners cannot be shared out evenly over {mesh.size} devices: take a "
            "multiple of their number."
        )
    return jax.device_put(state, NamedSharding(mesh, P(AXIS)))
