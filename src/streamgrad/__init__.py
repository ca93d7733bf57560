"""streamgrad: recurrent networks that learn one time step at a time."""

import importlib as _importlib

from . import (
    algorithms as algorithms,
    cells as cells,
    estimators as estimators,
    inspect as inspect,
    losses as losses,
    meta as meta,
    nn as nn,
    optimisers as optimisers,
    td as td,
    train as train,
    wiring as wiring,
)
from ._cpu.options import compiler_options as compiler_options
from ._cpu.piece import piece as piece
from .algorithms._every import *  # noqa: F403
from .estimators import PES as PES, ForwardGradient as ForwardGradient
from .inspect import check_gradients as check_gradients, compare as compare, explain as explain
from .readout import RLS as RLS, Readout as Readout
from .recurrent import Recurrent as Recurrent
from .train import Kalman as Kalman, Learner as Learner, Mixture as Mixture, inference as inference

__version__ = "0.1.0"

#: Parts that take longer to import than a loop of learning needs: imported when they are asked for.
_LATER = ("checkpoint", "data", "fleet", "forecast", "lab", "session", "sharding")


def __getattr__(name: str):
    if name == "Fleet":
        return _importlib.import_module(f"{__name__}.fleet").Fleet
    if name in _LATER:
        return _importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER, "Fleet"})
