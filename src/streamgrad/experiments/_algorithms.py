"""Algorithms by the names that experiments give them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from .. import algorithms
from ..algorithms import Algorithm

#: Those without a number: a row makes an algorithm known to every experiment that compares them.
NAMED: dict[str, Callable[[], Algorithm]] = {
    "Frozen": algorithms.Frozen,
    "Spatial": algorithms.Spatial,
    "RTRL": algorithms.RTRL,
    "UORO": algorithms.UORO,
    "KFRTRL": algorithms.KFRTRL,
    "RFLO": algorithms.RFLO,
    "EProp": algorithms.EProp,
    "ESDRTRL": algorithms.ESDRTRL,
    "MDGL": algorithms.MDGL,
    "ModProp": algorithms.ModProp,
    "DNI": algorithms.DNI,
    "KeRNL": algorithms.KeRNL,
    "DODGE": algorithms.DODGE,
    "RandomK": algorithms.RandomK,
    "BPTT": algorithms.BPTT,
}
#: And those with one behind a hyphen: SnAp-2.
NUMBERED: dict[str, Callable[[int], Algorithm]] = {
    "SnAp": algorithms.SnAp,
    "OK": algorithms.OK,
    "Sketched": algorithms.Sketched,
    "TBPTT": algorithms.TBPTT,
}


def algorithm(name: str) -> Algorithm:
    """An algorithm by name: RTRL, UORO, SnAp-2, ... Raises `ValueError` for one that there is not."""
    if name in NAMED:
        return NAMED[name]()
    if (match := re.fullmatch(r"([A-Za-z]+)-(\d+)", name)) and match[1] in NUMBERED:
        return NUMBERED[match[1]](int(match[2]))
    there = ", ".join([*NAMED, *(f"{kind}-N" for kind in NUMBERED)])
    raise ValueError(f"no algorithm {name!r}: there are {there}.")


def known(settings: Any, *fields: str) -> None:
    """Refuse lists of algorithms of which one is not there, by name."""
    for field in fields:
        for name in getattr(settings, field):
            algorithm(name)
