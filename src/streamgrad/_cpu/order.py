"""The order in which a step reads its arrays and overwrites them."""

from __future__ import annotations

import jax
from jaxtyping import PyTree

#: For `jax.jit(..., compiler_options=...)` on CPUs: with these, `ordered` counts. A loop that XLA compiles in one
#: piece refuses them.
KEEP_ORDER = {"xla_disable_hlo_passes": "cse_barrier_expander"}


def ordered(tree: PyTree) -> PyTree:
    """The same arrays, all of them computed before any is used.

    XLA's CPU compiler copies an array that may be read after it was overwritten, and knows no order but that of the
    data. Without `KEEP_ORDER` it drops this one too. Other backends fuse what is apart here, and need no order.
    """
    return jax.lax.optimization_barrier(tree) if jax.default_backend() == "cpu" else tree
