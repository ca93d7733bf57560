"""Settings that experiments share, every default in one place."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, Literal

from ... import cells
from ...algorithms import BPTT, RTRL, TBPTT, Algorithm, Frozen, SnAp, Spatial
from ...nn import Deep

#: How the recurrent layers learn, by name.
MODES: dict[str, Algorithm] = {
    "bptt": BPTT(),
    "online": SnAp(1),
    "lambda-gamma": SnAp(1, only=("lambda", "gamma")),
    "one-step": TBPTT(1),
    "spatial": Spatial(),
    "frozen": Frozen(),
    "rtrl": RTRL(),
}
Mode = Literal["bptt", "online", "lambda-gamma", "one-step", "spatial", "frozen", "rtrl"]


@dataclasses.dataclass(frozen=True)
class Network:
    """The network: encoder, blocks, decoder."""

    cell: Literal["lru", "rtu", "mingru", "gru", "linear"] = "lru"
    """The recurrent cell of each block."""
    depth: int = 4
    """Blocks."""
    width: int = 128
    """H, features between blocks."""
    units: int = 64
    """N, units of each recurrent layer."""
    r_min: float = 0.0
    """Smallest |λ| at the start (lru and rtu)."""
    dropout: float = 0.1
    """Rate of dropout, one mask a sequence."""

    def __post_init__(self):
        at_least(1, self, "depth", "width", "units")
        within(self, "dropout", 0.0, 1.0)

    def build(self, in_size: int, out_size: int, mode: str, *, pooling: bool, key) -> Deep:
        """The model, learning by `mode`."""
        cell = cells.cell(self.cell)
        if self.cell in ("lru", "rtu"):
            cell = functools.partial(cell, r_min=self.r_min)
        return Deep(
            in_size,
            out_size,
            width=self.width,
            units=self.units,
            depth=self.depth,
            cell=cell,
            algorithm=MODES[mode],
            dropout=self.dropout,
            pooling=pooling,
            key=key,
        )


@dataclasses.dataclass(frozen=True)
class Training:
    """Training on sequences: one update a batch, weights frozen within a sequence."""

    updates: int = 10_000
    """Updates of the weights."""
    batch: int = 50
    """Sequences in an update."""
    rate: float = 4e-3
    """Highest learning rate; recurrent parameters have half of it."""
    warmup: float = 0.1
    """Share of the updates over which the rate rises; then it falls as a cosine."""
    weight_decay: float = 0.05
    """Of all parameters that are not recurrent."""
    clip: float = 1.0
    """Largest norm of a gradient."""
    evaluations: int = 20
    """How often the validation part is looked at."""

    def __post_init__(self):
        at_least(1, self, "updates", "batch", "evaluations")
        within(self, "warmup", 0.0, 1.0)


def at_least(low: int, settings: Any, *names: str) -> None:
    """Refuse numbers that are too small, by name; of tuples, every one."""
    for name in names:
        value = getattr(settings, name)
        if any(v < low for v in (value if isinstance(value, tuple) else (value,))):
            raise ValueError(f"{name} must be at least {low}, got {value}.")


def within(settings: Any, name: str, low: float, high: float) -> None:
    """Refuse a number outside [low, high), by name."""
    if not low <= getattr(settings, name) < high:
        raise ValueError(f"{name} must lie in [{low}, {high}), got {getattr(settings, name)}.")


def some(settings: Any, *names: str) -> None:
    """Refuse empty lists, by name."""
    for name in names:
        if not getattr(settings, name):
            raise ValueError(f"{name} must name at least one, got none.")


def positive(settings: Any, *names: str) -> None:
    """Refuse lists that are empty or hold anything but positive, finite numbers, by name."""
    for name in names:
        values = getattr(settings, name)
        if not values or not all(0 < value < math.inf for value in values):
            raise ValueError(f"{name} must be at least one positive number, got {values}.")
