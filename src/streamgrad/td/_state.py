"""What a TD learner knows between two steps: as a pytree, and packed into few arrays for a loop of single steps."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped

from .._base.owned import consumed
from .._base.packing import Packing
from ..nn import next_growth_step


class Parts(NamedTuple):
    """The parts of a `TDState`."""

    model: Any
    carry: PyTree
    trace: PyTree
    prediction: Float[Array, "*lead predictions"]
    begun: Bool[Array, "*lead"]
    optimiser: PyTree
    skipped: Int[Array, ""]
    key: PRNGKeyArray
    count: Shaped[Array, " 2"]


class Form:
    """The static part of a memory, and the packing of its arrays: static, compared by content, hashed once.

    `next_growth_step`: the step before which the model is to grow; None: never.
    """

    def __init__(self, memory: Parts):
        arrays, rest = eqx.partition(memory, eqx.is_array)
        leaves, treedef = jax.tree.flatten(rest)
        self.packing, self.rest = Packing(arrays), (tuple(leaves), treedef)
        self.next_growth_step = next_growth_step(memory.model)
        self._hash = hash((self.packing, self.rest))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Form) and (self.packing, self.rest) == (other.packing, other.rest)

    def join(self, arrays: Parts) -> Parts:
        """The memory of which these are the arrays."""
        leaves, treedef = self.rest
        return eqx.combine(arrays, jax.tree.unflatten(treedef, leaves))

    def pack(self, memory: Parts) -> tuple[Array, ...]:
        """The arrays; large ones are those of the memory themselves."""
        arrays = eqx.filter(memory, eqx.is_array)
        leaves = jax.tree.leaves(arrays)
        large = [leaves[k] for k in self.packing.large]
        return (*_vectors(self.packing, arrays), *map(_raw, large))

    def unpack(self, arrays: tuple[Array, ...]) -> Parts:
        """The inverse of `pack`."""
        packing = self.packing
        large = dict(zip(packing.large, arrays[len(packing.small) :], strict=True))
        leaves = large | dict(zip(_places(packing), _small(packing, arrays), strict=True))
        return self.join(jax.tree.unflatten(packing.treedef, [leaves[k] for k in range(len(leaves))]))


def _raw(leaf):
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _places(packing: Packing) -> list[int]:
    """The leaves that are no packed array themselves: small ones, and typed keys."""
    return [k for k in range(len(packing.shapes)) if k not in packing.large or packing.keys[k] is not None]


@functools.partial(jax.jit, static_argnums=0)
def _vectors(packing: Packing, arrays):
    return packing.pack(arrays)[: len(packing.small)]


@functools.partial(jax.jit, static_argnums=0)
def _small(packing: Packing, arrays):
    leaves = jax.tree.leaves(packing.unpack(arrays))
    return [leaves[k] for k in _places(packing)]


@jax.tree_util.register_pytree_with_keys_class
class TDState:
    """Everything that a TD learner knows, as one pytree, the model included.

    `model`, `carry`; `trace`: eligibility, a leaf for each trained parameter; `prediction`: the last one; `begun`:
    whether it may be learned from; `optimiser`: its state; `skipped`: steps undone because something was not finite;
    `key`: of fresh carries; `count`: steps taken, in two words, low first.

    A state is consumed by the `step` or `run` that it is given to. What was read of it before, such as the model that
    is to be served, is copied then, and stays.
    """

    __slots__ = ("_memory", "_packed", "_read", "_steps", "consumed")

    def __init__(self, *parts, **named):
        self._memory: Parts | None = Parts(*parts, **named)
        self._packed: tuple[Form, tuple[Array, ...]] | None = None
        self._read: set[str] = set()
        self._steps: int | None = None
        self.consumed = False

    def followed_by(self, form: Form, arrays: tuple[Array, ...]) -> TDState:
        """The state after one step, which has consumed this one."""
        st = object.__new__(TDState)
        st._memory, st._packed, st._read, st.consumed = None, (form, arrays), set(), False
        st._steps = None if self._steps is None else self._steps + 1
        self.consumed = True
        return st

    @property
    def memory(self) -> Parts:
        """All parts."""
        if self._memory is None:
            assert self._packed is not None
            form, arrays = self._packed
            self._memory = form.unpack(arrays)
        return self._memory

    def packed(self, forms: dict[Form, Form]) -> tuple[Form, tuple[Array, ...]]:
        """The same, in few arrays. `forms`: those known, so that a call finds an equal one by identity."""
        if self._packed is None:
            form = Form(self.memory)
            form = forms.setdefault(form, form)
            self._packed = form, form.pack(self.memory)
        return self._packed

    def __getattr__(self, name: str) -> Any:
        if name not in Parts._fields:
            raise AttributeError(f"A TDState has {', '.join(Parts._fields)} and steps, but no {name!r}.")
        self._read.add(name)
        return getattr(self.memory, name)

    @property
    def steps(self) -> int:
        """Steps taken."""
        self.refuse_consumed()
        if self._steps is None:
            low, high = np.asarray(self.memory.count)
            self._steps = int(low) + (int(high) << 32)
        return self._steps

    @property
    def is_packed(self) -> bool:
        """Whether it came from a single step."""
        return self._packed is not None

    def refuse_consumed(self) -> None:
        """Raise `RuntimeError` for a state that was consumed already."""
        if self.consumed:
            raise RuntimeError(consumed("st, out = learner.step(st, ...)"))

    def to_consume(self, arrays: PyTree[Array]) -> PyTree[Array]:
        """These arrays of the state, with copies in the place of those that were read."""
        if not self._read:
            return arrays
        read = {id(leaf) for name in self._read for leaf in jax.tree.leaves(getattr(self.memory, name))}
        return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True) if id(leaf) in read else leaf, arrays)

    def tree_flatten_with_keys(self):
        """The parts of the state as a pytree, however they are kept."""
        keys = map(jax.tree_util.GetAttrKey, Parts._fields)
        return tuple(zip(keys, self.memory, strict=True)), None

    @classmethod
    def tree_unflatten(cls, aux, parts):
        """The inverse, for parts of any kind."""
        del aux
        return cls(*parts)

    def __repr__(self) -> str:
        return eqx.tree_pformat(self.memory).replace("Parts", "TDState", 1)
