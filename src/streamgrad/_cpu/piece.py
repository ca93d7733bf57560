"""A small step as one kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun
from jaxtyping import Array, PyTree

#: Bytes of a state up to which a step is one piece: as much as the nearest caches hold. More is worth several threads.
LARGEST = 1 << 20
#: XLA's own marks of a call: it is not dissolved into its surroundings, and is compiled as one kernel.
MARKS = {"inlineable": "false", "xla_cpu_small_call": "true"}
#: What XLA can make a part of a kernel, by the names of JAX. A library's function, a sort or a scatter is none.
PARTS = """
abs acos acosh add add_any and argmax argmin asin asinh atan atan2 atanh bessel_i0e bessel_i1e bitcast_convert_type
broadcast_in_dim cbrt ceil clamp complex concatenate cond conj convert_element_type copy cos cosh cummax cummin
cumprod cumsum custom_jvp_call custom_vjp_call custom_vmap_call digamma div dot_general dynamic_slice
dynamic_update_slice eq erf erf_inv erfc exp exp2 expm1 floor gather ge gt imag integer_pow iota is_finite jit le
lgamma log log1p logistic lt max min mul ne neg nextafter not online_gradient optimization_barrier or pad
platform_index population_count pow random_bits random_fold_in random_seed random_split random_unwrap random_wrap real
reduce_and reduce_max reduce_min reduce_or reduce_precision reduce_prod reduce_sum rem remat2 reshape rev round rsqrt
scan select_n shift_left shift_right_arithmetic shift_right_logical sign sin sinh slice split sqrt square squeeze
stack stop_gradient sub tan tanh tile transpose while xor
""".split()  # noqa: SIM905


def piece(function: Callable) -> Callable:
    """The same function, of which XLA makes one kernel, on CPUs and where it can.

    XLA's CPU compiler makes a kernel of each group of fused operations, and starts them one after another, some in
    other threads: a small step spends most of its time so. It fuses nothing into a piece, nor out of it. Compile what
    holds a piece with `piece_options`.
    """

    def call(*arguments: Any) -> Any:
        leaves, form = jax.tree.flatten(jax.tree.map(jnp.asarray, arguments))
        if jax.default_backend() != "cpu" or sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) > LARGEST:
            return function(*arguments)
        forms = []

        def flat(*leaves: Any) -> list[Any]:
            outputs, given = jax.tree.flatten(function(*form.unflatten(leaves)))
            forms.append(given)
            return outputs

        made = jax.make_jaxpr(flat)(*leaves)
        operations = jaxpr_as_fun(made)
        return forms[0].unflatten((marked(operations) if fits(made) else operations)(*leaves))

    return call


def apart(tree: PyTree[Array]) -> PyTree[Array]:
    """The same arrays, on CPUs written before they are used, whatever their size: as a piece, fused with nothing."""
    leaves, form = jax.tree.flatten(tree)
    return form.unflatten(marked(lambda *leaves: leaves)(*leaves)) if leaves else tree


def marked(function: Callable) -> Callable:
    """The function of arrays as a call with XLA's marks.

    Twice, one within the other: XLA aborts where a piece takes an array that nothing in it reads any more once it was
    simplified. The outer one hands all of them on. It aborts for arrays without entries, too: they stay outside.
    """

    def call(*leaves: Any) -> list[Any]:
        full = [leaf for leaf in leaves if leaf.size]
        empty: list[Any] = []  # outputs without entries; None where there are some

        def inner(*full: Any) -> list[Any]:
            those = iter(full)
            with set_xla_metadata(**dict.fromkeys(MARKS)):  # the marks are of the call alone
                outputs = function(
                    *(next(those) if leaf.size else jnp.empty(leaf.shape, leaf.dtype) for leaf in leaves)
                )
            empty[:] = [None if leaf.size else (leaf.shape, leaf.dtype) for leaf in outputs]
            return [leaf for leaf in outputs if leaf.size]

        once = jax.jit(inner)
        with set_xla_metadata(**MARKS):
            outputs = iter(jax.jit(lambda *full: once(*full))(*full))
        return [next(outputs) if none is None else jnp.empty(*none) for none in empty]

    return call


def fits(made: ClosedJaxpr) -> bool:
    """Whether XLA can make one kernel of these operations."""
    return not made.effects and all(name in PARTS for name in _names(made.jaxpr))


def _names(jaxpr: Jaxpr) -> Iterator[str]:
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(inner):
                yield from _names(getattr(inner, "jaxpr", inner))


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, ClosedJaxpr | Jaxpr)


def as_it_is(function: Callable) -> Callable:
    """The function itself."""
    return function
