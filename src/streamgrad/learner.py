"""The driver of a stream: predict, then learn, at every step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PRNGKeyArray

from . import _health as health
from ._compile import compiler_options
from ._memory import LearnerState, Memory, Output, finite_by_stream, is_algorithm, states_only
from ._packing import Packing
from ._step import Step


class Learner:
    r"""Learns from a stream, one step at a time: predict, then learn.

        learner = sg.Learner(model, optax.adam(1e-3), loss=sg.losses.mse)
        st      = learner.init(key=key)
        st, out = learner.step(st, x, target)        # out.prediction, out.loss
        st, out = learner.run(st, xs, targets)       # the same, scanned on the device

    - `model`: an Equinox module with `init(key=) -> carry` and `(carry, x) -> (carry, prediction)`.
    - `optimiser`: any Optax transformation (clipping, groups and schedules included), over the model's
      inexact-array leaves, those of `sg.RLS` excepted.
    - `loss(prediction, target) -> scalar`.
    - `update_every`: steps whose gradients are averaged for one update; with `BPTT` the differentiated window.
    - `delay`: targets come this many steps late: the target given at step t is that of x_{t-delay}. The
      learning copy then runs that many steps behind, on the inputs of the time being scored; a serving copy
      of the state alone runs at the present with the newest weights. Nothing learns from the future.
    - `streams`: None for one stream; or a number of streams that share the weights, each with a carry of its
      own. Then x, target, prediction and reset have a leading axis of that length.

    Targets: a NaN (an integer target: a negative one) is missing, entry by entry: it is neither scored nor
    learned from, the state still advances. An infinite one counts as missing. A target that does not come in
    its step never comes: late ones are what `delay` is for.

    A step whose loss or gradient is not finite updates nothing, is counted in `st.skipped`, and the carry of
    that stream is reset before the next step.

    Raises `TypeError` for a model without the two methods; `ValueError` for BPTT with `update_every=1`, which
    would silently be one-step truncation, and for inputs of the wrong shape, before anything is consumed.
    """

    def __init__(
        self,
        model: Any,
        optimiser: optax.GradientTransformation,
        *,
        loss: Callable[[Array, Array], Array],
        update_every: int = 1,
        delay: int = 0,
        streams: int | None = None,
    ):
        if not callable(getattr(model, "init", None)) or not callable(model):
            raise TypeError(
                f"Learner expects a model with init(key=...) and (carry, x) -> (carry, prediction), got "
                f"{type(model).__name__}: wrap a layer and a readout in sg.nn.Sequential([...])."
            )
        if not isinstance(optimiser, optax.GradientTransformation):
            raise TypeError(f"Learner expects an Optax optimiser such as optax.adam(1e-3), got {optimiser!r}.")
        if isinstance(update_every, bool) or not isinstance(update_every, int) or update_every < 1:
            raise ValueError(f"update_every must be an integer >= 1, got {update_every!r}.")
        if isinstance(delay, bool) or not isinstance(delay, int) or delay < 0:
            raise ValueError(f"delay must be an integer >= 0, got {delay!r}: it is how late targets come.")
        if streams is not None and (not isinstance(streams, int) or streams < 1):
            raise ValueError(f"streams must be None or an integer >= 1, got {streams!r}.")
        algorithms = [a for a in jax.tree.leaves(model, is_leaf=is_algorithm) if is_algorithm(a)]
        windowed = any(a.credit == "carry" for a in algorithms)
        if windowed and update_every == 1:
            raise ValueError(
                "BPTT with update_every=1 would silently be one-step truncation: give Learner(update_every=window) "
                "the number of steps to differentiate, or use sg.TBPTT(window) to update at every step."
            )
        self._rule = Step(model, optimiser, loss, update_every, delay, streams, windowed)
        self._template = eqx.filter(model, eqx.is_array)
        options = compiler_options(batched=streams is not None)
        compiled = functools.partial(jax.jit, donate_argnums=0, compiler_options=options)
        self._step, self._run = compiled(self._packed_step), compiled(self._packed_run)
        self._checked: set = set()
        self._packings: dict[Packing, Packing] = {}

    # Public calls.

    def init(self, *, key: PRNGKeyArray, like: tuple[Any, Any] | None = None) -> LearnerState:
        """The state before the first step: the model's weights, empty traces, a fresh optimiser.

        `like`: an input and a target such as `step` will get. With it the buffers that depend on their shapes
        are there from the start, instead of from the first call, so that the state never changes its structure:
        for a checkpoint's `like`, or a loop of your own under `jit`."""
        key_carry, key = jax.random.split(key)
        memory = self._init_jit(self._template, key_carry, key)
        st = self._packed(memory)
        # A copy: the weights of the model that the user holds must survive donation.
        st = LearnerState(tuple(jnp.array(array, copy=True) for array in st.arrays), st.packing)
        return st if like is None else self._opened(st, *like)

    def step(self, st: LearnerState, x: Any, target: Any, *, reset: Any = None) -> tuple[LearnerState, Output]:
        """One step of the stream. `reset=True` says that x begins a new episode: state and traces start anew
        before it, running statistics stay. Consumes `st`."""
        st = self._opened(st, x, target)
        step = (x, target) if reset is None else (x, target, reset)
        # Under the user's own jit, the compiler's options are the user's.
        return self._packed_step(st, *step) if _is_traced(st) else self._step(st, *step)

    def run(self, st: LearnerState, xs: Any, targets: Any, *, resets: Any = None) -> tuple[LearnerState, Output]:
        """Many steps in one call, scanned on the device: xs and targets have a leading axis of time.
        Consumes `st`."""
        length = len(xs)
        if len(targets) != length or (resets is not None and len(resets) != length):
            raise ValueError(
                f"run expects xs, targets and resets of one length, got {length} inputs, {len(targets)} targets, "
                f"{'no' if resets is None else len(resets)} resets."
            )
        if length == 0:
            raise ValueError("run expects at least one step, got an empty sequence.")
        st = self._opened(st, xs[0], targets[0])
        resets = np.zeros(length, bool) if resets is None else resets
        run = self._packed_run if _is_traced(st) else self._run
        return run(st, xs, targets, resets)

    def predict(self, st: LearnerState, x: Any) -> Array:
        """The prediction for x after all that was seen, from the newest weights. Changes nothing: a learner
        that is only asked does not advance."""
        return self._predict(st, x)

    def model(self, st: LearnerState) -> Any:
        """The model with its present weights."""
        return eqx.combine(st.memory.model, self._rule.static)

    def warnings(self, st: LearnerState) -> list[str]:
        """What is growing out of bounds or was skipped, with the likely cause: ask now and then in a long run.
        Empty when all is well."""
        return health.warnings(st.memory, self._rule.trained)

    # The state before the first step.

    @functools.cached_property
    def _init_jit(self):
        return jax.jit(self._rule.init)

    def _opened(self, st: LearnerState, x, target) -> LearnerState:
        """Check a step's shapes once, and on the first call add the buffers that depend on them."""
        shapes = (np.shape(x), np.shape(target))
        if (st.packing, shapes) in self._checked:
            return st
        memory = st.memory
        if self._rule.lead and any(shape[:1] != self._rule.lead for shape in shapes):
            raise ValueError(
                f"A learner of {self._rule.streams} streams expects x and target with a leading axis of that length, "
                f"got shapes {shapes[0]} and {shapes[1]}."
            )
        as_array = lambda a: jax.ShapeDtypeStruct(np.shape(a), jax.dtypes.canonicalize_dtype(jnp.result_type(a)))
        x, target = as_array(x), as_array(target)
        carry, prediction = eqx.filter_eval_shape(self._rule.forward, memory.model, memory.carry, x)
        if jax.tree.structure(carry) != jax.tree.structure(memory.carry):
            raise TypeError("The model returned a carry of another structure than init(key=...) gave.")
        integer = jnp.issubdtype(target.dtype, jnp.integer)
        if not integer and prediction.shape != target.shape:
            raise ValueError(
                f"The model predicts shape {prediction.shape}, but the target has shape {target.shape}: "
                "make them equal (a scalar target of a model with one output has shape (1,))."
            )
        if (self._rule.delay or self._rule.windowed) and memory.window == () and memory.pending == ():
            st = self._packed(self._rule.with_buffers(memory, x, target, prediction))
        self._checked.add((st.packing, shapes))
        return st

    def _packed(self, memory: Memory) -> LearnerState:
        """Packed by one and the same object for equal states, so that a call finds it by identity."""
        packing = Packing(memory)
        packing = self._packings.setdefault(packing, packing)
        return LearnerState(packing.pack(memory), packing)

    # One step.

    def _packed_step(self, st: LearnerState, x, target, reset=False):
        memory, out = self._rule.one(st.memory, jnp.asarray(x), jnp.asarray(target), jnp.asarray(reset))
        return LearnerState(st.packing.pack(memory), st.packing), out

    def _packed_run(self, st: LearnerState, xs, targets, resets):
        inputs = jax.tree.map(jnp.asarray, (xs, targets, resets))
        memory, outs = jax.lax.scan(lambda memory, now: self._rule.one(memory, *now), st.memory, inputs)
        return LearnerState(st.packing.pack(memory), st.packing), outs

    @functools.cached_property
    def _predict(self):
        @jax.jit
        def predict(st: LearnerState, x):
            memory, x = st.memory, jnp.asarray(x)
            serving = self._rule.serving(memory.model)
            late = memory.pending != ()
            carry = memory.pending[0] if late else states_only(memory.carry)
            broken = ~finite_by_stream(carry, self._rule.streams) if late else memory.broken
            carry = self._rule.restart(serving, carry, broken, memory.key)
            return self._rule.call(serving, carry, x)[1]

        return predict


def _is_traced(st: LearnerState) -> bool:
    return isinstance(st.arrays[0], jax.core.Tracer)
