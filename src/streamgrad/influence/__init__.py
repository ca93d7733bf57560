"""Structured influence: one engine for SnAp-n, columns, diagonal recurrences and exact RTRL."""

from __future__ import annotations

from .._base.static import Static
from ..cells import Bank, Core, FunctionCore
from ..cells._function_core import Seeing
from ..wiring import BlockLinks
from ._deferred import INPUTS_A_STEP as INPUTS_A_STEP, Deferred as Deferred
from ._dense import DenseRows as DenseRows
from ._function import Columnwise
from ._gathered_rows import GatheredRows as GatheredRows
from ._layout import Layout as Layout
from ._packed import immediate as immediate, per_unit as per_unit, unpack as unpack
from ._per_unit import PerUnit as PerUnit, StateTraces as StateTraces, own_dynamics as own_dynamics
from ._per_unit_function import PerUnitFunction as PerUnitFunction

#: Time of a gathered multiply-add over one inside a matrix product, measured on CPUs.
GATHER_COST = 10


def plan(core: Core, n: int | None) -> Layout:
    """The cheapest layout, by counted cost, of SnAp-n on a core; `n=None` means the closed pattern (RTRL).

    Raises `TypeError` for a core that cannot be linearised.
    """
    if isinstance(core, FunctionCore):
        if n == 1 and isinstance(core.step, Seeing):
            return PerUnitFunction()
        return Columnwise(core.structure.horizon() if n is None else n)
    if not isinstance(core, Bank):
        raise TypeError(
            f"SnAp and RTRL need a core that can be linearised (sg.cells.Bank or FunctionCore), got "
            f"{type(core).__name__}: build the cell from drives, or wrap its step in sg.cells.Function."
        )
    structure = core.structure
    if n == 1 or structure.diagonal():
        return PerUnit()
    recurrent = [link.links for link in core.links if link.source == "h"]
    sizes = {links.size if isinstance(links, BlockLinks) else None for links in recurrent}
    if len(sizes) == 1 and (size := sizes.pop()) is not None:
        return DenseRows(core.units // size, None)
    if structure.reads is None:
        return DenseRows(1, None)
    n = min(structure.horizon(), structure.units) if n is None else n
    return _cheaper(core, n)


def _cheaper(core: Bank, n: int) -> Layout:
    ragged = GatheredRows(n)
    reach = core.structure.reach(n)
    dense = DenseRows(1, None if reach.all() else Static(reach))
    if reach.mean() > 0.5:
        return dense
    return ragged if GATHER_COST * ragged.flops(core) < dense.flops(core) else dense
