"""The driver of a stream: predict, then learn, at every step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from . import _health as health
from ._compile import compiler_options
from ._growth import grown
from ._loop import first, loop, padded, padded_length
from ._memory import CALL, LearnerState, Output, is_algorithm, of_algorithms
from ._owned import owned, refuse_consumed
from ._packing import Packing
from ._trained import checked_optimiser, trained
from ._trees import as_arrays, described, lengths, shapes, signature
from ._words import Answer
from .estimators import Estimator
from .nn import check_unroll
from .train import Descent, Filter, Kalman, Loss, Memory, Program, Skip, Window, check, family

if TYPE_CHECKING:
    from .session import Loop, Session


class Learner:
    r"""Learns from a stream, one step at a time: predict, then learn.

        learner = sg.Learner(model, optax.adam(1e-3), loss=sg.losses.mse)
        st      = learner.init(key=key)
        st, out = learner.step(st, x, target)        # out.prediction, out.loss
        st, out = learner.run(st, xs, targets)       # the same, scanned on the device

    - `model`: an Equinox module with `init(key=) -> carry` and `(carry, x) -> (carry, prediction)`.
    - `optimiser`: `sg.Kalman()`, or any Optax transformation (clipping, groups and schedules included), over the
      model's inexact-array leaves, those of `sg.RLS` and `sg.nn.Fixed` and those that no gradient trains excepted; or
      a function `model -> transformation`, asked again when the model grows.
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
        if not callable(getattr(model, "init", None)) or not callable(model):
            raise TypeError(
                f"Learner expects a model with init(key=...) and (carry, x) -> (carry, prediction), got "
                f"{type(model).__name__}: wrap a layer and a readout in sg.nn.Sequential([...])."
            )
        if not callable(loss):
            raise TypeError(f"Learner expects loss(prediction, target) -> scalar, such as sg.losses.mse, got {loss!r}.")
        if isinstance(update_every, bool) or not isinstance(update_every, int) or update_every < 1:
            raise ValueError(f"update_every must be an integer >= 1, got {update_every!r}.")
        if isinstance(delay, bool) or not isinstance(delay, int) or delay < 0:
            raise ValueError(f"delay must be an integer >= 0, got {delay!r}: it is how late targets come.")
        if streams is not None and (not isinstance(streams, int) or streams < 1):
            raise ValueError(f"streams must be None or an integer >= 1, got {streams!r}.")
        algorithms = [a for a in jax.tree.leaves(model, is_leaf=is_algorithm) if is_algorithm(a)]
        windowed = estimator is None and any(a.credit == "carry" for a in algorithms)
        self._check_estimator(model, estimator, streams, chunked)
        if windowed and update_every == 1:
            raise ValueError(
                "BPTT with update_every=1 would silently be one-step truncation: give Learner(update_every=window) "
                "the number of steps to differentiate, or use sg.TBPTT(window) to update at every step."
            )
        if chunked:
            if update_every == 1:
                raise ValueError(
                    "chunked=True runs a window of frozen weights at once: give Learner(update_every=window) the "
                    "number of its steps, or leave chunked out to update at every step."
                )
            check_unroll(model)
        at_once, kind = windowed or chunked, None
        if isinstance(optimiser, Kalman):
            if at_once or estimator is not None:
                raise TypeError(
                    "A Kalman filter needs the sensitivities of each step: leave out chunked and the estimator, and "
                    "give layers an online algorithm such as sg.SnAp(1) or sg.RTRL(), not BPTT."
                )
            update, kind = Filter(optimiser, model, update_every), family(loss)
        else:
            made = checked_optimiser(optimiser, model, "Learner")
            own = jax.tree.map(lambda moved, own: moved and own, trained(model), of_algorithms(model))
            update = Descent(made, own, 1 if at_once else update_every)
        self._program = Program(
            model,
            Loss(loss, streams, kind),
            update,
            Skip(),
            streams=streams,
            every=update_every,
            window=Window(chunked) if at_once else None,
            delay=delay,
            estimator=estimator,
        )
        self._again = functools.partial(
            Learner,
            optimiser=optimiser,
            loss=loss,
            update_every=update_every,
            delay=delay,
            streams=streams,
            chunked=chunked,
            estimator=estimator,
        )
        self.delay = delay
        self._template = eqx.filter(model, eqx.is_array)
        options = compiler_options(batched=streams is not None)
        compiled = functools.partial(jax.jit, donate_argnums=0, compiler_options=options)
        self._one = jax.jit(self._program.step)  # traced once for all programs that hold it
        self._step, self._run = compiled(self._answered_step), compiled(self._packed_run)
        # Under a transformation of the user's the compiler's options are the user's, and so are the buffers.
        self._step_within = jax.jit(functools.partial(self._packed_step, count=1))
        self._run_within = jax.jit(self._packed_run)
        self._checked: set = set()
        self._packings: dict[Packing, Packing] = {}
        self.loops: dict[Any, Any] = {}

    @staticmethod
    def _check_estimator(model, estimator, streams, chunked) -> None:
        if estimator is None:
            return
        if not isinstance(estimator, Estimator):
            raise TypeError(f"Learner(estimator=...) expects one such as sg.PES(), got {estimator!r}.")
        if streams is not None or chunked:
            raise ValueError(
                f"{type(estimator).__name__} needs one stream, one step at a time, got streams={streams}, "
                f"chunked={chunked}: leave both out."
            )
        estimator.check(model)

    # Public calls.

    @property
    def program(self) -> Program:
        """The pure functions that this learner drives."""
        return self._program

    def of(self, model: Any) -> Learner:
        """A learner of another model, with this one's optimiser, loss and all else."""
        return self._again(model)

    @property
    def template(self) -> Any:
        """The model that this learner was made of."""
        return eqx.combine(self._template, self._program.static)

    def init(self, *, key: PRNGKeyArray, like: tuple[Any, Any] | None = None, model: Any = None) -> LearnerState:
        """The state before the first step: the model's weights, empty traces, a fresh optimiser. The key is of carries
        and noise: it draws no weights.

        `model`: another of the same form, whose weights to begin with; so are seeds made side by side,
        `jax.vmap(lambda key: learner.init(key=key, model=make_model(key)))(keys)`.

        `like`: an input and a target such as `step` will get. With it the buffers that depend on their shapes
        are there from the start, instead of from the first call, so that the state never changes its structure:
        for a checkpoint's `like`, or a loop of your own under `jit`."""
        key_carry, key = jax.random.split(key)
        arrays = self._template if model is None else self._same_form(model)
        st = self._packed(self._init_jit(arrays, key_carry, key))
        # A copy: the weights of the model that the user holds must survive donation.
        st = LearnerState(owned(st.arrays), st.packing)
        return st if like is None else self._opened(st, *map(as_arrays, like))

    def step(self, st: LearnerState, x: Any, target: Any, *, reset: Any = None) -> tuple[LearnerState, Output]:
        """One step of the stream. `reset=True` says that x begins a new episode: state and traces start anew
        before it, running statistics stay. Consumes `st`.

        On a CPU the outputs of one stream are arrays of NumPy, which cost nothing to read; `session` is faster yet."""
        x, target = as_arrays(x), as_arrays(target)
        st = self._opened(st, x, target)
        step = (x, target) if reset is None else (x, target, reset)
        if _is_traced(st):
            return self._step_within(st, *step)
        try:
            st, out = self._step(st, *step)
            return st, out.read() if isinstance(out, Answer) else out
        except (RuntimeError, ValueError):
            refuse_consumed(st, CALL)
            raise

    def run(self, st: LearnerState, xs: Any, targets: Any, *, resets: Any = None) -> tuple[LearnerState, Output]:
        """Many steps in one call, scanned on the device: xs and targets have a leading axis of time.
        Consumes `st`."""
        xs, targets = as_arrays(xs), as_arrays(targets)
        found = lengths((xs, targets, () if resets is None else as_arrays(resets)))
        if len(found) != 1 or None in found:
            one = lambda tree: "/".join(str(n) for n in lengths(tree)) or "no"
            raise ValueError(
                f"run expects xs, targets and resets of one length, got {one(xs)} inputs, {one(targets)} targets, "
                f"{'no' if resets is None else one(as_arrays(resets))} resets."
            )
        (length,) = found
        if not length:
            raise ValueError("run expects at least one step, got an empty sequence.")
        st = self._opened(st, xs, targets, drop=1)
        resets = np.zeros(length, bool) if resets is None else as_arrays(resets)
        inputs = (xs, targets, resets)
        if _is_traced(st):
            return self._run_within(st, inputs)
        room = padded_length(length)
        try:
            st, outs = self._run(st, padded(inputs, room), np.int32(length))
        except (RuntimeError, ValueError):
            refuse_consumed(st, CALL)
            raise
        return st, outs if room == length else first(outs, length)

    def session(self, st: LearnerState, *, native: bool | None = None) -> Session:
        """Step from Python, row by row, at the price of the step itself: see `streamgrad.session.Session`.
        Consumes `st`."""
        from .session import Session

        return Session(self, st, native=native)

    def resident(self, st: LearnerState, x: Any, target: Any, *, reset: Any = False) -> tuple[LearnerState, Loop]:
        """What a session holds in its loop."""
        from .session import Loop

        st = self._opened(st, x, target)
        refuse_consumed(st, CALL)

        def turn(memory: Memory, row: tuple):
            x, target, more = row
            memory, told = self._one(memory, x, target, more.get("reset", jnp.array(False)))
            return memory, Output(*told)

        pack = lambda memory: LearnerState(st.packing.pack(memory), st.packing)
        options = compiler_options(batched=self._program.streams is not None)
        return st, Loop(turn, lambda st: st.memory, pack, lambda st: st, options)

    def grow(self, st: LearnerState, *, key: PRNGKeyArray | None = None) -> tuple[Learner, LearnerState]:
        """A learner whose model has grown by a stage (`sg.nn.Constructive`), and its state: what is new starts fresh,
        all else goes on, the optimiser's state of what stays included. Consumes `st`; `key`: of the new stage, by
        default from the state's.

        Raises `TypeError` for a model that cannot grow, `ValueError` within a window of `update_every` steps."""
        refuse_consumed(st, CALL)
        memory, program = st.memory, self._program
        model = self.model(st)
        key = jax.random.fold_in(memory.key, 2**31 + len(jax.tree.leaves(model))) if key is None else key
        larger, carry = grown(model, memory.carry, program.streams, key)
        learner = self._again(larger)
        serving = None if memory.pending == () else grown(model, memory.pending.serving, program.streams, key)[1]
        new = learner._program.grown(program, memory, eqx.filter(larger, eqx.is_array), carry, serving)
        return learner, learner._packed(new)

    def predict(self, st: LearnerState, x: Any) -> PyTree:
        """The prediction for x after all that was seen, from the newest weights. Changes nothing: a learner
        that is only asked does not advance."""
        try:
            return self._predict(st, as_arrays(x))
        except (RuntimeError, ValueError):
            refuse_consumed(st, CALL)
            raise

    def model(self, st: LearnerState) -> Any:
        """The model with its present weights, copies that live on when `st` is consumed; of a state made under
        `jax.vmap` each has its leading axis."""
        return eqx.combine(owned(st.memory.model), self._program.static)

    @property
    def driven(self) -> tuple[Any, Program]:
        """The model as it was given, and the driver that steps it."""
        return eqx.combine(self._template, self._program.static), self._program

    def warnings(self, st: LearnerState) -> list[str]:
        """What is growing out of bounds or was skipped, with the likely cause: ask now and then in a long run.
        Empty when all is well."""
        return health.warnings(st.memory, self._program.trained)

    # The state before the first step.

    @functools.cached_property
    def _init_jit(self):
        return jax.jit(self._program.init)

    def _same_form(self, model: Any) -> PyTree:
        """The arrays of another model. Raises `ValueError` where its form is not that of the learner's own."""
        arrays = eqx.filter(model, eqx.is_array)
        form = lambda tree: (jax.tree.structure(tree), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)])
        if form(arrays) != form(self._template):
            raise ValueError(
                "init(model=...) takes a model of the same layers, sizes and types as the learner's own: make both by "
                "one function, with another key."
            )
        return arrays

    def _opened(self, st: LearnerState, x: PyTree, target: PyTree, drop: int = 0) -> LearnerState:
        """Check what a step is given, once for each shape, and on the first call add the buffers that depend on
        the shapes. `drop`: leading axes that are not the step's own."""
        try:
            seen = (st.packing, drop, st.arrays[0].ndim, signature(x), signature(target))
        except AttributeError:
            raise TypeError(
                f"A learner expects a state of its own and arrays, got {type(st).__name__}, {type(x).__name__} and "
                f"{type(target).__name__}: learner.init(key=...) makes a state, np.asarray(...) an array."
            ) from None
        if seen in self._checked:
            return st
        if lead := st.arrays[0].shape[:-1]:
            raise ValueError(
                f"The state is of several learners (leading axis {lead}), made under jax.vmap: step them so too, "
                "jax.vmap(learner.step)(st, xs, targets)."
            )
        program, memory = self._program, st.memory
        x, target = shapes(x, drop), shapes(target, drop)
        if program.lead and any(leaf.shape[:1] != program.lead for leaf in jax.tree.leaves((x, target))):
            raise ValueError(
                f"A learner of {program.streams} streams expects x and target with a leading axis of that length, "
                f"got shapes {_shape(x)} and {_shape(target)}."
            )
        self._refuse_foreign(st, x, target)
        check(program, memory, x, target)
        if not program.is_open(memory):
            _, prediction = eqx.filter_eval_shape(program.forward, memory.model, memory.carry, x)
            st = self._packed(program.opened(memory, x, target, prediction))
            seen = (st.packing, *seen[1:])
        self._checked.add(seen)
        return st

    def _refuse_foreign(self, st: LearnerState, x: PyTree, target: PyTree) -> None:
        """Refuse the state of a learner that is set up otherwise, or fed with another type of input."""
        own: list[Packing] = []

        def note(key):
            memory = self._program.init(self._template, key, key)
            own.append(Packing(memory))
            if not self._program.is_open(memory):
                _, prediction = eqx.filter_eval_shape(self._program.forward, memory.model, memory.carry, x)
                own.append(Packing(self._program.opened(memory, x, target, prediction)))

        jax.eval_shape(note, st.memory.key)
        if st.packing not in own:
            raise ValueError(
                "The state does not fit: it was made by a learner with another model, optimiser, delay, update_every "
                f"or number of streams, or for inputs and targets of another shape or type than {described(x)} "
                f"and {described(target)}. Use this learner's init(key=...), and one type throughout."
            )

    def _packed(self, memory: Memory) -> LearnerState:
        """Packed by one and the same object for equal states, so that a call finds it by identity."""
        packing = Packing(memory)
        packing = self._packings.setdefault(packing, packing)
        return LearnerState(packing.pack(memory), packing)

    # One step.

    def _packed_step(self, st: LearnerState, x, target, reset=False, *, count=None):
        """A run of one step. Its length is read off the state (the last bit of the 64 that count steps is 0), so that
        the compiler takes it for a run like any other and rounds as there."""
        count = 1 + (st.memory.steps[1] >> 31).astype(jnp.int32) if count is None else count
        st, outs = self._packed_run(st, jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], (x, target, reset)), count)
        return st, jax.tree.map(lambda leaf: leaf[0], outs)

    def _answered_step(self, st: LearnerState, x, target, reset=False):
        """A step whose outputs are read together. Those of streams may lie on several devices, and stay there."""
        st, out = self._packed_step(st, x, target, reset)
        together = self._program.streams is None and jax.default_backend() == "cpu"
        return st, Answer.of(out) if together else out

    def _packed_run(self, st: LearnerState, inputs, count=None):
        inputs = jax.tree.map(jnp.asarray, inputs)
        count = len(inputs[-1]) if count is None else count
        memory, told = loop(self._one, st.memory, inputs, count)
        return LearnerState(st.packing.pack(memory), st.packing), Output(*told)

    @functools.cached_property
    def _predict(self):
        return jax.jit(lambda st, x: self._program.predict(st.memory, jax.tree.map(jnp.asarray, x)))


def _is_traced(st: LearnerState) -> bool:
    return isinstance(st.arrays[0], jax.core.Tracer)


def _shape(tree: PyTree) -> Any:
    """The shape of an array, or the shapes of a tree of them."""
    return tree.shape if hasattr(tree, "shape") else jax.tree.map(lambda leaf: leaf.shape, tree)
