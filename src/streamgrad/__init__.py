"""streamgrad: recurrent networks that learn one time step at a time."""

from . import algorithms as algorithms, cells as cells, wiring as wiring
from .algorithms import (
    BPTT as BPTT,
    RTRL as RTRL,
    TBPTT as TBPTT,
    Frozen as Frozen,
    SnAp as SnAp,
    Spatial as Spatial,
)
from .recurrent import Recurrent as Recurrent

__version__ = "0.1.0"
