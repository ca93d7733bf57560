"""Fleets: one learner for each key, thousands in memory, the rest on the disk."""

import importlib as _importlib

from ..train import Output as Output
from ._apply import apply as apply
from ._errors import FleetError as FleetError
from ._fleet import Fleet as Fleet
from ._forecasters import Forecasters as Forecasters
from ._kernel import Kernel as Kernel
from ._record import Record as Record
from ._summary import Summary as Summary


def __getattr__(name: str):
    if name == "spark":  # which needs Spark
        return _importlib.import_module(f"{__name__}.spark")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
