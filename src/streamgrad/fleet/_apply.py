"""The fleet as a pure function: states in, states out, for any engine that keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..train import Output
from ._kernel import Kernel
from ._keys import Key, listed


def apply(
    kernel: Kernel, states: Sequence[bytes | None], keys: Sequence[Any], xs: Any, targets: Any, resets: Any = None
) -> tuple[list[bytes], Output]:
    """What rows teach the learners of their keys: `(states, out)`, and nothing else happens.

        kernel      = sg.fleet.Kernel(make, optax.adam(1e-3), loss=sg.losses.mse)
        states, out = sg.fleet.apply(kernel, states, keys, xs, targets)

    - `states`: one for each row: of its key's learner before the call, None for a key that has none yet. A key may
      come several times; its rows are learned in turn, from its one state, which may stand at each of them or, with
      None at the others, at one;
    - `keys`, `xs`, `targets`, `resets`: as for `Fleet.update`.

    Returns for each row the state of its key's learner after the call, and the outputs, in the order of the rows.
    States are bytes with a header, the same as in a fleet's store.

    Raises `FleetError` for a state that is damaged, or of another learner or version, and `ValueError` for a key
    with two states.
    """
    names = listed(keys)
    if len(states) != len(names):
        raise ValueError(f"apply expects a state or None for each key, got {len(states)} states, {len(names)} keys.")
    inputs = kernel.inputs(len(names), xs, targets, resets)
    given: dict[Key, bytes] = {}
    for key, state in zip(names, states, strict=True):
        if state is not None and given.setdefault(key, bytes(state)) != bytes(state):
            raise ValueError(f"apply got two states of {key!r}: give one, before its first row.")
    rows = {key: kernel.codec.decode(state, key) for key, state in given.items()}
    newborn = [key for key in dict.fromkeys(names) if key not in rows]
    rows |= zip(newborn, kernel.born(newborn), strict=True)

    def load(keys: list[list[Key]], out: list[np.ndarray]) -> None:
        for some, its in zip(keys, out, strict=True):
            its[:] = [rows[key] for key in some]

    def save(keys: list[list[Key]], new: list[np.ndarray]) -> None:
        for some, its in zip(keys, new, strict=True):
            rows.update(zip(some, its, strict=True))

    told = kernel.learn(names, inputs, load, save, len(names))
    after = {key: kernel.codec.encode(row) for key, row in rows.items()}
    return [after[key] for key in names], Output(*told)
