"""SnAp-1 on a bank whose traces are written once in many steps."""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact, Int

from .._base.dtypes import real_dtype, real_factor, trace_dtype
from .._cpu.branches import when
from ..wiring import DenseLinks
from ._materialise import materialise
from ._per_unit import PerUnit, gates, own_dynamics, times

#: Fewer inputs a deferred step than these, and what is kept of the steps costs about what their traces would.
INPUTS_A_STEP = 4

Rows = tuple[Array, ...]


class Pieces(NamedTuple):
    """The steps of a link that its trace has not taken in. `gains[a]`: K of entry a, decayed by the dynamics since then;
    `inputs`: what its weights multiplied."""

    gains: tuple[Inexact[Array, "steps gates units"], ...]
    inputs: Inexact[Array, "steps fan_in"]


class DeferredTrace(NamedTuple):
    """J in parts; all zeros is the one before the first step.

    - `rows`: as of `PerUnit`; of a deferred link J as it was `count` steps ago;
    - `decay[a][b]`: (units,), the product of D since then; `pieces`: of each deferred link, () of the others. Both say
      nothing while `count` is 0, nor do pieces behind it."""

    rows: tuple[Rows, ...]
    decay: tuple[Rows, ...]
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
        rows = super().init(core)
        zero = lambda *shape: jnp.zeros(shape, trace_dtype(core.dtype))

        def pieces(link, weights):
            gains = tuple(zero(self.steps, *weights.shape[1:]) for _ in range(core.entries))
            inputs = jnp.zeros((self.steps, link.links.fan_in), self._of_inputs(core, link))
            return Pieces(gains, inputs)

        marked = zip(core.links, core.weights, self.deferred(core), strict=True)
        all_pieces = tuple(pieces(link, weights) if late else () for link, weights, late in marked)
        decay = tuple(tuple(zero(core.units) for _ in range(core.entries)) for _ in range(core.entries))
        return DeferredTrace(rows, decay, all_pieces, jnp.zeros((), jnp.int32))

    def _positions(self):
        return jnp.arange(self.steps, dtype=jnp.int32)[:, None, None]

    def _of_inputs(self, core, link):
        dtype = trace_dtype(core.dtype)
        return real_dtype(dtype) if link.source == "x" else dtype

    def advance(self, core, trace, state, x):
        late = self.deferred(core)
        at_once = tuple(() if deferred else rows for deferred, rows in zip(late, trace.rows, strict=True))
        new, at_once = super().advance(core, at_once, state, x)
        step, dtype = core.linearise(state, x), trace_dtype(core.dtype)
        within, drive = own_dynamics(core, step), step.drive
        if any(link.source == "h" for link in core.links):
            within, drive = materialise((within, drive))  # gates are dear to compute for each piece again
        within = [[None if d is None else d.astype(dtype) for d in row] for row in within]
        decayed = lambda row, of: _sum([times(d, of[b]) for b, d in enumerate(row) if d is not None], of[0])
        identity = lambda a, b: jnp.full(core.units, float(a == b), dtype)
        entries = range(core.entries)
        before = [[jnp.where(trace.count == 0, identity(a, b), trace.decay[a][b]) for b in entries] for a in entries]
        decay = tuple(tuple(decayed(row, [before[c][b] for c in entries]) for b in entries) for row in within)

        position = self._positions()

        def noted(pieces, link, q):
            if pieces == ():
                return ()
            gains = []
            for a, row in enumerate(within):
                k = gates(drive[a], link)
                k = jnp.zeros_like(pieces.gains[a][0]) if k is None else k.astype(dtype)
                old = decayed(row, pieces.gains)
                gains.append(jnp.where(position == trace.count, k[None], jnp.where(position < trace.count, old, 0)))
            q = q[:, 0, 0].astype(pieces.inputs.dtype)
            return Pieces(tuple(gains), jax.lax.dynamic_update_index_in_dim(pieces.inputs, q, trace.count, 0))

        pieces = tuple(map(noted, trace.pieces, core.links, step.inputs))
        old = tuple(rows if deferred else () for deferred, rows in zip(late, trace.rows, strict=True))
        old, count = _folded(0, self.steps)(old, decay, pieces, trace.count + 1)
        rows = tuple(a if deferred else b for deferred, a, b in zip(late, old, at_once, strict=True))
        return new, DeferredTrace(rows, decay, pieces, count)

    def pullback(self, core, trace, cotangent):
        late, entries = self.deferred(core), range(core.entries)
        at_once = tuple(() if deferred else rows for deferred, rows in zip(late, trace.rows, strict=True))
        found = super().pullback(core, at_once, cotangent)
        deltas = [delta.astype(trace_dtype(core.dtype)) for delta in cotangent]
        folded = trace.count == 0
        through = [
            jnp.where(folded, deltas[b], _sum([times(deltas[a], trace.decay[a][b]) for a in entries], deltas[b]))
            for b in entries
        ]
        position = self._positions()

        def gradient(weights, rows, pieces):
            by_gain = _sum([times(deltas[a], pieces.gains[a]) for a in entries], None)
            by_gain = jnp.where(position < trace.count, by_gain, 0)
            terms = [times(through[b], rows[b]) for b in entries]
            return _sum([*terms, _product(pieces.inputs, by_gain)], None).astype(weights.dtype)

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
        return super(PerUnit, self).temporaries(core)  # of a fold: a product as large as J

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
    """Takes the pieces into the rows when there are `steps` of them; of arrays with `lead` axes of streams in front.

    All streams are folded together: a loop for those alone that are due would copy the traces of all others."""
    fold = _fold
    for _ in range(lead):
        fold = jax.vmap(fold)

    @jax.custom_batching.custom_vmap
    def folded(rows, decay, pieces, count):
        due = jnp.any(count == steps)
        rows = when(due, lambda rows: fold(rows, decay, pieces), rows)
        return rows, jnp.where(due, 0, count)

    @folded.def_vmap
    def _(axis_size, in_batched, *arguments):
        spread = lambda leaf, is_batched: leaf if is_batched else jnp.broadcast_to(leaf, (axis_size, *leaf.shape))
        rows, count = _folded(lead + 1, steps)(*jax.tree.map(spread, arguments, tuple(in_batched)))
        return (rows, count), jax.tree.map(lambda _: True, (rows, count))

    return folded


def _fold(rows, decay, pieces):
    new = []
    for old, late in zip(rows, pieces, strict=True):
        if late == ():
            new.append(())
            continue
        past = [_sum([times(d, old[b]) for b, d in enumerate(row)], None) for row in decay]
        new.append(tuple(a + _product(late.inputs, k) for a, k in zip(past, late.gains, strict=True)))
    return tuple(new)


def _product(inputs, gains):
    """The sum over steps of inputs times gains, (fan_in, gates, units). Of complex gains part by part."""
    def product(q, k):  # of matrices: XLA gives one with more axes another layout, and copies it
        flat = k.reshape(len(k), -1)
        found = jax.lax.dot_general(q, flat, (((0,), (0,)), ((), ())), precision=jax.lax.Precision.HIGHEST)
        return found.reshape(q.shape[1], *k.shape[1:])

    if jnp.iscomplexobj(gains) and not jnp.iscomplexobj(inputs):
        return jax.lax.complex(product(inputs, gains.real), product(inputs, gains.imag))
    return product(inputs, gains)


def _sum(terms, like):
    return sum(terms[1:], terms[0]) if terms else jnp.zeros_like(like)
