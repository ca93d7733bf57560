"""Operations of a function, counted from its lowered program."""

from __future__ import annotations

import jax


def flops(function, *arguments) -> int:
    """Floating-point operations of a function, counted by XLA on the lowered program."""
    counted = jax.jit(function).lower(*arguments).cost_analysis() or {}
    return int(counted.get("flops", 0))
