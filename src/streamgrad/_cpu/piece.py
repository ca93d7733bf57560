"""A small step as one kernel."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun
from jaxtyping import Array, PyTree

from .options import compiler_options

#: Bytes that a piece may take, or make on its way: as much as the nearest caches hold. More is worth several threads.
LARGEST = 1 << 20
#: Multiply-adds of a product of two matrices within a piece: a bare loop makes them, where a library has tiles.
PRODUCT = 4096
#: Entries of which a piece may take a sine or the like: one by one, where XLA's other kernels take them side by side.
ONE_BY_ONE = 1024
SLOW = {"sin", "cos", "tan", "asin", "acos", "atan", "atan2"}
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
stack stop_gradient sub tan tanh tile transpose unstack while xor
""".split()  # noqa: SIM905


def piece(function: Callable) -> Callable:
    """The same pure function of arrays, of which XLA makes one kernel, on CPUs and where it is worth it.

        step = sg.piece(step)
        run = jax.jit(lambda st, xs: jax.lax.scan(step, st, xs), compiler_options=sg.compiler_options(pieces=True))

    XLA's CPU compiler makes a kernel of each group of fused operations, and starts them one after another, some in
    other threads: a small step spends most of its time so. It fuses nothing into a piece, nor out of it: a step rounds
    alike wherever it stands. Left as it is: what takes more than 1 MB, has a large product of two matrices, a sort, a
    scatter, a callback, and the like. Batches are better off without it: `jax.vmap` of a piece is one kernel, too, in
    one thread. Other options of the compiler may refuse to compile it.
    """

    def call(*arguments: Any) -> Any:
        if jax.default_backend() != "cpu":
            return function(*arguments)
        made, leaves, form = _made(function, arguments)
        operations = jaxpr_as_fun(made)
        return form.unflatten((marked(operations) if fits(made) else operations)(*leaves))

    return call


def as_it_is(function: Callable) -> Callable:
    """The function itself."""
    return function


def is_piece(function: Callable, *arguments: Any) -> bool:
    """Whether `piece` makes one kernel of the function of such arguments: arrays, or shapes and types."""
    return jax.default_backend() == "cpu" and fits(_made(function, arguments)[0])


def _made(function: Callable, arguments: tuple) -> tuple[ClosedJaxpr, list[Any], Any]:
    """The operations, the arrays that they take, and the form of what they give."""
    as_array = lambda leaf: leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jnp.asarray(leaf)
    leaves, form = jax.tree.flatten(jax.tree.map(as_array, arguments))
    forms = []

    def flat(*leaves: Any) -> list[Any]:
        outputs, given = jax.tree.flatten(function(*form.unflatten(leaves)))
        forms.append(given)
        return outputs

    return jax.make_jaxpr(flat)(*leaves), leaves, forms[0]


def chosen(function: Callable, *arguments: Any, options: dict[str, str]) -> tuple[Callable, dict[str, str]]:
    """How to mark the function, by `piece` or `as_it_is`, and the compiler's options then; `options`: of the latter."""
    return (piece, compiler_options(pieces=True)) if is_piece(function, *arguments) else (as_it_is, options)


class ByPieces:
    """`call(whole, *arguments)`, compiled: with `whole=piece` where what it marks is a piece, else with `as_it_is`.

    - `step(*arguments) -> (function, its arguments)`: what `call` marks; asked at the first call;
    - `options`: of the compiler, without pieces; `jit`: as `jax.jit` takes it, without the argument `whole`.
    """

    def __init__(self, call: Callable, step: Callable[..., tuple], *, options: dict[str, str], **jit: Any):
        compiled = lambda whole, options: jax.jit(functools.partial(call, whole), compiler_options=options, **jit)
        self._step, self._options, self._compiled = step, options, compiled
        self._call: Callable | None = None

    def __call__(self, *arguments: Any) -> Any:
        if self._call is None:
            function, of = self._step(*arguments)
            self._call = self._compiled(*chosen(function, *of, options=self._options))
        return self._call(*arguments)


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
    """Whether XLA can make one kernel of these operations, and it is no slower than several."""
    size = lambda aval: aval.size * aval.dtype.itemsize
    if made.effects or sum(map(size, made.in_avals)) > LARGEST:
        return False
    one_by_one = 0
    for operation in _operations(made.jaxpr):
        name, outputs = operation.primitive.name, [variable.aval for variable in operation.outvars]
        if name not in PARTS or any(size(aval) > LARGEST for aval in outputs):
            return False
        if name == "dot_general" and _is_large(operation):
            return False
        one_by_one += sum(aval.size for aval in outputs) if name in SLOW else 0
    return one_by_one <= ONE_BY_ONE


def _is_large(product: Any) -> bool:
    """Whether a product is one of matrices with many multiply-adds."""
    (contracted, _), (batch, _) = product.params["dimension_numbers"]
    left, right = (variable.aval.shape for variable in product.invars)
    sizes = lambda shape, axes: math.prod(shape[axis] for axis in axes)
    both, summed = sizes(left, batch), sizes(left, contracted)
    rows, columns = math.prod(left) // max(both * summed, 1), math.prod(right) // max(both * summed, 1)
    return min(rows, columns) > 1 and both * summed * rows * columns > PRODUCT


def _operations(jaxpr: Jaxpr) -> Iterator[Any]:
    """All operations, those of loops and branches included."""
    for operation in jaxpr.eqns:
        yield operation
        for inner in jax.tree.leaves(list(operation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(inner):
                yield from _operations(getattr(inner, "jaxpr", inner))


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, ClosedJaxpr | Jaxpr)
