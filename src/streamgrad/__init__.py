"""streamgrad: recurrent networks that learn one time step at a time."""

import importlib as _importlib

from . import (
    algorithms as algorithms,
    cells as cells,
    estimators as estimators,
    losses as losses,
    meta as meta,
    nn as nn,
    optimisers as optimisers,
    td as td,
    train as train,
    wiring as wiring,
)
from ._compile import compiler_options as compiler_options
from ._inference import inference as inference
from .algorithms import (
    BPTT as BPTT,
    DNI as DNI,
    DODGE as DODGE,
    ESDRTRL as ESDRTRL,
    KFRTRL as KFRTRL,
    MDGL as MDGL,
    OK as OK,
    OTPE as OTPE,
    RFLO as RFLO,
    RTRL as RTRL,
    TBPTT as TBPTT,
    UORO as UORO,
    EProp as EProp,
    Frozen as Frozen,
    KeRNL as KeRNL,
    ModProp as ModProp,
    RandomK as RandomK,
    Sketched as Sketched,
    SnAp as SnAp,
    Spatial as Spatial,
)
from .check import check_gradients as check_gradients
from .compare import compare as compare
from .estimators import PES as PES, ForwardGradient as ForwardGradient
from .explain import explain as explain
from .readout import RLS as RLS, Readout as Readout
from .recurrent import Recurrent as Recurrent
from .train import Kalman as Kalman, Learner as Learner, Mixture as Mixture

__version__ = "0.1.0"

#: Parts that take longer to import than a loop of learning needs: imported when they are asked for.
_LATER = ("checkpoint", "data", "fleet", "forecast", "sharding")


def __getattr__(name: str):
    if name == "Fleet":
        return _importlib.import_module(f"{__name__}.fleet").Fleet
    if name in _LATER:
        return _importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER, "Fleet"})
