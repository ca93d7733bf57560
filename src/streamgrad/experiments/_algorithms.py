"""Algorithms by the names that settings give them."""

from __future__ import annotations

from typing import Any

from ..algorithms import algorithm as algorithm


def known(settings: Any, *fields: str) -> None:
    """Refuse lists of algorithms of which one is not there, by name."""
    for field in fields:
        for name in getattr(settings, field):
            algorithm(name)
