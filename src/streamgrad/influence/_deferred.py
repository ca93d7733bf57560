"""SnAp-1 on a bank whose traces are written once in many steps."""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact, Int

from .._base.dtypes import real_factor, trace_dtype
from .._cpu.branches import when
from .._cpu.materialise import written
from ..wiring import DenseLinks
from ._per_unit import PerUnit, gates, own_dynamics, times

#: Fewer inputs a deferred step than these, and what is kept of the steps costs about what their traces would.
INPUTS_A_STEP = 4

Rows = tuple[Array, ...]


class Pieces(NamedTuple):
    """The steps of a link that its trace has not taken in.

    - `gains[a]`: K of entry a, decayed by the dynamics of all steps after it but the last;
    - `inputs`: what its weights multiplied."""

    gains: Rows
    inputs: Inexact[Array, "steps fan_in"]


class DeferredTrace(NamedTuple):
    """J in parts; all zeros is the one before the first step.

    - `rows`: as of `PerUnit`; of a deferred link J as it was `count` steps ago;
    - `decay[a][b]`: (units,), the product of D since then, without the last; `last[a][b]`: the last D. Kept apart, it
      is computed once: within the loops over pieces it would be computed for each;
    - `pieces`: of each deferred link, () of the others. What lies behind `count` of them says nothing."""

    rows: tuple[Rows, ...]
    decay: tuple[Rows, ...]
    last: tuple[Rows, ...]
    pieces: tuple[Pieces | tuple[()], ...]
    count: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class Deferred(PerUnit):
    r"""`PerUnit`, with the traces of dense links written once in `steps` steps: the same J, in other sums.

    All units of a dense link hear the same inputs, so that J is an older one and a sum of products, one a step:

        J[a] = sum_b A[a, b] J0[b] + sum_j k_j[a] q_j        A <- D A,  k_j <- D k_j,  k_new = K

    with A and k of the size of the units, and the sum over j one matrix product. It is added to J0 every `steps` steps;
    a gradient between takes the same product, and adds nothing to J0."""

    steps: int = 1

    def deferred(self, core) -> tuple[bool, ...]:
        """Whether the traces of each link are deferred: of dense ones to which the pieces are small."""
        dense = lambda link: isinstance(link.links, DenseLinks) and link.links.fan_in >= INPUTS_A_STEP * self.steps
        return tuple(kept and dense(link) for link, kept in zip(core.links, self.traced(core), strict=True))

    def init(self, core):
        zero = lambda *shape: jnp.zeros(shape, trace_dtype(core.dtype))
        entries = range(core.entries)

        def pieces(link, weights):
            gains = tuple(zero(self.steps, *weights.shape[1:]) for _ in entries)
            dtype = gains[0].real.dtype if link.source == "x" else gains[0].dtype
            return Pieces(gains, jnp.zeros((self.steps, link.links.fan_in), dtype))

        marked = zip(core.links, core.weights, self.deferred(core), strict=True)
        all_pieces = tuple(pieces(link, weights) if late else () for link, weights, late in marked)
        blocks = lambda: tuple(tuple(zero(core.units) for _ in entries) for _ in entries)
        return DeferredTrace(super().init(core), blocks(), blocks(), all_pieces, jnp.zeros((), jnp.int32))

    def advance(self, core, trace, state, x):
        late = self.deferred(core)
        new, at_once = super().advance(core, _where(late, (), trace.rows), state, x)
        step = core.linearise(state, x)
        within, there = own_dynamics(core, step), trace.decay[0][0]
        typed = lambda d: jnp.zeros_like(there) if d is None else d.astype(there.dtype)
        # Structural zeros are left out of the sums.
        last = [[None if d is None else old for d, old in zip(*rows)] for rows in zip(within, trace.last)]
        entries, position = range(core.entries), _positions(self.steps)
        column = lambda b: [trace.decay[c][b] for c in entries]
        begun = [[jnp.full_like(there, float(a == b)) for b in entries] for a in entries]
        decay = [[jnp.where(trace.count == 0, begun[a][b], _dot(last[a], column(b))) for b in entries] for a in entries]

        def noted(pieces, link, q):
            if pieces == ():
                return ()
            put = lambda ring, row: jax.lax.dynamic_update_index_in_dim(ring, row.astype(ring.dtype), trace.count, 0)
            gains = []
            for a in entries:
                k = gates(step.drive[a], link)
                old = jnp.where(position < trace.count - 1, _dot(last[a], pieces.gains), pieces.gains[a])
                gains.append(put(old, jnp.zeros_like(old[0]) if k is None else k))
            return Pieces(tuple(gains), put(pieces.inputs, q[:, 0, 0]))

        pieces = tuple(map(noted, trace.pieces, core.links, step.inputs))
        last = tuple(tuple(map(typed, row)) for row in within)
        parts = DeferredTrace(_where(late, trace.rows, ()), tuple(map(tuple, decay)), last, pieces, trace.count + 1)
        old, count = _folded(0, self.steps)(parts)
        return new, parts._replace(rows=_where(late, old, at_once), count=count)

    def pullback(self, core, trace, cotangent):
        late, entries = self.deferred(core), range(core.entries)
        found = super().pullback(core, _where(late, (), trace.rows), cotangent)
        deltas = [delta.astype(trace.decay[0][0].dtype) for delta in cotangent]
        by_last = [_dot(deltas, [trace.last[a][b] for a in entries]) for b in entries]
        by_row = [_dot(by_last, [trace.decay[a][b] for a in entries]) for b in entries]
        by_row = [jnp.where(trace.count == 0, delta, along) for delta, along in zip(deltas, by_row, strict=True)]
        deltas, by_last, by_row = written((deltas, by_last, by_row))
        position = _positions(self.steps)

        def gradient(weights, rows, pieces):
            by_gain = jnp.where(position < trace.count - 1, _dot(by_last, pieces.gains), _dot(deltas, pieces.gains))
            by_gain = jnp.where(position < trace.count, by_gain, 0)
            return (_dot(by_row, rows) + _product(pieces.inputs, by_gain)).astype(weights.dtype)

        marked = zip(late, core.weights, trace.rows, trace.pieces, found.weights, strict=True)
        grads = tuple(gradient(w, rows, pieces) if deferred else own for deferred, w, rows, pieces, own in marked)
        return eqx.tree_at(lambda bank: bank.weights, found, grads)

    def told_by_row(self, core):
        return ()  # gradients are rare here: each is looked at whole

    def flops(self, core):
        entries, factor = core.entries, real_factor(core.dtype)
        of_inputs = 1 if factor == 1 else 2  # real inputs, complex gains
        size, late = self._size(core), self._size(core, late=True)
        at_once = factor * (2 * entries + 1) * entries * (size - late)
        gains = factor * 2 * entries**2 * self._gains(core)
        return at_once + gains + entries * (2 * of_inputs * late + factor * 2 * entries * late // self.steps)

    def temporaries(self, core):
        # Of a fold: a product as large as J, and of several entries the old ones.
        return self.nbytes(core) * min(core.entries, 2)

    def _size(self, core, late: bool = False) -> int:
        """How many weights have a trace, or a deferred one."""
        marks = self.deferred(core) if late else self.traced(core)
        return sum(weights.size for weights, kept in zip(core.weights, marks, strict=True) if kept)

    def _gains(self, core) -> int:
        """How many numbers of each entry the pieces keep beside the inputs."""
        marked = zip(core.weights, self.deferred(core), strict=True)
        return self.steps * sum(weights[0].size for weights, kept in marked if kept)

    def describe(self):
        return f"{super().describe()}; those of dense links are written once in {self.steps} steps"

    def price(self, core) -> str:
        """What a step and a gradient take, beside traces that are written at every step."""
        size, itemsize = self._size(core, late=True), trace_dtype(core.dtype).itemsize * core.entries
        moved = [2 * itemsize * size, 2 * itemsize * (self._gains(core) + 2 * size // self.steps)]
        usual, deferred = (f"{count / 1024:,.1f} KiB" for count in moved)
        return (
            f"a step reads and writes {deferred} of these instead of {usual}; a gradient, {self.steps} multiply-adds a "
            "weight and entry more"
        )


@functools.cache
def _folded(lead: int, steps: int):
    """The rows and the count of a trace, its pieces taken into the rows when there are `steps` of them; of arrays with
    `lead` axes of streams in front.

    All streams are folded together: a loop for those alone that are due would copy the traces of all others."""
    fold = _fold
    for _ in range(lead):
        fold = jax.vmap(fold)

    @jax.custom_batching.custom_vmap
    def folded(trace):
        due = jnp.any(trace.count == steps)
        rows = when(due, lambda rows: fold(trace._replace(rows=rows)), trace.rows)
        return rows, jnp.where(due, 0, trace.count)

    @folded.def_vmap
    def over_streams(axis_size, in_batched, trace):
        spread = lambda leaf, is_batched: leaf if is_batched else jnp.broadcast_to(leaf, (axis_size, *leaf.shape))
        rows, count = _folded(lead + 1, steps)(jax.tree.map(spread, trace, in_batched[0]))
        return (rows, count), jax.tree.map(lambda _: True, (rows, count))

    return folded


def _fold(trace: DeferredTrace) -> tuple[Rows, ...]:
    """J of the deferred links, from its parts; `count` is at least 1."""
    entries = range(len(trace.last))
    decay = [[_dot(row, [trace.decay[c][b] for c in entries]) for b in entries] for row in trace.last]

    def whole(rows, pieces):
        position, new = _positions(len(pieces.inputs)), []
        for a in entries:
            k = jnp.where(position < trace.count - 1, _dot(trace.last[a], pieces.gains), pieces.gains[a])
            k = jnp.where(position < trace.count, k, 0)
            new.append(_dot(decay[a], rows) + _product(pieces.inputs, k))
        return tuple(new)

    return tuple(() if pieces == () else whole(rows, pieces) for rows, pieces in zip(trace.rows, trace.pieces))


def _positions(steps: int):
    return jnp.arange(steps, dtype=jnp.int32)[:, None, None]


def _where(marks, yes, no):
    """For each link what is of `yes` where it is marked, else what is of `no`; () stands for nothing of any."""
    each = lambda rows: rows or ((),) * len(marks)
    return tuple(a if mark else b for mark, a, b in zip(marks, each(yes), each(no), strict=True))


def _dot(coefficients, rows):
    """The sum of products; a coefficient that is None is zero."""
    terms = [times(d, row) for d, row in zip(coefficients, rows, strict=True) if d is not None]
    return sum(terms[1:], terms[0]) if terms else jnp.zeros_like(rows[0])


def _product(inputs, gains):
    """The sum over steps of inputs times gains, (fan_in, gates, units). Of complex gains part by part."""

    def product(q, k):  # of matrices: XLA gives one with more axes another layout, and copies it
        flat = k.reshape(len(k), -1)
        found = jax.lax.dot_general(q, flat, (((0,), (0,)), ((), ())), precision=jax.lax.Precision.HIGHEST)
        return found.reshape(q.shape[1], *k.shape[1:])

    if jnp.iscomplexobj(gains) and not jnp.iscomplexobj(inputs):
        return jax.lax.complex(product(inputs, gains.real), product(inputs, gains.imag))
    return product(inputs, gains)
