"""No temporal credit at all."""

from __future__ import annotations

import equinox as eqx
import jax

from ._algorithm import Online, Traits, instantaneous
from ._unroll import everywhere


class Spatial(Online):
    r"""Spatial backpropagation: the recurrent term is stopped, so that nothing gets credit through the past.

    $$g_t = \frac{\partial L_t}{\partial s_t} \frac{\partial f}{\partial\theta}(\theta, s_{t-1}, x_t)$$

    for the parameters through which the input enters; those that act on the past alone (recurrent weights,
    an LRU's λ) get zero. `TBPTT(1)` is the same with their one-step gradient.

    Raises `TypeError`, when bound, for cores that cannot tell which parameters act on the past.

    Reference: the spatial baseline of Zucchet et al., 2023 (2305.15947).
    """

    def bind(self, core, state, x):
        del state, x
        core.acts_on_state()
        return self

    def init(self, core, state, *, key):
        del core, state, key
        return ()

    def advance(self, core, trace, state, x, context):
        del trace, context
        return core(state, x), (), (state, x)

    def pullback(self, core, residual, cotangent):
        state, x = residual
        gradient = instantaneous(core, state, x, cotangent)
        return None, jax.tree.map(lambda stop, leaf: leaf * 0 if stop else leaf, core.acts_on_state(), gradient)

    def backward_credit(self, core, before, xs, delta, starts):
        return delta

    def gradient_source(self, core):
        leaves = eqx.filter(core, eqx.is_inexact_array)
        return jax.tree.map(lambda leaf, stop: "nothing" if stop else "now", leaves, core.acts_on_state())

    def traits(self, core):
        return _memoryless(core, "nothing gets credit through the past", "Zucchet et al. 2023, arXiv 2305.15947", False)


class Frozen(Online):
    r"""A reservoir: the recurrence gets zero gradient, and only what lies above it learns. No optimiser of a `Learner`
    moves its weights, by decay or noise either.

    The input still gets the derivative of this step, so that layers below a frozen one learn spatially.

    Reference: Jaeger, The echo state approach, 2001.
    """

    def init(self, core, state, *, key):
        del core, state, key
        return ()

    def advance(self, core, trace, state, x, context):
        del trace, context
        return core(state, x), (), ()

    def pullback(self, core, residual, cotangent):
        del core, residual, cotangent
        return None, None

    def backward_credit(self, core, before, xs, delta, starts):
        return delta

    def gradient_source(self, core):
        return everywhere(core, "nothing")

    def traits(self, core):
        return _memoryless(core, "the recurrence does not learn", "Jaeger 2001", True)


def _memoryless(core, reason, reference, frozen):
    structure = core.structure
    return Traits(
        bias="biased",
        reason=reason,
        exact_at_one_step=False,
        zero_leaves=("*",) if frozen else _acting_on_state(core),
        kept=0,
        full=structure.rows * structure.parameters,
        bytes=0,
        temporaries=0,
        flops=0,
        layout="nothing is kept",
        reference=reference,
    )


def _acting_on_state(core):
    marks = jax.tree_util.tree_leaves_with_path(core.acts_on_state())
    return tuple(jax.tree_util.keystr(path) for path, stop in marks if stop is True)
