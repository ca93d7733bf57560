"""`streamgrad explain`: what an algorithm keeps on a cell, what it costs, and whether it is exact."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

import tyro


@dataclasses.dataclass(frozen=True)
class Options:
    """Print the proof of exactness, and memory and operations a step beside BPTT and RTRL, for one layer."""

    cell: str = "GRU"
    """The cell, in any spelling: Vanilla, GRU, LSTM, LeakyRNN, IndRNN, MinGRU, LRU, RTU, LinearRNN, LIF, ALIF."""
    in_size: int = 8
    """The number of inputs."""
    units: int = 64
    """The number of units."""
    density: float | None = None
    """Sparse recurrent wiring with this share of the links, a pattern of its own for each gate."""
    algorithm: str = "snap-1"
    """The algorithm: snap-1, snap-2, ..., rtrl, uoro, kfrtrl, ok-2, rflo, eprop, dni, tbptt-16, bptt, frozen, ..."""


def main(arguments: Sequence[str]) -> int:
    """Build the layer and print what `sg.explain` says."""
    options = tyro.cli(Options, args=arguments, prog="streamgrad explain")
    import jax

    import streamgrad as sg

    try:
        wiring = {} if options.density is None else {"wiring": sg.wiring.Sparse(density=options.density)}
        kind = sg.cells.cell(options.cell)
        if wiring and not sg.cells.has_links(kind):
            raise ValueError(f"{kind.__name__} has no links between its units: leave --density out.")
        cell = kind(options.in_size, options.units, key=jax.random.key(0), **wiring)
        layer = sg.Recurrent(cell, sg.algorithms.algorithm(options.algorithm))
    except (ValueError, TypeError) as error:
        print(f"streamgrad explain: {error}", file=sys.stderr)
        return 2
    print(sg.explain(layer))
    return 0
