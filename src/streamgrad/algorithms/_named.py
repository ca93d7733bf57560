"""Algorithms by name, for command lines and settings."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from . import _every
from ._algorithm import Algorithm
from ._every import DODGE, OK, TBPTT, RandomK, Sketched, SnAp

#: Names of those that are not compared as the class makes them without arguments; a number is their first argument.
_SET: dict[type[Algorithm], dict[str, Callable[..., Algorithm]]] = {
    SnAp: {"SnAp-1": SnAp, "SnAp-2": lambda: SnAp(2)},
    RandomK: {"RandomK-4": RandomK},
    Sketched: {"Sketched-4": Sketched},
    OK: {"OK-2": OK},
    TBPTT: {"TBPTT-8": lambda: TBPTT(8)},
    DODGE: {"DODGE": lambda: DODGE(horizon=32)},  # for streams without an end
}
#: All algorithms, in the order of a comparison; those with a number take it behind a hyphen.
NAMED: dict[str, Callable[..., Algorithm]] = {
    name: make
    for kind in vars(_every).values()
    if isinstance(kind, type)
    for name, make in _SET.get(kind, {kind.__name__: kind}).items()
}
_NUMBERED: dict[str, Any] = {kind.__name__.lower(): kind for kind, names in _SET.items() if "-" in next(iter(names))}
_FULL = "-full"  # SnAp-1-full: the present step in full
_PLAIN = {name.lower(): make for name, make in NAMED.items() if "-" not in name}


def algorithm(name: str) -> Algorithm:
    """An algorithm by name, capitals or not: RTRL, UORO, SnAp-2, SnAp-1-full, TBPTT-32, ...

    Raises `ValueError` for one that there is not."""
    kind, _, number = name.lower().partition("-")
    if (plain := name.lower().replace("-", "")) in _PLAIN:  # e-prop, KF-RTRL
        return _PLAIN[plain]()
    if kind == "snap" and number.endswith(_FULL) and number.removesuffix(_FULL).isdecimal():
        return SnAp(int(number.removesuffix(_FULL)), present="full")
    if kind in _NUMBERED and re.fullmatch(r"\d+", number):
        return _NUMBERED[kind](int(number))
    there = [name.partition("-")[0] + "-N" * ("-" in name) for name in NAMED] + ["SnAp-N-full"]
    raise ValueError(f"there is no algorithm {name!r}; there are {', '.join(dict.fromkeys(there))}.")
