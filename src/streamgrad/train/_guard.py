"""What happens to a step that is not finite: decided here, and nowhere else."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from .._base.select import select
from .._cpu.branches import select_bits
from ..nn import restarted
from ._carries import states
from ._evidence import Finding
from ._memory import Memory
from ._soundness import finite, finite_by_stream

if TYPE_CHECKING:
    from ._program import Program, Told


class Guard(abc.ABC):
    """Decides which steps are learned from, which streams start anew, and how arrays are chosen."""

    #: Steps between two looks; 1: every step is looked at.
    stretch: int
    #: Whether fresh carries are put in by a branch: it costs nothing while it is not taken, and keeps the flag out of
    #: the loops over traces. Where it would copy the carry at every step, they are chosen by bits.
    by_branch: bool

    @property
    def by_row(self) -> bool:
        """Whether `sound` only asks whether the gradient is finite, so that rows of it may stand for the whole."""
        return False

    @abc.abstractmethod
    def choose(self, flag: Array) -> Callable[[Array, Array], Array]:
        """A function (new, old) -> array; it takes the new one where the flag is set."""

    @abc.abstractmethod
    def anew(self, broken: Array, reset: Any) -> Any:
        """The streams that start anew with this step; None for none ever."""

    @abc.abstractmethod
    def sound(self, loss: Array, given: Bool[Array, ""], gradient: PyTree) -> Bool[Array, ""]:
        """Whether a step may be learned from. One without a target always is."""

    @abc.abstractmethod
    def looked_at(self, memory: Memory, finding: Finding, sound: Array, streams: int | None) -> Memory:
        """The memory after a step, with what is to start anew."""

    def looked_back(
        self, program: Program, before: Memory, after: Memory, told: Told, steps: int
    ) -> tuple[Memory, Told]:
        """The memory after so many steps that were not looked at one by one."""
        del program, before, steps
        return after, told


@dataclasses.dataclass(frozen=True)
class Skip(Guard):
    """Leaves out each step that is not finite; the stream at fault starts anew before its next step."""

    stretch = 1
    by_branch = True

    @property
    def by_row(self):
        return type(self).sound is Skip.sound

    def choose(self, flag):
        return select(flag)

    def anew(self, broken, reset):
        return broken if reset is None else reset | broken

    def sound(self, loss, given, gradient):
        return ~given | (jnp.isfinite(loss) & finite(gradient))

    def looked_at(self, memory, finding, sound, streams):
        broken = ~finite_by_stream(states(memory.carry), streams) | (finding.there & ~jnp.isfinite(finding.loss))
        # Where no stream shows why the gradient is not finite, the trace of any may be the cause.
        broken = broken | (~sound & ~broken.any())
        return memory._replace(
            broken=broken,
            skipped=memory.skipped + (~sound).astype(jnp.int32),
            restarts=memory.restarts + broken.sum(dtype=jnp.int32),
        )


@dataclasses.dataclass(frozen=True)
class Undo(Guard):
    """Looks once in a stretch of steps, since looking takes time, and undoes all of a stretch that is not finite."""

    stretch: int = 32
    by_branch = False

    def choose(self, flag):
        return select_bits(flag)

    def anew(self, broken, reset):
        del broken
        return reset

    def sound(self, loss, given, gradient):
        del loss, given, gradient
        return jnp.array(True)

    def looked_at(self, memory, finding, sound, streams):
        del finding, sound, streams
        return memory

    def looked_back(self, program, before, after, told, steps):
        update, rule, streams = program.update, program.rule, program.streams
        (by_stream, shared), (_, shared_before) = update.parts(after.update), update.parts(before.update)
        sound = finite_by_stream((after.carry, by_stream, rule.by_stream(after.rule)), streams)
        weights = finite_by_stream((after.model, shared), None)
        fault = ~sound | (~weights & sound.all())  # where no stream shows the cause, any may be it
        bad = fault.any()
        # In place, by bits: the weights of before and those of after meet entry by entry.
        model, shared = jax.tree.map(select_bits(~bad), (after.model, shared), (before.model, shared_before))

        def anew(own):
            carry, by_stream, remembered = own
            fresh = program.fresh(program.model(before.model), jax.random.fold_in(before.key, before.steps[0]))
            clear = lambda leaf: select_bits(fault)(jnp.zeros_like(leaf), leaf)
            carry = restarted(carry, fresh, fault, select_bits)
            return carry, jax.tree.map(clear, by_stream), rule.forget(remembered, fault, clear)

        # A branch: it costs nothing while it is not taken.
        own = (after.carry, by_stream, after.rule)
        carry, by_stream, remembered = jax.lax.cond(bad, anew, lambda own: own, own)
        memory = after._replace(
            model=model,
            carry=carry,
            update=update.joined(by_stream, shared),
            rule=remembered,
            skipped=after.skipped + jnp.where(bad, steps, 0).astype(after.skipped.dtype),
        )
        return memory, told._replace(learned=told.learned & ~bad)
