"""The driver of a stream: predict, then learn, at every step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from .._base.owned import owned, refuse_consumed
from .._base.packing import Packing
from .._base.trees import as_arrays
from .._base.words import Answer
from .._cpu.loop import first, form_of_one, loop, padded, padded_length
from .._cpu.options import compiler_options
from .._cpu.piece import is_piece, piece
from ..estimators import Estimator
from ._checks import check_key
from ._memory import Memory
from ._opening import Opening, same_form
from ._program import Program
from ._programs import supervised
from ._shell import Shell, one_length, refuse_growth
from ._state import CALL, LearnerState, Output

if TYPE_CHECKING:
    from ..session import Loop


class Learner(Shell):
    r"""Learns from a stream, one step at a time: predict, then learn.

        learner = sg.Learner(model, optax.adam(1e-3), loss=sg.losses.mse)
        st      = learner.init(key=key)
        st, out = learner.step(st, x, target)        # out.prediction, out.loss
        st, out = learner.run(st, xs, targets)       # the same, scanned on the device

    - `model`: an Equinox module with `init(key=) -> carry` and `(carry, x) -> (carry, prediction)`.
    - `optimiser`: `sg.Kalman()`, an update of your own (`sg.train.Update`), or any Optax transformation (clipping,
      groups and schedules included), over the model's inexact-array leaves, those of `sg.RLS` and `sg.nn.Fixed` and
      those that no gradient trains excepted; or a function `model -> transformation`, asked again when the model grows.
    - `loss(prediction, target) -> scalar`.
    - `update_every`: steps whose gradients are averaged for one update; with `BPTT` the differentiated window.
    - `delay`: targets come this many steps late: the target given at step t is that of x_{t-delay}. The
      learning copy then runs that many steps behind, on the inputs of the time being scored; a serving copy
      of the state alone runs at the present with the newest weights. Nothing learns from the future.
    - `chunked`: how a window of `update_every` steps gets its gradient. False, streaming: from traces, at every
      step, in memory that does not grow with the window. True: at the window's end, in one pass backwards without
      traces (`sg.nn.unroll`), faster, in memory that grows with it; credit then begins with the window, as under
      BPTT, while traces reach back to the last reset. For a window that begins with a reset the two are the same.
    - `estimator`: how the gradient of a step is estimated, when not by differentiating its loss: `sg.PES(...)`,
      `sg.ForwardGradient(...)`. With one, layers may have `BPTT`, as the estimator takes care of the past.
    - `streams`: None for one stream; or a number of streams that share the weights, each with a carry of its
      own. Then x, target, prediction and reset have a leading axis of that length.

    Inputs, targets and predictions are arrays, or trees of them (dicts, tuples).

    Targets: a NaN is missing, entry by entry: it is neither scored nor learned from, the state still advances. An
    infinite one counts as missing, and of labels (`sg.losses.cross_entropy`) a negative one. A loss of your own that is
    neither a sum nor a mean over entries learns from whole targets alone (see `sg.losses.entrywise`). A target that
    does not come in its step never comes: late ones are what `delay` is for.

    A step whose loss or gradient is not finite updates nothing, for all streams, is counted in `st.skipped`, and
    the carry of the stream at fault is reset before the next step. At an episode's boundary under a delay, targets
    whose inputs lie before it are left out.

    Raises `TypeError` for a model without the two methods or with complex parameters, and for an optimiser that wants
    parameters of its own kind; `ValueError` for BPTT with `update_every=1`, which
    would silently be one-step truncation, and for inputs of the wrong shape, before anything is consumed.
    """

    def __init__(
        self,
        model: Any,
        optimiser: Any,
        *,
        loss: Callable[[Any, Any], Any],
        update_every: int = 1,
        delay: int = 0,
        streams: int | None = None,
        chunked: bool = False,
        estimator: Estimator | None = None,
    ):
        self._given: dict[str, Any] = dict(
            optimiser=optimiser,
            loss=loss,
            update_every=update_every,
            delay=delay,
            streams=streams,
            chunked=chunked,
            estimator=estimator,
        )
        super().__init__(model, functools.partial(supervised, **self._given))
        self.delay = delay
        self._open = Opening(self._program, self._arrays)
        # Traced once for all programs that hold it.
        self._one = jax.jit(lambda program, *now: program.step(*now), static_argnums=0)
        self._step, self._run = self._compiled(self._answered_step), self._compiled(self._packed_run)
        self._known: dict[Packing, bool] = {}
        # Under a transformation of the user's the compiler's options are the user's, and so are the buffers.
        self._step_within = jax.jit(functools.partial(self._packed_step, False, count=1), static_argnums=0)
        self._run_within = jax.jit(functools.partial(self._packed_run, False), static_argnums=0)
        self._begun = jax.jit(self._program.init)
        self._ask = jax.jit(lambda program, st, x: program.predict(st.memory, _arrays(x)), static_argnums=0)

    # Public calls.

    def of(self, model: Any) -> Learner:
        """A learner of another model, with this one's optimiser, loss and all else."""
        return Learner(model, **self._given)

    def init(self, *, key: PRNGKeyArray, like: tuple[Any, Any] | None = None, model: Any = None) -> LearnerState:
        """The state before the first step: the model's weights, empty traces, a fresh optimiser. The key is of carries
        and noise: it draws no weights.

        `model`: another of the same form, whose weights to begin with; so are seeds made side by side,
        `jax.vmap(lambda key: learner.init(key=key, model=make_model(key)))(keys)`.

        `like`: an input and a target such as `step` will get. With it the buffers that depend on their shapes
        are there from the start, instead of from the first call, so that the state never changes its structure:
        for a checkpoint's `like`, or a loop of your own under `jit`."""
        key_carry, key = jax.random.split(check_key(key))
        arrays = self._arrays if model is None else same_form(model, self._arrays)
        st = self._state(self._program, self._begun(arrays, key_carry, key))
        # A copy: the weights of the model that the user holds must survive donation.
        st = LearnerState(owned(st.arrays), st.packing)
        return st if like is None else self._open(st, *map(as_arrays, like))[0]

    def step(self, st: LearnerState, x: Any, target: Any, *, reset: Any = None) -> tuple[LearnerState, Output]:
        """One step of the stream. `reset=True` says that x begins a new episode: state and traces start anew
        before it, running statistics stay. Consumes `st`.

        On a CPU the outputs of one stream are arrays of NumPy, which cost nothing to read; `session` is faster yet."""
        step = (as_arrays(x), as_arrays(target)) if reset is None else tuple(map(as_arrays, (x, target, reset)))
        st, program = self._open(st, *step)
        if _is_traced(st):
            return self._step_within(program, st, *step)
        if program.next_growth_step is not None:
            st, program = self._grown(st, program)
        try:
            st, out = self._step[self._small(program, st, *step)](program, st, *step)
            return st, out.read() if isinstance(out, Answer) else out
        except (RuntimeError, ValueError):
            refuse_consumed(st, CALL)
            raise

    def run(self, st: LearnerState, xs: Any, targets: Any, *, resets: Any = None) -> tuple[LearnerState, Output]:
        """Many steps in one call, scanned on the device: xs and targets have a leading axis of time.
        Consumes `st`."""
        xs, targets, resets = as_arrays(xs), as_arrays(targets), () if resets is None else as_arrays(resets)
        length = one_length(xs=xs, targets=targets, resets=resets)
        resets = np.zeros(length, bool) if isinstance(resets, tuple) else resets
        st, program = self._open(st, xs, targets, resets, drop=1)
        if _is_traced(st):
            return self._run_within(program, st, (xs, targets, resets))
        return self._in_stretches(st, program, (xs, targets, resets), length, self._run_padded)

    def predict(self, st: LearnerState, x: Any) -> PyTree:
        """The prediction for x after all that was seen, from the newest weights. Changes nothing: a learner
        that is only asked does not advance."""
        try:
            return self._ask(self._open.program(st), st, as_arrays(x))
        except (RuntimeError, ValueError):
            refuse_consumed(st, CALL)
            raise

    def resident(self, st: LearnerState, x: Any, target: Any, *, reset: Any = False) -> tuple[LearnerState, Loop]:
        """What a session holds in its loop. Raises `TypeError` for a model that grows by itself."""
        from ..session import Loop

        st, program = self._open(st, x, target, as_arrays(reset))
        refuse_growth(program, "A session")
        refuse_consumed(st, CALL)
        small = self._small(program, st, x, target)
        one = self._turn(small, program)

        def turn(memory: Memory, row: tuple):
            x, target, more = row
            memory, told = one(memory, x, target, more.get("reset", jnp.array(False)))
            return memory, Output(*told)

        pack = lambda memory: LearnerState(st.packing.pack(memory), st.packing)
        return st, Loop(turn, lambda st: st.memory, pack, lambda st: st, self._options(small))

    # The state.

    def _held(self, st: LearnerState) -> tuple[Program, Memory]:
        refuse_consumed(st, CALL)
        return self._open.program(st), st.memory

    def _state(self, program: Program, memory: Memory) -> LearnerState:
        return self._open.packed(program, memory)

    # What is compiled. `small`: whether a step is one piece.

    def _small(self, program: Program, st: LearnerState, x: Any, target: Any, reset: Any = False) -> bool:
        """Whether a step is one piece, of all inputs as of the first."""
        if (known := self._known.get(st.packing)) is None:
            memory, one = jax.eval_shape(lambda st: st.memory, st), functools.partial(self._one, program)
            known = program.streams is None and is_piece(one, memory, x, target, jnp.array(False))
            self._known[st.packing] = known
        return known

    def _options(self, small: bool) -> dict[str, str]:
        return compiler_options(pieces=True) if small else compiler_options(batched=self._program.streams is not None)

    def _compiled(self, call: Callable) -> dict[bool, Callable]:
        compiled = functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
        return {
            small: compiled(functools.partial(call, small), compiler_options=self._options(small))
            for small in (False, True)
        }

    def _turn(self, small: bool, program: Program) -> Callable:
        """One step."""
        one = functools.partial(self._one, program)
        return piece(one) if small else one

    def _packed_step(self, small: bool, program: Program, st: LearnerState, x, target, reset=False, *, count=None):
        """A run of one step. Its length is read off the state (the last bit of the 64 that count steps is 0), so that
        the compiler takes it for a run like any other and rounds as there."""
        count = 1 + (st.memory.steps[1] >> 31).astype(jnp.int32) if count is None else count
        inputs = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], (x, target, reset))
        st, outs = self._packed_run(small, program, st, inputs, count)
        return st, jax.tree.map(lambda leaf: leaf[0], outs)

    def _answered_step(self, small: bool, program: Program, st: LearnerState, x, target, reset=False):
        """A step whose outputs are read together. Those of streams may lie on several devices, and stay there."""

        def step(st, x, target, reset):
            st, out = self._packed_step(small, program, st, x, target, reset)
            together = program.streams is None and jax.default_backend() == "cpu"
            return st, Answer.of(out) if together else out

        # A piece around that of the step, which rounds by itself: as in a run, and in a session.
        return (piece(step) if small else step)(st, x, target, reset)

    def _packed_run(self, small: bool, program: Program, st: LearnerState, inputs, count=None):
        inputs = _arrays(inputs)
        count = len(inputs[-1]) if count is None else count
        memory, told = loop(self._turn(small, program), st.memory, inputs, count)
        return LearnerState(st.packing.pack(memory), st.packing), Output(*told)

    def _run_padded(self, st: LearnerState, program: Program, inputs: tuple) -> tuple[LearnerState, Output]:
        length = len(inputs[-1])
        room = padded_length(length)
        try:
            run = self._run[self._small(program, st, *form_of_one(inputs))]
            st, outs = run(program, st, padded(inputs, room), np.int32(length))
        except (RuntimeError, ValueError):
            refuse_consumed(st, CALL)
            raise
        return st, outs if room == length else first(outs, length)


def _arrays(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.asarray, tree)


def _is_traced(st: LearnerState) -> bool:
    return isinstance(st.arrays[0], jax.core.Tracer)
