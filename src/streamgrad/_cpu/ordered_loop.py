"""How the loops of a learner are compiled."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

from .options import compiler_options
from .order import KEEP_ORDER
from .piece import as_it_is, is_piece, piece

#: Bytes from which an order is worth having. With it XLA's compiler aborts the process on some tiny loops.
LARGE = 1 << 15


class Compiled:
    """`function(whole, static, arrays, steps)`, compiled; `arrays` are consumed, and returned changed as the first
    result. `whole` marks a step: as a `piece` where `step(static, arrays, steps) -> (function, its arguments)` is one,
    else as it is.

    Else, on CPUs, with the order that `ordered` gives, so that no large array is copied. A loop that XLA compiles in
    one piece does not take it (a tiny one, or any with `xla_cpu_small_while_loop_byte_threshold`), and does without.
    """

    def __init__(self, function: Callable, step: Callable[..., tuple] | None = None, *, batched: bool):
        def compiled(whole: Callable, options: dict[str, str]) -> Callable:
            named = functools.partial(function, whole)
            return jax.jit(named, static_argnums=0, donate_argnums=1, compiler_options=options)

        options = compiler_options(batched=batched)
        self._step = None if batched else step
        self._whole = compiled(piece, compiler_options(pieces=True))
        self._usual = compiled(as_it_is, options)
        self._ordered = compiled(as_it_is, options | KEEP_ORDER)
        self._how: dict[Any, Callable] = {}

    def __call__(self, static: Any, arrays: Any, steps: Any) -> Any:
        how = self._how.get(static) or self._chosen(static, arrays, steps)
        if how is self._ordered:
            try:
                return how(static, arrays, steps)
            except jax.errors.JaxRuntimeError:
                if any(leaf.is_deleted() for leaf in jax.tree.leaves(arrays)):  # it was compiled, and failed later
                    raise
                how = self._how[static] = self._usual
        return how(static, arrays, steps)

    def _chosen(self, static: Any, arrays: Any, steps: Any) -> Callable:
        how = self._usual
        if self._step is not None and is_piece((found := self._step(static, arrays, steps))[0], *found[1]):
            how = self._whole
        elif jax.default_backend() == "cpu" and sum(leaf.nbytes for leaf in jax.tree.leaves(arrays)) > LARGE:
            how = self._ordered
        self._how[static] = how
        return how
