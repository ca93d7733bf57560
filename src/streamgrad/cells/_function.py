"""Any JAX step as a cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._base.static import Static
from ..structure import Structure
from ._cell import Cell, check_sizes
from ._function_core import FunctionCore, Seeing, flat, from_units, to_rows, to_units
from ._function_pattern import analysed

#: The largest influence, in entries, that a cell without a known pattern may ask for (1 GiB in float32).
LARGEST_DENSE = 2**28


class Function(Cell):
    r"""Any JAX step as a cell: `step(params, state, x) -> state`.

    The patterns of ∂s'/∂s and ∂s'/∂θ are found by `asdex` (the extra `streamgrad[function]`), for every
    input at once, and checked against automatic differentiation at random points; where a part of the step has a
    derivative of its own (`jax.custom_jvp`, `jax.custom_vjp`), in the program of that derivative. Where they cannot be
    found every entry is taken to be non-zero, with a warning that says why; `pattern="dense"` says so from the start.

    A step that has a derivative in one mode alone (a `jax.lax.while_loop` in forward mode, a `jax.custom_vjp` in
    reverse) takes the algorithms that need no other: `sg.Recurrent` refuses the rest.

    `seen`: for units that see each other only through it, such as a column and its own readout weight. Then the step
    is `step(params, state, x, seen(params, state, x))`, units are the last axis of every array of params and state,
    and with what is seen held fixed a unit depends on its own parameters and state alone: `SnAp(1)` keeps just that,
    at a cost linear in the units, whatever the units see.

    - `params`: pytree, its inexact-array leaves real; `state`: the initial state, a pytree of arrays;
    - `output(params, state, x) -> (out,)`: by default every entry of the state;
    - `step` and `output` are static: define them once, at module level.

    Raises `TypeError` for complex parameters, a step that changes the state's shape or dtype, or one that cannot be
    differentiated; `ValueError`
    when a dense influence would exceed `LARGEST_DENSE` entries.
    """

    params: PyTree
    initial: Constant
    step: Callable = eqx.field(static=True)
    output_of: Callable | None = eqx.field(static=True)
    in_size: int = eqx.field(static=True)
    pattern: Structure = eqx.field(static=True)
    groups: Static = eqx.field(static=True)
    mode: Literal["forward", "reverse", "both"] = eqx.field(static=True)

    def __init__(
        self,
        step,
        params,
        state,
        *,
        in_size: int,
        output: Callable | None = None,
        pattern: str = "auto",
        seen: Callable | None = None,
    ):
        check_sizes(in_size=in_size)
        if pattern not in ("auto", "dense"):
            raise ValueError(f"pattern is 'auto' or 'dense', got {pattern!r}.")
        for leaf in jax.tree.leaves(params):
            if eqx.is_inexact_array(leaf) and jnp.iscomplexobj(leaf):
                raise TypeError("Function: parameters must be real; keep real and imaginary parts apart.")
        state = jax.tree.map(jnp.asarray, state)
        self.params = params
        self.initial = Constant(state)
        if seen is not None:
            _check_units(params, state)
            step = Seeing(step, seen)
        self.step, self.output_of, self.in_size = step, output, in_size
        x = jax.ShapeDtypeStruct((in_size,), jax.eval_shape(to_rows, state).dtype)
        _check_step(step, params, state, x)
        if isinstance(step, Seeing):
            _check_apart(step, params, state, x)
        analysis = analysed(step, params, state, x)
        self.mode = analysis.mode
        found = analysis.detected() if pattern == "auto" else None
        if seen is not None:
            self.pattern, self.groups = by_unit(params, state, found)
        else:
            self.pattern, self.groups = _dense(params, state) if found is None else found

    def core(self):
        return FunctionCore(self.params, self.step, self.pattern, self.groups, self.mode)

    def init_state(self):
        return self.initial.value

    def output(self, state, x):
        return to_rows(state) if self.output_of is None else self.output_of(self.params, state, x)

    def parameter_unit(self):
        leaves, treedef = jax.tree.flatten(eqx.filter(self.params, eqx.is_inexact_array))
        parts = np.split(self.groups.value, np.cumsum([leaf.size for leaf in leaves])[:-1])
        inside = jax.tree.unflatten(treedef, [p.reshape(leaf.shape) for p, leaf in zip(parts, leaves, strict=True)])
        fixed = jax.tree.map(lambda leaf: np.array(-1), eqx.filter(self, eqx.is_inexact_array))
        return eqx.tree_at(lambda cell: cell.params, fixed, inside)


class Constant(eqx.Module):
    """A pytree of arrays that nothing trains: static, or, where a transformation of JAX holds their values, as bits,
    which no gradient and no optimiser sees."""

    bits: tuple[Array, ...]
    static: tuple[Static, ...] = eqx.field(static=True)
    like: Any = eqx.field(static=True)

    def __init__(self, value: PyTree[Array]):
        leaves, treedef = jax.tree.flatten(value)
        self.like = treedef, tuple((leaf.shape, jnp.dtype(leaf.dtype)) for leaf in leaves)
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
        self.bits = tuple(map(_to_bits, leaves)) if traced else ()
        self.static = () if traced else tuple(map(Static, leaves))

    @property
    def value(self) -> PyTree[Array]:
        treedef, like = self.like
        if self.static:
            return jax.tree.unflatten(treedef, [jnp.asarray(leaf.value) for leaf in self.static])
        return jax.tree.unflatten(treedef, [_from_bits(b, *each) for b, each in zip(self.bits, like, strict=True)])


def _to_bits(leaf):
    if not eqx.is_inexact_array(leaf):
        return leaf
    parts = jnp.stack([leaf.real, leaf.imag]) if jnp.iscomplexobj(leaf) else leaf
    return jax.lax.bitcast_convert_type(parts, jnp.dtype(f"uint{8 * parts.dtype.itemsize}"))


def _from_bits(bits, shape, dtype):
    if not jnp.issubdtype(dtype, jnp.inexact):
        return bits
    real = jnp.finfo(dtype).dtype
    parts = jax.lax.bitcast_convert_type(bits, real)
    return jax.lax.complex(parts[0], parts[1]) if jnp.issubdtype(dtype, jnp.complexfloating) else parts


def _check_step(step, params, state, x):
    shape = lambda tree: jax.tree.map(lambda a: (a.shape, str(a.dtype)), tree)
    before, after = jax.eval_shape(lambda s: s, state), eqx.filter_eval_shape(step, params, state, x)
    if jax.tree.structure(before) != jax.tree.structure(after) or shape(before) != shape(after):
        raise TypeError(
            f"Function: step must return a state of the same structure, shapes and dtypes as the initial one.\n"
            f"  initial: {shape(before)}\n  returned: {shape(after)}"
        )


def _check_units(params, state):
    """Refuse arrays that do not all have the same units as their last axis."""
    leaves = [*jax.tree.leaves(eqx.filter(params, eqx.is_inexact_array)), *jax.tree.leaves(state)]
    sizes = {leaf.shape[-1:] for leaf in leaves}
    if len(sizes) != 1 or () in sizes or any(jnp.iscomplexobj(leaf) for leaf in leaves):
        raise ValueError(
            "Function(seen=...): every array of params and state must be real and have the units as its last axis, got "
            f"last axes {sorted(sizes)}."
        )


def _check_apart(step: Seeing, params, state, x):
    """Refuse a step in which, what is seen held fixed, a unit depends on the state of another one at a random point."""
    entries = jax.eval_shape(to_units, state)
    theta, fixed = eqx.partition(params, eqx.is_inexact_array)

    leaves, treedef = jax.tree.flatten(theta)

    @jax.jit
    def derivative(drawn, entries, x):
        at = eqx.combine(jax.tree.unflatten(treedef, drawn), fixed)
        seen = step.seen(at, from_units(entries, state), x)
        return jax.jacrev(lambda entries: to_units(step.step(at, from_units(entries, state), x, seen)))(entries)

    rng = np.random.default_rng(0)
    draw = lambda like: rng.normal(size=like.shape).astype(like.dtype)
    with jax.ensure_compile_time_eval():
        by_entry = np.asarray(derivative(list(map(draw, leaves)), draw(entries), draw(x)))  # (entries, units) twice
    other = ~np.eye(entries.shape[1], dtype=bool)
    if np.any(np.abs(np.moveaxis(by_entry, 2, 1)[:, :, other]) > 0):
        raise ValueError(
            "Function(seen=...): with what is seen held fixed, the new state of a unit still depends on the old state "
            "of another one: let the step take all that units see of each other from its last argument."
        )


def by_unit(params, state, found: tuple[Structure, Static] | None = None) -> tuple[Structure, Static]:
    """The structure of units along the last axis of every array, from patterns of rows and parameters. When these are
    not known, every unit reads every other one within the step."""
    theta = eqx.filter(params, eqx.is_inexact_array)
    units = jax.tree.leaves(state)[0].shape[-1]
    number = lambda tree: np.concatenate(
        [np.broadcast_to(np.arange(units), leaf.shape).ravel() for leaf in jax.tree.leaves(tree)]
    )
    of_row, group = number(state), number(theta)
    reads = touches = np.ones((units, units), bool)
    if found is not None:
        rows, groups = found
        reads, touches = np.eye(units, dtype=bool), np.eye(units, dtype=bool)
        i, j = np.nonzero(rows.reads_matrix())
        reads[of_row[i], of_row[j]] = True
        row, parameter = np.nonzero(rows.reach(1)[:, groups.value])
        touches[of_row[row], group[parameter]] = True
    diagonal = np.array_equal(touches, np.eye(units, dtype=bool))
    structure = Structure(
        entry_unit=Static(of_row),
        reads=None if reads.all() and units > 1 else Static(np.stack(np.nonzero(reads))),
        touches=None if diagonal else Static(np.stack(np.nonzero(touches))),
        group_sizes=Static(np.bincount(group, minlength=units)),
    )
    return structure, Static(group)


def _dense(params, state):
    rows, parameters = jax.eval_shape(to_rows, state).size, eqx.filter_eval_shape(flat, params).size
    if rows * parameters > LARGEST_DENSE:
        raise ValueError(
            f"Function: the influence of {parameters} parameters on {rows} state entries has {rows * parameters:.2e} "
            f"entries, more than {LARGEST_DENSE:.2e}, and no sparse pattern is known. Make the cell smaller, install "
            "streamgrad[function] so that its pattern can be found, or write it as drives of units."
        )
    # One unit for all rows, one group for all parameters.
    structure = Structure(Static(np.zeros(rows, int)), None, None, Static(np.array([parameters])))
    return structure, Static(np.zeros(parameters, int))
