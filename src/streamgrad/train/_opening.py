"""A state before it is stepped: what a step is given is checked once for each shape, and the state made complete."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
from jaxtyping import PyTree

from .._base.packing import Packing
from .._base.trees import described, shapes, signature
from ._checks import check, check_reset
from ._memory import Memory
from ._program import Program
from ._state import LearnerState


class Opening:
    """Which program a packed state belongs to, and what its steps may be given.

    - `program`, `arrays`: of the model that the learner was made of; others come when it grows.
    """

    def __init__(self, program: Program, arrays: PyTree):
        self._first, self._arrays = program, arrays
        self._packings: dict[Packing, Packing] = {}
        self._programs: dict[Packing, Program] = {}
        self._checked: dict[Any, Program] = {}

    def program(self, st: LearnerState) -> Program:
        """The program of a state: the first, but for a state that has grown."""
        return self._programs.get(st.packing, self._first)

    def packed(self, program: Program, memory: Memory) -> LearnerState:
        """Packed by one and the same object for equal states, so that a call finds it by identity."""
        packing = Packing(memory, program.every)
        packing = self._packings.setdefault(packing, packing)
        self._programs[packing] = program
        return LearnerState(packing.pack(memory), packing)

    def __call__(
        self, st: LearnerState, x: PyTree, target: PyTree, reset: Any = None, drop: int = 0
    ) -> tuple[LearnerState, Program]:
        """The state with all buffers that depend on shapes, and its program. `drop`: leading axes that are not the
        step's own. Raises `ValueError` and `TypeError` for what does not fit."""
        try:
            given = signature(x), signature(target), None if reset is None else signature(reset)
            seen = (st.packing, drop, st.arrays[0].ndim, *given)
        except AttributeError:
            raise TypeError(
                f"A learner expects a state of its own and arrays, got {type(st).__name__}, {type(x).__name__} and "
                f"{type(target).__name__}: learner.init(key=...) makes a state, np.asarray(...) an array."
            ) from None
        if (known := self._checked.get(seen)) is not None:
            return st, known
        if lead := st.arrays[0].shape[:-1]:
            raise ValueError(
                f"The state is of several learners (leading axis {lead}), made under jax.vmap: step them so too, "
                "jax.vmap(learner.step)(st, xs, targets)."
            )
        program, memory = self.program(st), st.memory
        x, target = shapes(x, drop), shapes(target, drop)
        if program.lead and any(leaf.shape[:1] != program.lead for leaf in jax.tree.leaves((x, target))):
            raise ValueError(
                f"A learner of {program.streams} streams expects x and target with a leading axis of that length, "
                f"got shapes {_shape(x)} and {_shape(target)}."
            )
        if reset is not None:
            check_reset(shapes(reset, drop), program.lead)
        if program is self._first:
            self._refuse_foreign(st, x, target)
        check(program, memory, x, target)
        if not program.is_open(memory):
            _, prediction = eqx.filter_eval_shape(program.forward, memory.model, memory.carry, x)
            st = self.packed(program, program.opened(memory, x, target, prediction))
            seen = (st.packing, *seen[1:])
        self._checked[seen] = program
        return st, program

    def _refuse_foreign(self, st: LearnerState, x: PyTree, target: PyTree) -> None:
        """Refuse the state of a learner that is set up otherwise, or fed with another type of input."""
        program, own = self._first, []

        def note(key):
            memory = program.init(self._arrays, key, key)
            own.append(Packing(memory, program.every))
            if not program.is_open(memory):
                _, prediction = eqx.filter_eval_shape(program.forward, memory.model, memory.carry, x)
                own.append(Packing(program.opened(memory, x, target, prediction), program.every))

        jax.eval_shape(note, st.memory.key)
        if st.packing not in own:
            raise ValueError(
                "The state does not fit: it was made by a learner with another model, optimiser, delay, update_every "
                f"or number of streams, or for inputs and targets of another shape or type than {described(x)} "
                f"and {described(target)}. Use this learner's init(key=...), and one type throughout."
            )


def same_form(model: Any, arrays: PyTree) -> PyTree:
    """The arrays of another model. Raises `ValueError` where their form is not that of these arrays."""
    others = eqx.filter(model, eqx.is_array)
    form = lambda tree: (jax.tree.structure(tree), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)])
    if form(others) != form(arrays):
        raise ValueError(
            "init(model=...) takes a model of the same layers, sizes and types as the learner's own: make both by "
            "one function, with another key."
        )
    return others


def _shape(tree: PyTree) -> Any:
    """The shape of an array, or the shapes of a tree of them."""
    return tree.shape if hasattr(tree, "shape") else jax.tree.map(lambda leaf: leaf.shape, tree)
