"""What algorithms that need drives share."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..cells import Bank, Core
from ..influence import DenseRows

#: Cells that are banks of units, for messages.
FITTING = "sg.cells.Vanilla, GRU, LSTM, LeakyRNN, IndRNN, MinGRU, LRU, RTU, LIF or ALIF"


def require_bank(algorithm: Any, core: Core, *, fits: bool = True, need: str = "", instead: str = FITTING) -> None:
    """Refuse, by name, a core that is no bank of units made of drives. A bank whose parts do not fit is refused too."""
    if isinstance(core, Bank) and fits:
        return
    kind = type(core).__name__
    if not isinstance(core, Bank):
        kind += " (of sg.cells.Function, Chain, or GRU(reset_before=True))"
    raise TypeError(
        f"{type(algorithm).__name__} needs {need or 'a cell made of drives'}, got {kind}"
        + (f" with {describe(core)}" if isinstance(core, Bank) else "")
        + f": use {instead}, or an algorithm for every cell (sg.UORO, sg.DODGE, sg.TBPTT)."
    )


def describe(core: Bank) -> str:
    """A bank in a few words."""
    heard = sorted({g for link in core.links if link.source == "h" for g in link.drives})
    return f"{core.entries} state entries a unit, {core.dtype} and {len(heard)} drives that hear other units"


def dynamics(core: Bank, step: Any) -> Array:
    """D as one matrix, (rows, rows), rows ordered (entry, unit)."""
    return DenseRows(1, None).dynamics(core, step)[0]


def drive_cotangent(core: Bank, drive: Any, delta: Array) -> list[Array]:
    """δ K: what reaches each drive of each unit from a cotangent of the state, `gates` arrays (units,)."""
    total = []
    for g in range(core.gates):
        terms = [delta[a] * row[g] for a, row in enumerate(drive) if row[g] is not None]
        total.append(sum(terms[1:], terms[0]) if terms else jnp.zeros_like(delta[0]))
    return total


def weigh(core: Bank, by_drive: list[Array], inputs: list[Array]) -> tuple[Array, ...]:
    """Gradients of all weights, from the cotangents of the drives and the inputs of each weight: `inputs[l]`,
    broadcastable to the weights of link l."""
    gradients = []
    for link, weights, q in zip(core.links, core.weights, inputs, strict=True):
        delta = jnp.stack([by_drive[g] for g in link.drives])
        gradients.append((delta[None] * q.astype(delta.dtype)).astype(weights.dtype))
    return tuple(gradients)


def heard_back(core: Bank, by_drive: list[Array]) -> Array:
    """The cotangent of the units' outputs to each other, (units,), from the cotangent of the drives."""
    says = lambda h: [
        link.links.drive(weights, h)
        for link, weights in zip(core.links, core.weights, strict=True)
        if link.source == "h"
    ]
    links = [link for link in core.links if link.source == "h"]
    delta = [jnp.stack([by_drive[g] for g in link.drives]) for link in links]
    return jax.vjp(says, jnp.zeros(core.units, core.dtype))[1](delta)[0]
