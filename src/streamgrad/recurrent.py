"""A recurrent layer: a cell, and how it learns through time."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact, Num, PRNGKeyArray

from .algorithms import Algorithm, Carry
from .algorithms._modes import check_modes
from .cells import Cell, Core


class Plan:
    """What an algorithm was bound to: a cell's kind, wiring and sizes, whatever its weights and their dtype.

    `binding`: whether the algorithm made anything of it; one that did not fits every cell."""

    __slots__ = ("binding", "kind", "shapes", "structure")

    def __init__(self, cell: Cell, *, binding: bool = True):
        self.binding, self.kind, self.shapes = binding, type(cell).__name__, _sizes(cell)
        structure, again = (jax.tree.structure(cell.core()) for _ in range(2))
        # A core that holds a new function each time says nothing by its structure.
        self.structure = structure if structure == again else None

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Plan) and all(getattr(self, k) == getattr(other, k) for k in self.__slots__)

    def __hash__(self) -> int:
        return hash((self.kind, tuple(self.shapes.items())))

    def check(self, cell: Cell, core: Core) -> None:
        """Refuse, with `ValueError`, a cell of another kind, wiring or size than the one that was planned for."""
        if not self.binding:
            return
        kind, shapes = type(cell).__name__, _sizes(cell)
        if kind != self.kind:
            what = f"a {kind}"
        elif shapes != self.shapes:
            name = next(k for k in self.shapes | shapes if self.shapes.get(k) != shapes.get(k))
            what = f"a {kind} with {name} of shape {shapes.get(name)}, planned was {self.shapes.get(name)}"
        elif self.structure is not None and jax.tree.structure(core) != self.structure:
            what = f"a {kind} of other wiring or options"
        else:
            return
        raise ValueError(
            f"The algorithm of this layer was planned for the {self.kind} that it was built with, but its cell is now "
            f"{what}: its gradient would be wrong. Build the layer anew, sg.Recurrent(cell, algorithm); only weights "
            "of the same structure may be exchanged within it."
        )

    def extra(self, cell: Cell) -> int:
        """How many more axes each array of a cell has than was planned for: those over which layers are stacked."""
        more = {len(shape) - len(self.shapes.get(name, shape)) for name, shape in _sizes(cell).items()}
        stacked = more.pop() if len(more) == 1 else 0
        same = all(shape[stacked:] == self.shapes.get(name) for name, shape in _sizes(cell).items())
        return stacked if stacked > 0 and same else 0


def _sizes(cell: Cell) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(cell, eqx.is_array))
    return {jax.tree_util.keystr(path).lstrip("."): leaf.shape for path, leaf in leaves}


class Recurrent(eqx.Module):
    r"""A cell that learns online: one step at a time, by ordinary `jax.grad` of this step's loss.

        carry    = layer.init(key=key)      # state and influence
        carry, y = layer(carry, x)          # one step

    The backward rule of a step contracts dL/ds with what the algorithm keeps of the past, so the gradient of
    a loss of `y` is the online gradient $g_t = (\partial L_t/\partial s_t) J_t$. The old carry gets no
    gradient (unless the algorithm is `BPTT`); the input gets the derivative of this step. Never differentiate
    a scan of online steps: that stores J at every step; sum gradients in the scan's carry instead.

    Unbatched; for a batch of streams `jax.vmap(layer)`, with a carry for each stream.

    Raises `TypeError` or `ValueError` when built with an algorithm that does not fit the cell, or called with
    an input or a carry of the wrong shape; `ValueError` when the cell was exchanged for one of another structure.
    """

    cell: Cell
    algorithm: Algorithm
    plan: Plan = eqx.field(static=True, init=False, repr=False)

    def __init__(self, cell: Cell, algorithm: Algorithm):
        if not isinstance(cell, Cell):
            raise TypeError(f"Recurrent expects a cell such as sg.cells.GRU(...), got {cell!r}.")
        if not isinstance(algorithm, Algorithm):
            raise TypeError(f"Recurrent expects an algorithm such as sg.SnAp(n=1), got {algorithm!r}.")
        _refuse_complex(cell)
        x = jax.ShapeDtypeStruct((cell.in_size,), jnp.float32)
        state = eqx.filter_eval_shape(lambda c: c.init_state(), cell)
        self.cell = cell
        core = cell.core()
        self.algorithm = algorithm.bind(core, state, x)
        check_modes(self.algorithm, core, state, cell.in_size)
        self.plan = Plan(cell, binding=self.algorithm is not algorithm)

    def init(self, *, key: PRNGKeyArray) -> Carry:
        """The state before the first step and an empty trace. `key` feeds algorithms that draw numbers:
        give every stream and every sequence its own."""
        state = self.cell.init_state()
        return Carry(state, self.algorithm.init(self.cell.core(), state, key=key))

    def __call__(
        self, carry: Carry, x: Num[Array, " in_size"], *, context=None
    ) -> tuple[Carry, Inexact[Array, " out_size"]]:
        """One step: the carry and an input to the new carry and the cell's output."""
        core = self.cell.core()
        self._check(core, carry, x)
        carry = self.algorithm.step(core, carry, x, context=context)
        return carry, self.cell.output(carry.state, x)

    def unroll(
        self, carry: Carry, xs: Num[Array, "*time_in_size"], resets: Any = None
    ) -> tuple[Carry, Inexact[Array, "time out_size"]]:
        """Many steps at once for frozen weights, with the sum of the online gradients as gradient and no traces:
        see `sg.nn.unroll`. The trace of the new carry is empty: credit starts anew."""
        if jnp.ndim(xs) != 2:
            raise ValueError(f"unroll expects inputs of shape (time, {self.cell.in_size}), got {jnp.shape(xs)}.")
        core = self.cell.core()
        self._check(core, carry, jax.ShapeDtypeStruct(jnp.shape(xs)[1:], jnp.result_type(xs)), traced=False)
        starts = None if resets is None else (resets[0], self.cell.init_state())
        states = self.algorithm.unroll(core, carry.state, xs, starts)
        last = jax.lax.stop_gradient(jax.tree.map(lambda leaf: leaf[-1], states))
        empty = jax.tree.map(jnp.zeros_like, carry.trace)
        return Carry(last, empty), jax.vmap(self.cell.output)(states, xs)

    def _check(self, core, carry, x, traced: bool = True) -> None:
        self.plan.check(self.cell, core)
        if jnp.shape(x) != (self.cell.in_size,):
            raise ValueError(
                f"{type(self.cell).__name__} expects an input of shape ({self.cell.in_size},), got {jnp.shape(x)}. "
                "One step of one stream at a time: scan over time, and jax.vmap(layer) over a batch."
            )
        if not isinstance(carry, Carry):
            raise TypeError(f"Recurrent expects the carry that layer.init(key=...) returned, got {type(carry)}.")
        expected = eqx.filter_eval_shape(lambda layer: layer.init(key=jax.random.key(0)), self)
        part = (lambda c: c) if traced else (lambda c: c.state)  # any trace will do where none is used
        if (want := _shapes(part(expected))) != (got := _shapes(part(carry))):
            different = [
                f"{k}: got {got.get(k)}, expected {want.get(k)}" for k in want | got if got.get(k) != want.get(k)
            ]
            raise ValueError(
                f"The carry does not fit this layer ({type(self.cell).__name__}, {type(self.algorithm).__name__}): "
                + "; ".join(different[:3])
                + ". Make it by this layer's own init(key=...), with the same cell, sizes, dtype and algorithm."
            )


def _shapes(tree) -> dict[str, tuple]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): (leaf.shape, str(leaf.dtype)) for path, leaf in leaves}


def _refuse_complex(cell: Cell) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(eqx.filter(cell, eqx.is_inexact_array)):
        if jnp.iscomplexobj(leaf):
            raise TypeError(
                f"Parameter {jax.tree_util.keystr(path)} of {type(cell).__name__} is complex ({leaf.dtype}): complex "
                "parameters get conjugate gradients and break Optax. Keep real and imaginary parts as real leaves "
                "and join them in core()."
            )
