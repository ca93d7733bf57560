"""A bank's step, linearised one entry of the state after another."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core as jex
from jaxtyping import Array, Inexact

from .._base.dependence import dependence
from ..cells import Bank

Coefficients = tuple[tuple[Array | None, ...], ...]


class SequentialLinearised(NamedTuple):
    """One step of a bank, linearised, where each new entry is a function of the new ones before it too. `None` stands
    for a structural zero.

    - `state`: the new state, (entries, units).
    - `earlier[a][b]`: (units,), d(new entry a)/d(new entry b) for b < a; `own[a][b]`: by the old entry b;
      `drive[a][g]`: by drive g. Each with all else held fixed.
    - `inputs[l]`: what each weight of link l multiplies, broadcastable to its weights.
    """

    state: Inexact[Array, "entries units"]
    earlier: Coefficients
    own: Coefficients
    drive: Coefficients
    inputs: tuple[Array, ...]


def linearise_sequentially(core: Bank, state: Inexact[Array, "entries units"], x) -> SequentialLinearised:
    """The linearisation of `core.linearise`, row after row: of an LSTM, h' = o tanh(c') by c' and o, where c' stands
    for all that it was made of."""
    drives = core.drives(state, x)
    new, earlier, own, drive = [], [], [], []
    for row in _rows(core.unit, core.entries, core.gates, state.dtype, drives[0].dtype):
        given = (*(new[b] for b in row.earlier), *state, *drives)
        values, pull = jax.vjp(jax.vmap(lambda *given, row=row: jex.jaxpr_as_fun(row.program)(*given)[0]), *given)
        slopes = [s if used else None for s, used in zip(pull(jnp.ones_like(values)), row.depends, strict=True)]
        first, second = len(row.earlier), len(row.earlier) + core.entries
        of_earlier = dict(zip(row.earlier, slopes[:first], strict=True))
        earlier.append(tuple(of_earlier.get(b) for b in range(len(new))))
        own.append(tuple(slopes[first:second]))
        drive.append(tuple(slopes[second:]))
        new.append(values)
    sources = core.sources(state, x)
    inputs = tuple(link.links.inputs(sources[link.source]) for link in core.links)
    return SequentialLinearised(jnp.stack(new), tuple(earlier), tuple(own), tuple(drive), inputs)


def copies_needed(core: Bank) -> int:
    """How many entries of the old state a later one than they still reads: what lies in their place must be copied."""
    if core.entries == 1:
        return 0
    rows = _rows(core.unit, core.entries, core.gates, core.dtype, core.dtype)
    reads = [row.depends[len(row.earlier) :] for row in rows]
    return sum(any(reads[b][a] for b in range(a + 1, core.entries)) for a in range(core.entries))


class _Row(NamedTuple):
    """The program of a new entry: of the new entries `earlier`, the old ones and the drives; which it depends on."""

    program: jex.ClosedJaxpr
    earlier: tuple[int, ...]
    depends: tuple[bool, ...]


@functools.lru_cache(maxsize=256)
def _rows(unit: Callable, entries: int, gates: int, state_dtype, drive_dtype) -> tuple[_Row, ...]:
    states = (jax.ShapeDtypeStruct((), state_dtype),) * entries
    drives = (jax.ShapeDtypeStruct((), drive_dtype),) * gates
    closed = jax.make_jaxpr(unit)(states, drives)
    jaxpr, rows, cut = closed.jaxpr, [], {}
    origin = jaxpr.debug_info._replace(arg_names=None, result_paths=None)
    for a, out in enumerate(jaxpr.outvars):
        # What defines the entries before this one is left out: they are inputs.
        eqns = [eqn for eqn in jaxpr.eqns if not cut.keys() & set(eqn.outvars)]
        program = jex.Jaxpr(jaxpr.constvars, [*cut, *jaxpr.invars], [out], eqns, debug_info=origin)
        depends = tuple(bool(used) for used in dependence(program)[0])
        rows.append(_Row(jex.ClosedJaxpr(program, closed.consts), tuple(cut.values()), depends))
        if any([out] == eqn.outvars for eqn in jaxpr.eqns):
            cut[out] = a
    return tuple(rows)
