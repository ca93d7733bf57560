"""Recurrent cells, and the contracts to write one's own."""

from ._bank import Bank as Bank, Linear as Linear, Link as Link
from ._cell import Cell as Cell, Core as Core
from ._every import *  # noqa: F403
from ._function_core import FunctionCore as FunctionCore
from ._named import NAMED as NAMED, cell as cell, has_links as has_links
from ._spiking import spike as spike
from ._unit_cell import UnitCell as UnitCell
