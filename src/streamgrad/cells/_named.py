"""Cells by name."""

from __future__ import annotations

import re
from typing import Any

from ._gru import GRU
from ._indrnn import IndRNN
from ._leaky import LeakyRNN
from ._linear import LRU, RTU
from ._linear_rnn import LinearRNN
from ._lstm import LSTM
from ._mingru import MinGRU
from ._spiking import ALIF, LIF
from ._unit_cell import UnitCell
from ._vanilla import Vanilla

#: Cells that are made of a number of inputs and a number of units.
NAMED: dict[str, Any] = {
    kind.__name__: kind for kind in (Vanilla, GRU, LSTM, LeakyRNN, IndRNN, MinGRU, LRU, RTU, LinearRNN, LIF, ALIF)
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
