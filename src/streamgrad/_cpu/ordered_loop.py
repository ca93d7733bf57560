"""How the loops of a learner are compiled."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

from .options import compiler_options, piece_options
from .order import KEEP_ORDER
from .piece import LARGEST, as_it_is, piece

#: Bytes from which an order is worth having. With it XLA's compiler aborts the process on some tiny loops.
LARGE = 1 << 15


class Compiled:
    """`function(whole, static, arrays, steps)`, compiled; `arrays` are consumed, and returned changed as the first
    result. `whole`: how to mark a step: as a `piece` where the arrays are small, as it is where they are not.

    On CPUs with the order that `ordered` gives, so that no large array is copied. A loop that XLA compiles in one
    piece does not take it (a tiny one, or any with `xla_cpu_small_while_loop_byte_threshold`), and does without.
    """

    def __init__(self, function: Callable, *, batched: bool):
        def compiled(whole: Callable, options: dict[str, str]) -> Callable:
            named = functools.partial(function, whole)
            return jax.jit(named, static_argnums=0, donate_argnums=1, compiler_options=options)

        options = compiler_options(batched=batched)
        self._batched = batched
        self._whole = compiled(piece, piece_options())
        self._usual = compiled(as_it_is, options)
        self._ordered = compiled(as_it_is, options | KEEP_ORDER)
        self._how: Callable | None = None

    def __call__(self, static: Any, arrays: Any, steps: Any) -> Any:
        if self._how is None:
            size = sum(leaf.nbytes for leaf in jax.tree.leaves(arrays))
            if jax.default_backend() != "cpu":
                self._how = self._usual
            elif size <= LARGEST and not self._batched:
                self._how = self._whole
            else:
                self._how = self._ordered if size > LARGE else self._usual
        if self._how is self._ordered:
            try:
                return self._ordered(static, arrays, steps)
            except jax.errors.JaxRuntimeError:
                if any(leaf.is_deleted() for leaf in jax.tree.leaves(arrays)):  # it was compiled, and failed later
                    raise
                self._how = self._usual
        return self._how(static, arrays, steps)
