"""Checks of the layers beside recurrent ones in a model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx

from ..cells import Cell
from ._unroll import is_stateful

#: For layers of Equinox that are no function of x alone: what to take.
_INSTEAD = {
    eqx.nn.GRUCell: "sg.Recurrent(sg.cells.GRU(...), sg.SnAp(1))",
    eqx.nn.LSTMCell: "sg.Recurrent(sg.cells.LSTM(...), sg.SnAp(1))",
    eqx.nn.MultiheadAttention: "a function of x, such as lambda x: attention(x[None], x[None], x[None])[0]",
    eqx.nn.StatefulLayer: "sg.nn.Normalise(size), whose statistics are part of the carry",
    eqx.nn.Dropout: "sg.nn.Dropout(size, rate), whose mask is part of the carry, or eqx.nn.inference_mode(layer)",
}


def check_layer(place: str, layer: Any) -> None:
    """Raise `TypeError` for a layer that a model cannot call, by its `place`. The message says what to do."""
    kind = layer.__name__ if isinstance(layer, type) else type(layer).__name__
    if isinstance(layer, Cell):
        raise TypeError(f"{place} is a cell: give it an algorithm, sg.Recurrent(cell, sg.SnAp(1)).")
    if not callable(layer):
        raise TypeError(f"{place} is not callable: {layer!r}.")
    if isinstance(layer, type):
        raise TypeError(f"{place} is the class {kind} itself: make a layer of it, {kind}(...).")
    if is_stateful(layer):
        if not _takes(layer.init, key=None) or not _takes(layer, None, None):
            raise TypeError(
                f"{place} ({kind}) has an init, and so should have a carry: init(key=...) -> carry and "
                "(carry, x) -> (carry, y). Wrap it in an eqx.Module with these two, or in a function of x."
            )
        return
    foreign = next((part for part in (layer, *_parts(layer)) if _is_foreign(part)), None)
    if foreign is not None or not _takes(layer, None):
        culprit = layer if foreign is None else foreign
        instead = next((what for kind, what in _INSTEAD.items() if isinstance(culprit, kind)), None)
        raise TypeError(
            f"{place} ({type(culprit).__name__}) cannot be called as y = layer(x): it asks for more than x, a state, a "
            f"key or a second input. Use {instead or 'a function of x that calls it'}, or write an eqx.Module with "
            "init(key=...) -> carry and (carry, x) -> (carry, y)."
        )


def _is_foreign(part: Any) -> bool:
    if isinstance(part, eqx.nn.Dropout):
        return not part.inference and part.p != 0
    return isinstance(part, eqx.nn.StatefulLayer) and part.is_stateful()


def _parts(layer: Any) -> list[Any]:
    """The layers of an `eqx.nn.Sequential`, which calls each with x alone."""
    return list(layer.layers) if isinstance(layer, eqx.nn.Sequential) else []


def _takes(function: Callable, *arguments: Any, **named: Any) -> bool:
    """Whether it can be called with these, as far as it says."""
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # one that does not say
        return True
    try:
        signature.bind(*arguments, **named)
    except TypeError:
        return False
    return True
