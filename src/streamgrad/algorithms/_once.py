"""First derivatives alone: an influence holds no other, and a program differentiated twice would leave out half."""

from __future__ import annotations

import equinox as eqx
import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import PyTree


def once(tree: PyTree) -> PyTree:
    """The same, and nothing in a compiled program; `TypeError` where its derivative is asked for.

    For what a backward rule is made from: it is reached by a derivative of the rule itself."""
    return jax.tree.map(lambda leaf: _once.bind(leaf) if eqx.is_inexact_array(leaf) else leaf, tree)


def _refuse(primals, tangents):
    raise TypeError(
        "The gradient of an online layer cannot be differentiated again (jax.hessian, a gradient of a gradient): its "
        "backward rule contracts dL/ds with an influence that holds first derivatives alone, and half of the second "
        "ones would be missing. Give the layer sg.BPTT() and differentiate a loss over a window of steps."
    )


# A primitive, and no function with a rule of its own: those lose their rule when JAX splits the program of a loop.
_once = Primitive("online_gradient")
_once.def_impl(lambda x: x)
_once.def_abstract_eval(lambda x: x)
ad.primitive_jvps[_once] = _refuse
batching.primitive_batchers[_once] = lambda args, axes: (_once.bind(*args), axes[0])
mlir.register_lowering(_once, lambda ctx, x: [x])
