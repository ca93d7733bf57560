"""What a step costs: counted from patterns and from the lowered program, never from formulas."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import numpy as np

from .._base.dtypes import real_factor, trace_dtype
from .._base.flops import flops
from ..algorithms import TBPTT
from ..cells import Core
from ..recurrent import Recurrent


@dataclasses.dataclass(frozen=True)
class Cost:
    """One method on one cell: what it keeps of the past, and what a step of it takes.

    - `entries`, `bytes`: of the past (of J; of the window under BPTT, for each step of it);
    - `flops`: of a step with its gradient, the forward pass included;
    - `density`: the share of J that is kept, None where nothing of J is.
    """

    method: str
    entries: int
    bytes: int
    flops: int
    density: float | None
    exact: str


def step_flops(core: Core, state, x) -> tuple[int, int]:
    """Operations of a forward step, and of a step with its backward pass (BPTT's share of one step)."""
    parameters, fixed = eqx.partition(core, eqx.is_inexact_array)
    run = lambda p, s, x: eqx.combine(p, fixed)(s, x)

    def both(p, s, x, ct):
        new, back = jax.vjp(run, p, s, x)
        return new, back(ct)

    return flops(run, parameters, state, x), flops(both, parameters, state, x, state)


def _chunks(layer: Recurrent) -> bool:
    """Whether the layer's own gradient can be had a chunk at a time, without traces."""
    try:
        layer.algorithm.check_unroll(layer.cell.core())
    except TypeError:
        return False
    return layer.algorithm.credit == "trace"


def table(layer: Recurrent, orders: tuple[int, ...] = (1, 2, 3)) -> list[Cost]:
    """The layer's cell under BPTT, RTRL and SnAp-n, from counted entries and operations."""
    core = layer.cell.core()
    state = layer.cell.init_state()
    x = np.zeros(layer.cell.in_size, np.float32)
    structure = core.structure
    forward, backward = step_flops(core, state, x)
    leaves = jax.tree.leaves(eqx.filter(core, eqx.is_inexact_array))
    dtype = leaves[0].dtype
    size = trace_dtype(dtype).itemsize
    real = real_factor(dtype)
    held = structure.rows + layer.cell.in_size
    horizon = structure.horizon()
    rows = [
        Cost("forward only", structure.rows, structure.rows * dtype.itemsize, forward, None, "-"),
        Cost("BPTT, a step", held, held * dtype.itemsize, backward, None, "in its window"),
    ]
    if isinstance(layer.algorithm, TBPTT):
        k = layer.algorithm.window
        cost = forward + k * (backward - forward)
        rows.append(Cost(f"TBPTT({k})", k * held, k * held * dtype.itemsize, cost, None, "no"))
    if _chunks(layer):
        rows.append(Cost("chunked, a step", held, held * dtype.itemsize, backward, None, "as streamed"))
    for n in (*(n for n in orders if n < horizon), horizon):
        kept = structure.kept(n)
        # Update D J, add I, contract with dL/ds: as counted on the pattern.
        trace = real * (2 * structure.products(n) + 2 * structure.parameters + 2 * kept)
        name = "RTRL" if n == horizon else f"SnAp-{n}"
        name += f" = SnAp-{n}" if n == horizon else ""
        yes = "yes" if n == horizon else "no"
        rows.append(Cost(name, kept, kept * size, forward + trace, structure.density(n), yes))
    return rows
