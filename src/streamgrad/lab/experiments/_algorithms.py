"""Algorithms by the names that settings give them."""

from __future__ import annotations

from typing import Any

from ... import algorithms
from ...algorithms import Algorithm, KeRNL


def algorithm(name: str) -> Algorithm:
    """An algorithm by name, as `sg.algorithms` has them: RTRL, SnAp-2, ...; and RFLO-N, whose traces fade by 1/N a step
    in every cell, where RFLO itself has them fade as the unit does (in a GRU, as its gate says).

    Raises `ValueError` for one that there is not."""
    kind, _, steps = name.partition("-")
    if kind == "RFLO" and steps.isdigit():
        return KeRNL(timescale=float(steps), learn=False)
    return algorithms.algorithm(name)


def known(settings: Any, *fields: str) -> None:
    """Refuse lists of algorithms of which one is not there, by name."""
    for field in fields:
        for name in getattr(settings, field):
            algorithm(name)
