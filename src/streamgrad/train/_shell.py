"""What `sg.Learner` and `sg.td.TDLambda` have in common: a compiled program, its state, and the calls of people."""

from __future__ import annotations

import abc
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from .._base.owned import owned
from .._base.trees import is_traced, lengths
from . import _health as health
from ._growth import grown
from ._memory import Memory
from ._program import Program

if TYPE_CHECKING:
    from ..session import Session


class Shell(abc.ABC):
    """A program for people: `init`, `step`, `run`, `session`, `predict`, `model`, `warnings`, `grow`.

    A subclass says how its state holds the program's memory, and how its arguments are the program's.

    - `make(model) -> program`: asked again for a model that has grown.
    """

    def __init__(self, model: Any, make: Callable[[Any], Program]):
        self._make, self._program = make, make(model)
        self._arrays = eqx.filter(model, eqx.is_array)
        self.loops: dict[Any, Any] = {}  # of sessions

    @abc.abstractmethod
    def _held(self, st: Any) -> tuple[Program, Memory]:
        """The program of a state, and its memory. Raises `RuntimeError` for a state that was consumed."""

    @abc.abstractmethod
    def _state(self, program: Program, memory: Memory) -> Any:
        """The state with that memory."""

    def __repr__(self) -> str:
        program = self._program
        size = sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(self._arrays, program.trained)))
        parts = [
            f"{type(self.template).__name__} with {size:,} trained parameters",
            type(program.rule).__name__,
            type(program.update).__name__,
            *([f"update_every={program.every}"] if program.every > 1 else []),
            *([f"delay={program.delay.steps}"] if program.delay else []),
            *([f"streams={program.streams}"] if program.streams else []),
        ]
        return f"{type(self).__name__}({', '.join(parts)})"

    # Public calls.

    @property
    def program(self) -> Program:
        """The pure functions that this learner drives, of the model that it was made of."""
        return self._program

    @property
    def template(self) -> Any:
        """The model that this learner was made of."""
        return eqx.combine(self._arrays, self._program.static)

    def session(self, st: Any, *, native: bool | None = None) -> Session:
        """Step from Python, row by row, at the price of the step itself: see `streamgrad.session.Session`. What a step
        takes beside its input and its target is given by name. Consumes `st`."""
        from ..session import Session

        return Session(self, st, native=native)

    def model(self, st: Any) -> Any:
        """The model with its present weights, copies that live on when `st` is consumed; of a state made under
        `jax.vmap` each has its leading axis."""
        program, memory = self._held(st)
        return eqx.combine(owned(memory.model), program.static)

    def warnings(self, st: Any) -> list[str]:
        """What is growing out of bounds or was skipped, with the likely cause: ask now and then in a long run.
        Empty when all is well."""
        program, memory = self._held(st)
        return health.warnings(memory, program.trained)

    def grow(self, st: Any, *, key: PRNGKeyArray | None = None) -> Any:
        """The state after the model has grown by a stage (`sg.nn.Constructive`): what is new starts fresh, all else
        goes on, the optimiser's state of what stays included. `key`: of the new stage; by default from the state's.
        Consumes `st`.

        Raises `TypeError` for a model that cannot grow, `ValueError` for one that has all its units, and within a
        window of `update_every` steps."""
        program, memory = self._held(st)
        model = eqx.combine(owned(memory.model), program.static)
        key = jax.random.fold_in(memory.key, 2**31 + len(jax.tree.leaves(model))) if key is None else key
        larger, carry = grown(model, memory.carry, program.streams, key)
        late = memory.pending != ()
        serving = grown(model, memory.pending.serving, program.streams, key)[1] if late else None
        new = self._make(larger)
        return self._state(new, new.grown(program, memory, eqx.filter(larger, eqx.is_array), carry, serving))

    # Growth by schedule.

    def _until_growth(self, program: Program, steps: int) -> int:
        """Steps until the model is to grow: at its step, or where the window that holds it ends."""
        if program.next_growth_step is None:
            return sys.maxsize
        left = max(program.next_growth_step - steps, 0)
        return left + -(steps + left) % program.every

    def _grown(self, st: Any, program: Program) -> tuple[Any, Program]:
        """The state with the stages that are due, and its program."""
        while program.next_growth_step is not None and not self._until_growth(program, st.steps):
            st = self.grow(st)
            program, _ = self._held(st)
        return st, program

    def _in_stretches(self, st: Any, program: Program, steps: PyTree, count: int, run: Callable) -> tuple[Any, PyTree]:
        """`run(st, program, steps)`, of a model that grows from one growth to the next, its outputs joined."""
        if program.next_growth_step is None or is_traced(st):  # in a trace nothing can change its form
            return run(st, program, steps)
        outs, start = [], 0
        while start < count:
            st, program = self._grown(st, program)
            end = min(count, start + self._until_growth(program, st.steps))
            st, out = run(st, program, jax.tree.map(lambda leaf: leaf[start:end], steps))  # noqa: B023
            outs.append(out)
            start = end
        return st, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *outs)


def one_length(**given: PyTree) -> int:
    """How long the leading axis of all these is. Raises `ValueError` where they differ, or have none."""
    found = {name: lengths(tree) for name, tree in given.items()}
    every = set().union(*found.values())
    if len(every) != 1 or None in every:
        said = ", ".join(f"{'/'.join(str(n) for n in each) or 'no'} {name}" for name, each in found.items())
        *others, last = found
        names = f"{', '.join(others)} and {last}"
        raise ValueError(f"run expects {names} of one length, got {said}.")
    (length,) = every
    if not length:
        raise ValueError("run expects at least one step, got an empty sequence.")
    return length


def refuse_growth(program: Program, who: str) -> None:
    """Raise `TypeError` for a program whose model grows by a schedule."""
    if program.next_growth_step is not None:
        raise TypeError(
            f"{who} runs one compiled program, and this model grows by itself: call step or run of the learner instead."
        )
