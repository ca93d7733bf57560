"""How the time of a step grows, with the parameters and with the batch."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np

from ...algorithms import DODGE, KFRTRL, RFLO, UORO, Algorithm, EProp
from ...cells import ALIF, GRU, Cell, LeakyRNN, Vanilla
from ...recurrent import Recurrent
from . import _programs as programs
from ._timing import Program

KEY = jax.random.key(0)
UNITS = (64, 128, 256, 512, 1024)
BATCH = 16
#: An algorithm, a cell that it is made for, and the slope that its order of growth allows, with room for caches.
SLOPES: dict[str, tuple[Algorithm, Callable[..., Cell], float]] = {
    "uoro": (UORO(), Vanilla, 1.1),
    "dodge": (DODGE(), Vanilla, 1.1),
    "rflo": (RFLO(), LeakyRNN, 1.1),
    "e-prop": (EProp(), ALIF, 1.1),
    "kf-rtrl": (KFRTRL(), Vanilla, 1.6),
}


def by_size(algorithm: Algorithm, kind: Callable[..., Cell]) -> Callable[[int], dict[str, Program]]:
    """The same learner on nets of all sizes, in steps that take about as long together."""

    def make(steps):
        def one(units):
            layer = Recurrent(kind(32, units, key=KEY), algorithm)
            return programs.online(layer, max(4, steps * UNITS[0] ** 2 // units**2))

        return {f"{units} units": one(units) for units in UNITS}

    return make


def slope(kind: Callable[..., Cell]) -> Callable[[dict[str, float]], float]:
    """The slope of log time over log parameters."""

    def fit(times):
        count = lambda units: sum(leaf.size for leaf in jax.tree.leaves(kind(32, units, key=KEY)))
        taken = [times[f"{units} units"] for units in UNITS]
        return float(np.polyfit(np.log([count(units) for units in UNITS]), np.log(taken), 1)[0])

    return fit


def by_batch(algorithm: Algorithm) -> Callable[[int], dict[str, Program]]:
    """One stream and a batch that shares the weights."""

    def make(steps):
        layer = Recurrent(GRU(32, 128, key=KEY), algorithm)
        one = {f"{n} stream{'s'[: n != 1]}": programs.streams(layer, n, max(4, steps // n)) for n in (1, BATCH)}
        return one

    return make


def ratio(times: dict[str, float]) -> float:
    """A step of the batch over one of a single stream."""
    return times[f"{BATCH} streams"] / times["1 stream"]
