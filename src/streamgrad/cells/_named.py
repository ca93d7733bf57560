"""Cells by name."""

from __future__ import annotations

import inspect
import re
from typing import Any

from . import _every
from ._unit_cell import UnitCell


def _by_numbers(kind: Any) -> bool:
    needed = [name for name, one in inspect.signature(kind).parameters.items() if one.default is one.empty]
    return needed == ["in_size", "units", "key"]


#: Cells that are made of a number of inputs and a number of units, and of nothing else that has no default.
NAMED: dict[str, Any] = {
    kind.__name__: kind for kind in vars(_every).values() if isinstance(kind, type) and _by_numbers(kind)
}


def cell(name: str) -> Any:
    """The class of a cell by its name, in any spelling: GRU, gru, LeakyRNN, leaky-rnn, leaky, ...

    Raises `ValueError` for one that there is not."""
    spelled = {_letters(known): kind for known, kind in NAMED.items()}
    if _letters(name) not in spelled:
        raise ValueError(f"there is no cell {name!r}; there are {', '.join(NAMED)}.")
    return spelled[_letters(name)]


def has_links(kind: Any) -> bool:
    """Whether the units of such a cell are linked, so that a wiring says how."""
    return issubclass(kind, UnitCell) and bool(kind.recurrent_gates)


def _letters(name: str) -> str:
    return re.sub("[^a-z]", "", name.lower()).removesuffix("rnn")
