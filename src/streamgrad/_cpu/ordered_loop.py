"""How the loops of a learner are compiled."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

from .options import compiler_options
from .order import KEEP_ORDER

#: Bytes from which an order is worth having. With it XLA's compiler aborts the process on some tiny loops.
LARGE = 1 << 15


class Compiled:
    """`function(static, arrays, steps)`, compiled; `arrays` are consumed, and returned changed as the first result.

    On CPUs with the order that `ordered` gives, so that no large array is copied. A loop that XLA compiles in one
    piece does not take it (a tiny one, or any with `xla_cpu_small_while_loop_byte_threshold`), and does without.
    """

    def __init__(self, function: Callable, *, batched: bool):
        options = compiler_options(batched=batched)
        compiled = functools.partial(jax.jit, function, static_argnums=0, donate_argnums=1)
        self._usual = compiled(compiler_options=options)
        self._ordered = compiled(compiler_options=options | KEEP_ORDER)
        self._takes_order: bool | None = None

    def __call__(self, static: Any, arrays: Any, steps: Any) -> Any:
        if self._takes_order is None:
            leaves = jax.tree.leaves(arrays)
            self._takes_order = jax.default_backend() == "cpu" and sum(leaf.nbytes for leaf in leaves) > LARGE
        if self._takes_order:
            try:
                return self._ordered(static, arrays, steps)
            except jax.errors.JaxRuntimeError:
                if any(leaf.is_deleted() for leaf in jax.tree.leaves(arrays)):  # it was compiled, and failed later
                    raise
                self._takes_order = False
        return self._usual(static, arrays, steps)
