"""Algorithms by name, for command lines and settings."""

from __future__ import annotations

import re
from collections.abc import Callable

from ._algorithm import Algorithm
from ._bptt import BPTT
from ._dni import DNI
from ._dodge import DODGE
from ._eprop import EProp
from ._esdrtrl import ESDRTRL
from ._kernl import KeRNL
from ._kfrtrl import KFRTRL
from ._mdgl import MDGL
from ._modprop import ModProp
from ._ok import OK
from ._otpe import OTPE
from ._random_k import RandomK
from ._rflo import RFLO
from ._rtrl import RTRL
from ._sketched import Sketched
from ._snap import SnAp
from ._spatial import Frozen, Spatial
from ._tbptt import TBPTT
from ._uoro import UORO

#: All algorithms, in the order of a comparison; those with a number take it behind a hyphen. A new one is a row.
NAMED: dict[str, Callable[..., Algorithm]] = {
    "RTRL": RTRL,
    "SnAp-1": SnAp,
    "SnAp-2": lambda: SnAp(2),
    "RandomK-4": RandomK,
    "Sketched-4": Sketched,
    "OK-2": OK,
    "KFRTRL": KFRTRL,
    "UORO": UORO,
    "DODGE": lambda: DODGE(horizon=32),  # for streams without an end
    "RFLO": RFLO,
    "EProp": EProp,
    "OTPE": OTPE,
    "MDGL": MDGL,
    "ModProp": ModProp,
    "KeRNL": KeRNL,
    "DNI": DNI,
    "ESDRTRL": ESDRTRL,
    "TBPTT-8": lambda: TBPTT(8),
    "Spatial": Spatial,
    "Frozen": Frozen,
    "BPTT": BPTT,
}
_NUMBERED = {"snap": SnAp, "randomk": RandomK, "sketched": Sketched, "ok": OK, "tbptt": TBPTT}
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
