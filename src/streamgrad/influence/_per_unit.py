"""The layout of SnAp-1 on a bank: each parameter's effect on its own unit."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.dtypes import real_factor, trace_dtype
from .._base.ranks import in_rank, together
from .._cpu.materialise import WORTH_SHIELDING, materialise
from .._cpu.order import ordered
from ..cells import Bank, Link
from ._layout import Layout
from ._sequential import copies_needed, linearise_sequentially


@dataclasses.dataclass(frozen=True)
class PerUnit(Layout[Bank]):
    r"""One trace per state entry, shaped like the weights: no index arrays, no gather.

    For a weight of gate g of unit i with input q, over the entries a, b of unit i,

        J[a] <- sum_b D[a, b] J[b] + K[a, g] q

    with D the unit's own block of the dynamics, its link to itself included. Where a new entry is made of one before it
    (an LSTM's h' = o tanh c'), J[a] takes that one's new J instead of all the old ones that it was made of. Exact when
    no unit reads another one. `trace[l][a]` belongs to link l and entry a.

    `only`: names of the links that have traces, None for all; the gradient of the others is left zero.
    """

    only: tuple[str, ...] | None = None

    def traced(self, core) -> tuple[bool, ...]:
        """Whether the weights of each link have traces."""
        return tuple(self.only is None or link.name in self.only for link in core.links)

    def init(self, core):
        zero = lambda weights: jnp.zeros(weights.shape, trace_dtype(weights.dtype))
        pairs = zip(core.weights, self.traced(core), strict=True)
        return tuple(tuple(zero(weights) for _ in range(core.entries)) if kept else () for weights, kept in pairs)

    def advance(self, core, trace, state, x):
        step = linearise_sequentially(core, state, x)
        earlier, within, by_drive = step.earlier, self.within(core, step), step.drive
        kept = sum(weights.size for weights, old in zip(core.weights, trace, strict=True) if old != ())
        if kept >= WORTH_SHIELDING:
            earlier, within, by_drive = materialise((earlier, within, by_drive))
        new = []
        for link, old, q in zip(core.links, trace, step.inputs, strict=True):
            if old == ():
                new.append(())
                continue
            dtype, rows = old[0].dtype, []
            for a in range(core.entries):
                rows = ordered(rows)  # in the place of old ones that are read no more
                pairs = (*zip(earlier[a], rows, strict=True), *zip(within[a], old, strict=True))
                terms = [times(d.astype(dtype), j) for d, j in pairs if d is not None]
                if (k := gates(by_drive[a], link)) is not None:
                    terms.append(times(k.astype(dtype), q.astype(dtype if jnp.iscomplexobj(q) else old[0].real.dtype)))
                rows.append(sum(terms[1:], terms[0]) if terms else jnp.zeros_like(old[a]))
            new.append(tuple(rows))
        return step.state, tuple(new)

    def dynamics(self, core, state, x):
        """D within each unit, `[a][b]` -> (units,) or None."""
        return self.within(core, core.linearise(state, x))

    def within(self, core, step):
        """D within each unit, from the linearised step."""
        return own_dynamics(core, step)

    @staticmethod
    def back(own, epsilon):
        """ε D, for D as `dynamics` gives it."""
        entries = range(len(own))
        terms = [[epsilon[a] * own[a][b] for a in entries if own[a][b] is not None] for b in entries]
        return jnp.stack([sum(row[1:], row[0]) if row else jnp.zeros_like(epsilon[0]) for row in terms])

    def pullback(self, core, trace, cotangent):
        grads = []
        cotangent = _computed_once(core, cotangent)
        for weights, rows in zip(core.weights, trace, strict=True):
            if rows == ():
                grads.append(jnp.zeros_like(weights))
                continue
            deltas = [in_rank(told_in_every_row(d) if _is_large(core) else d, weights.ndim) for d in cotangent]
            terms = [delta.astype(row.dtype) * row for delta, row in zip(deltas, rows, strict=True)]
            if core.entries > 1:
                # XLA leaves out the trace of an entry that no output shows, whose cotangent it knows to be zero.
                terms = [jnp.where(delta == 0, 0, term) for delta, term in zip(deltas, terms, strict=True)]
            grad = sum(terms[1:], terms[0])
            grads.append(grad.astype(weights.dtype))
        return eqx.tree_at(lambda bank: bank.weights, core, tuple(grads))

    def told_by_row(self, core):
        """Weights whose gradient, of products δ[i] J[k, g, i], is finite for all k if it is for one k, while inputs and
        states are moderate.

        Where δ, D or K is not finite, its product with anything is not: no row then is. A trace grows by D alone, for
        some steps that are not looked at whole."""
        pairs = zip(core.weights, self.traced(core), strict=True)
        told = tuple(w for w, traced in pairs if traced and w.ndim == 3 and not jnp.iscomplexobj(w))
        return told if _is_large(core) else ()

    def flops(self, core):
        per_entry = 2 * core.entries + 1
        pairs = zip(core.weights, self.traced(core), strict=True)
        return real_factor(core.dtype) * per_entry * core.entries * sum(w.size for w, kept in pairs if kept)

    def temporaries(self, core):
        # Updated in place, one entry after another.
        return self.nbytes(core) * copies_needed(core) // core.entries

    def describe(self):
        of = "each parameter's" if self.only is None else f"{' and '.join(self.only)}:"
        return f"{of} effect on its own unit, shaped like the weights"


@dataclasses.dataclass(frozen=True)
class StateTraces(PerUnit):
    """As `PerUnit`, along a unit's own state alone: what it says of itself through a link is held fixed."""

    def within(self, core, step):
        return step.own

    def whole(self, core, n):
        return not any(link.source == "h" for link in core.links)

    def describe(self):
        return "each parameter's effect along its unit's own state, shaped like the weights"


def _computed_once(core: Bank, cotangent):
    """The cotangents of a large bank, as arrays: XLA would compute what stands above those that the output shows (a
    norm, a slope, the loss) again for every weight. With one entry a unit it does not."""
    if not _is_large(core) or core.entries == 1 or jnp.iscomplexobj(cotangent[0]):
        return cotangent
    deltas = [*cotangent]
    shown = [deltas[a] for a in core.shown]
    shown += [jnp.zeros_like(deltas[0])] * (len(shown) == 1)  # a product of one row is none
    for a, delta in zip(core.shown, materialise(shown)):
        deltas[a] = delta
    return deltas


def told_in_every_row(delta):
    """δ, NaN where it is so large that its product with one trace may overflow and that with another not.

    A product, so that what is zero by the form of the program still is."""
    if jnp.iscomplexobj(delta):
        return delta
    return delta * jnp.where(jnp.abs(delta) < float(jnp.finfo(delta.dtype).max) ** 0.5, 1, jnp.nan).astype(delta.dtype)


def _is_large(core: Bank) -> bool:
    return sum(weights.size for weights in core.weights) >= WORTH_SHIELDING


def times(a, b):
    """a b. Complex numbers are multiplied part by part: an input that is real costs half, and XLA's CPU compiler
    vectorises the loop over a complex trace better so."""
    a, b = together(a, b)
    if not jnp.iscomplexobj(a):
        return a * b
    if not jnp.iscomplexobj(b):
        return jax.lax.complex(a.real * b, a.imag * b)
    return jax.lax.complex(a.real * b.real - a.imag * b.imag, a.real * b.imag + a.imag * b.real)


def own_dynamics(core: Bank, step):
    """D within each unit, `[a][b]` -> (units,) or None: its own state, and its link to itself."""
    within = [list(row) for row in step.own]
    for link, weights in zip(core.links, core.weights, strict=True):
        if link.source != "h" or (itself := link.links.own(weights)) is None:
            continue
        for a in range(core.entries):
            for g, weight in zip(link.drives, itself, strict=True):
                if (k := step.drive[a][g]) is not None:
                    so_far = within[a][core.emits]
                    within[a][core.emits] = k * weight if so_far is None else so_far + k * weight
    return within


def gates(by_drive, link: Link):
    """K for the gates of a link, (gates, units); None when it is zero."""
    rows = [by_drive[g] for g in link.drives]
    there = [row for row in rows if row is not None]
    return jnp.stack([jnp.zeros_like(there[0]) if row is None else row for row in rows]) if there else None
