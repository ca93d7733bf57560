"""Branches and choices without the copies that XLA makes for them on a CPU."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.lax import bitcast_convert_type
from jaxtyping import Array, Bool, PyTree

from .._base.select import select

T = TypeVar("T")


def when(flag: Bool[Array, ""], change: Callable[[T], T], kept: T) -> T:
    """`change(kept)` where the flag is set, else `kept`: a loop of one turn, or of none.

    A branch (`jax.lax.cond`) copies what it leaves as it is, at every step; a loop carries it in place. There is no
    gradient backwards through it."""
    turn = lambda both: (jnp.zeros_like(both[0]), change(both[1]))
    return jax.lax.while_loop(lambda both: both[0], turn, (flag, kept))[1]


def after(flag: Bool[Array, ""], tree: PyTree) -> Bool[Array, ""]:
    """The same flag, known only when the tree is computed: what the flag decides cannot be moved before that.

    The compiler copies arrays that something may read after they are overwritten. That a number clipped to 1 is never
    above 2 it does not see."""
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            flag &= ~(jnp.clip(jnp.max(leaf, initial=0), 0, 1) > 2)
    return flag


def select_bits(flag):
    """Choose like `select`, but by the bits of numbers: within a loop over many entries a mask costs next to nothing,
    while a flag would stop the loop from being vectorised and a branch would copy what it passes on."""
    by_flag = select(flag)

    def choose(new, old):
        if not jnp.issubdtype(old.dtype, jnp.floating):
            return by_flag(new, old)
        bits = jnp.dtype(f"uint{old.dtype.itemsize * 8}")
        mask = -flag.astype(bits)  # all ones where it is set
        mask = mask.reshape(flag.shape + (1,) * (old.ndim - flag.ndim))
        of_new, of_old = bitcast_convert_type(new.astype(old.dtype), bits), bitcast_convert_type(old, bits)
        return bitcast_convert_type((of_new & mask) | (of_old & ~mask), old.dtype)

    return choose
