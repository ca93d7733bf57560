"""Backpropagation through time."""

from __future__ import annotations

from typing import ClassVar, Literal

from ._algorithm import Algorithm, Carry, Traits
from ._unroll import backwards, by_state


class BPTT(Algorithm):
    r"""Ordinary backpropagation through the carry: exact within the differentiated window.

    Its step is plain, so credit flows through the carry: differentiate a window of steps at once, as
    `sg.Learner(..., update_every=window)` does. One step at a time it would silently be the one-step
    gradient, so the `Learner` refuses that. Memory grows with the window.

    Reference: Werbos, Backpropagation through time, 1990.
    """

    credit: ClassVar[Literal["trace", "carry"]] = "carry"

    def init(self, core, state, *, key):
        del core, state, key
        return ()

    def step(self, core, carry, x, *, context=None):
        del context
        return Carry(core(carry.state, x), ())

    def backward_credit(self, core, before, xs, delta, starts):
        return backwards(by_state(core), lambda s, x: (s, x), before, xs, delta, starts)

    def traits(self, core):
        structure = core.structure
        return Traits(
            bias="exact",
            reason="within the differentiated window; what came before it gets no credit",
            exact_at_one_step=True,
            zero_leaves=(),
            kept=0,
            full=structure.rows * structure.parameters,
            bytes=0,
            temporaries=0,
            flops=0,
            layout="the activations of the window",
            reference="Werbos 1990",
        )
