"""A fleet as it is written: a dictionary of plain learners, one a key, taught row by row."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from ..train import Learner


def newborn(make: Callable[[Any], Any], key: Any, seed: int = 0) -> Any:
    """The model of a key, drawn from the seed and the key alone."""
    raw = key if isinstance(key, bytes) else str(key).encode()
    digest = hashlib.blake2b(type(key).__name__.encode() + b":" + raw, digest_size=16).digest()
    drawn = jax.random.key(seed)
    for word in np.frombuffer(digest, "<u4"):
        drawn = jax.random.fold_in(drawn, word)
    return make(jax.random.split(drawn, 3)[0])


def learn(learner: Learner, make: Callable[[Any], Any], rows: Iterable[tuple]) -> tuple[dict[Any, Any], list[Any]]:
    """The state of each key and what was said of each row (key, x, target, reset): predict, then learn."""
    states, outs = {}, []
    for key, x, target, reset in rows:
        if key not in states:
            states[key] = learner.init(key=jax.random.key(0), model=newborn(make, key))
        states[key], out = learner.step(states[key], x, target, reset=reset)
        outs.append(out)
    return states, outs
