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
from ._inference import inference
from ._memory import (
    LearnerState,
    Memory,
    Output,
    finite,
    finite_by_stream,
    fitted,
    is_algorithm,
    mean,
    missing_where,
    select,
    states,
    states_only,
)
from ._packing import Packing
from .nn import Persistent


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
        self._windowed = any(a.credit == "carry" for a in algorithms)
        if self._windowed and update_every == 1:
            raise ValueError(
                "BPTT with update_every=1 would silently be one-step truncation: give Learner(update_every=window) "
                "the number of steps to differentiate, or use sg.TBPTT(window) to update at every step."
            )
        self.optimiser, self.loss = optimiser, loss
        self.update_every, self.delay, self.streams = update_every, delay, streams
        arrays, self._static = eqx.partition(model, eqx.is_array)
        self._template = arrays
        self._trained = jax.tree.map(lambda leaf, own: eqx.is_inexact_array(leaf) and not own, arrays, fitted(model))
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
        packing = Packing(memory)
        # A copy: the weights of the model that the user holds must survive donation.
        st = LearnerState(tuple(jnp.array(a, copy=True) for a in packing.pack(memory)), packing)
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
                f"run expects xs, targets and resets of one length, got {length} inputs, {len(targets)} targets"
                + ("" if resets is None else f", {len(resets)} resets")
                + "."
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
        return eqx.combine(st.memory.model, self._static)

    def warnings(self, st: LearnerState) -> list[str]:
        """What is growing out of bounds or was skipped, with the likely cause: ask now and then in a long run.
        Empty when all is well."""
        return health.warnings(st.memory, self._trained)

    # The state before the first step.

    @functools.cached_property
    def _init_jit(self):
        return jax.jit(self._init)

    def _init(self, arrays, key_carry, key) -> Memory:
        trained = eqx.filter(arrays, self._trained)
        carry = self._fresh(arrays, key_carry)
        zeros = jax.tree.map(jnp.zeros_like, trained)
        return Memory(
            model=arrays,
            carry=carry,
            optimiser=self.optimiser.init(trained),
            gradient=(zeros, jnp.zeros((), jnp.int32)) if self.update_every > 1 and not self._windowed else (),
            window=(),
            pending=(),
            broken=jnp.zeros(self._lead, bool),
            steps=jnp.zeros((), jnp.int32),
            skipped=jnp.zeros((), jnp.int32),
            key=key,
        )

    @property
    def _lead(self) -> tuple[int, ...]:
        return () if self.streams is None else (self.streams,)

    def _fresh(self, arrays, key):
        """A carry before the first step, for every stream its own key."""
        model = eqx.combine(arrays, self._static)
        if self.streams is None:
            return model.init(key=key)
        return jax.vmap(lambda k: model.init(key=k))(jax.random.split(key, self.streams))

    def _opened(self, st: LearnerState, x, target) -> LearnerState:
        """Check a step's shapes once, and on the first call add the buffers that depend on them."""
        shapes = (np.shape(x), np.shape(target))
        if (st.packing, shapes) in self._checked:
            return st
        memory = st.memory
        if self._lead and any(shape[:1] != self._lead for shape in shapes):
            raise ValueError(
                f"A learner of {self.streams} streams expects x and target with a leading axis of {self.streams}, "
                f"got shapes {shapes[0]} and {shapes[1]}."
            )
        as_array = lambda a: jax.ShapeDtypeStruct(np.shape(a), jax.dtypes.canonicalize_dtype(jnp.result_type(a)))
        x, target = as_array(x), as_array(target)
        carry, prediction = eqx.filter_eval_shape(self._forward, memory.model, memory.carry, x)
        if jax.tree.structure(carry) != jax.tree.structure(memory.carry):
            raise TypeError("The model returned a carry of another structure than init(key=...) gave.")
        integer = jnp.issubdtype(target.dtype, jnp.integer)
        if not integer and prediction.shape != target.shape:
            raise ValueError(
                f"The model predicts shape {prediction.shape}, but the target has shape {target.shape}: "
                "make them equal (a scalar target of a model with one output has shape (1,))."
            )
        if (self.delay or self._windowed) and memory.window == () and memory.pending == ():
            st = self._packed(self._with_buffers(memory, x, target, prediction))
        self._checked.add((st.packing, shapes))
        return st

    def _packed(self, memory: Memory) -> LearnerState:
        """Packed by one and the same object for equal states, so that a call finds it by identity."""
        packing = Packing(memory)
        packing = self._packings.setdefault(packing, packing)
        return LearnerState(packing.pack(memory), packing)

    def _with_buffers(self, memory: Memory, x, target, prediction) -> Memory:
        ring = lambda like, n, fill=0.0: jnp.full((n, *like.shape), fill, like.dtype)
        copy = lambda tree: jax.tree.map(lambda a: jnp.array(a, copy=True), tree)
        flag = jax.ShapeDtypeStruct(self._lead, jnp.bool_)
        if self.delay:
            # Predictions that were never made count as missing.
            never = ring(prediction, self.delay, jnp.nan)
            serving = copy(states_only(memory.carry))
            memory = memory._replace(pending=(serving, ring(x, self.delay), ring(flag, self.delay), never))
        if self._windowed:
            k = self.update_every
            missing = -1 if jnp.issubdtype(target.dtype, jnp.integer) else jnp.nan
            window = (copy(memory.carry), ring(x, k), ring(target, k, missing), ring(flag, k))
            memory = memory._replace(window=window)
        return memory

    # One step.

    def _packed_step(self, st: LearnerState, x, target, reset=False):
        memory, out = self._one(st.memory, jnp.asarray(x), jnp.asarray(target), jnp.asarray(reset))
        return LearnerState(st.packing.pack(memory), st.packing), out

    def _packed_run(self, st: LearnerState, xs, targets, resets):
        inputs = jax.tree.map(jnp.asarray, (xs, targets, resets))
        memory, outs = jax.lax.scan(lambda memory, now: self._one(memory, *now), st.memory, inputs)
        return LearnerState(st.packing.pack(memory), st.packing), outs

    def _one(self, memory: Memory, x, target, reset) -> tuple[Memory, Output]:
        reset = jnp.broadcast_to(reset, self._lead)
        now = self._late if self.delay else self._learn
        memory, out = now(memory, x, target, reset)
        return memory._replace(steps=memory.steps + 1), out

    def _late(self, memory: Memory, x, target, reset) -> tuple[Memory, Output]:
        """Learn from the target of x_{t-delay} on the copy that runs behind, then predict at the present."""
        serving, xs, resets, predictions = memory.pending
        # A target whose input lies before the start or before an episode's boundary belongs to nothing.
        begun = memory.steps >= self.delay
        target = missing_where(resets[1:].any(0) | reset | ~begun, target)
        scored, _ = self._loss(predictions[0], target)

        def learn(memory):
            memory, out = self._learn(memory, xs[0], target, resets[0])
            return memory, out.learned

        memory, learned = jax.lax.cond(begun, learn, lambda m: (m, jnp.zeros(self._lead, bool)), memory)
        model = self._serving(memory.model)
        serving = self._restart(model, serving, reset | ~finite_by_stream(serving, self.streams), memory.key)
        serving, prediction = jax.lax.stop_gradient(self._call(model, serving, x))
        push = lambda ring, value: jnp.concatenate([ring[1:], value[None].astype(ring.dtype)])
        pending = (serving, push(xs, x), push(resets, reset), push(predictions, prediction))
        return memory._replace(pending=pending), Output(prediction, scored, learned)

    def _learn(self, memory: Memory, x, target, reset) -> tuple[Memory, Output]:
        """Predict with the learning copy, then learn from the target."""
        key = jax.random.fold_in(memory.key, memory.steps)
        model = eqx.combine(memory.model, self._static)
        carry = self._restart(model, memory.carry, reset | memory.broken, key)
        learn = self._learn_window if self._windowed else self._learn_now
        memory, prediction, each, there, sound = learn(memory, carry, x, target, reset)
        broken = ~finite_by_stream(states(memory.carry), self.streams) | (there & ~jnp.isfinite(each))
        # Where no stream shows why the gradient is not finite, the trace of any may be the cause.
        broken = broken | (~sound & ~broken.any())
        learned = there & sound
        memory = memory._replace(
            model=self._fit(memory.model, memory.carry, target, learned.any()),
            broken=broken,
            skipped=memory.skipped + (~sound).astype(jnp.int32),
        )
        return memory, Output(prediction, each, learned)

    def _learn_now(self, memory: Memory, carry, x, target, reset):
        """Credit through the traces: the gradient of this step's loss."""
        del reset
        trained, fixed = eqx.partition(memory.model, self._trained)

        def objective(trained):
            new, prediction = self._forward(eqx.combine(trained, fixed), carry, x)
            each, there = self._loss(prediction, target)
            return mean(each, there), (new, prediction, each, there)

        (loss, aux), gradient = eqx.filter_value_and_grad(objective, has_aux=True)(trained)
        carry, prediction, each, there = jax.lax.stop_gradient(aux)
        sound = ~there.any() | (jnp.isfinite(loss) & finite(gradient))
        memory = self._accumulate(memory._replace(carry=carry), gradient, there.any() & sound)
        return memory, prediction, each, there, sound

    def _learn_window(self, memory: Memory, carry, x, target, reset):
        """Credit through the carry (BPTT): remember the step; at a window's end differentiate all of it."""
        at = (memory.steps - self.delay) % self.update_every
        start, xs, targets, resets = memory.window
        start = jax.tree.map(select(at == 0), carry, start)
        put = lambda ring, value: jax.lax.dynamic_update_index_in_dim(ring, value.astype(ring.dtype), at, 0)
        xs, targets, resets = put(xs, x), put(targets, target), put(resets, reset & (at > 0))
        new, prediction = self._forward(memory.model, carry, x)
        each, there = self._loss(prediction, target)
        memory = memory._replace(carry=new, window=(start, xs, targets, resets))

        def objective(trained, fixed):
            arrays = eqx.combine(trained, fixed)

            def body(carry, now):
                x, target, reset = now
                carry = self._restart(eqx.combine(arrays, self._static), carry, reset, memory.key)
                carry, prediction = self._forward(arrays, carry, x)
                each, there = self._loss(prediction, target)
                return carry, (mean(each, there), there.any())

            _, (losses, there) = jax.lax.scan(body, start, (xs, targets, resets))
            return jnp.sum(losses) / jnp.maximum(there.sum(), 1).astype(losses.dtype), there.any()

        def update(memory):
            trained, fixed = eqx.partition(memory.model, self._trained)
            (loss, given), gradient = eqx.filter_value_and_grad(objective, has_aux=True)(trained, fixed)
            sound = ~given | (jnp.isfinite(loss) & finite(gradient))
            return self._update(memory, gradient, given & sound), sound

        end = at == self.update_every - 1
        memory, sound = jax.lax.cond(end, update, lambda m: (m, jnp.array(True)), memory)
        return memory, prediction, each, there, sound

    # Its parts.

    def _forward(self, arrays, carry, x):
        return self._call(eqx.combine(arrays, self._static), carry, x)

    def _call(self, model, carry, x):
        return model(carry, x) if self.streams is None else jax.vmap(lambda c, x: model(c, x))(carry, x)

    def _serving(self, arrays):
        return inference(eqx.combine(arrays, self._static))

    def _restart(self, model, carry, reset, key):
        """A fresh carry where `reset` says so, running statistics kept."""

        def fresh(carry):
            if self.streams is None:
                new = model.init(key=key)
            else:
                new = jax.vmap(lambda k: model.init(key=k))(jax.random.split(key, self.streams))
            is_persistent = lambda node: isinstance(node, Persistent)
            choose = lambda new, old: old if is_persistent(old) else select(reset)(new, old)
            return jax.tree.map(choose, new, carry, is_leaf=is_persistent)

        # A branch, not a selection: it costs nothing while it is not taken, and it keeps the flag out of the
        # loops over traces, which would stop being vectorised.
        return jax.lax.cond(reset.any(), fresh, lambda carry: carry, carry)

    def _loss(self, prediction, target):
        """The loss of each stream, NaN where there is no target, and whether there is one."""

        def one(prediction, target):
            if jnp.issubdtype(target.dtype, jnp.integer):
                there = (target >= 0).all()
                return self.loss(prediction, jnp.maximum(target, 0)), there
            given = jnp.isfinite(target)
            own = jax.lax.stop_gradient(prediction).astype(target.dtype)
            filled = jnp.where(given, target, own).astype(prediction.dtype)
            # A mean over all entries, of which the missing ones are free of error: rescaled to those given.
            share = jnp.maximum(given.sum(), 1) / max(given.size, 1)
            loss = self.loss(prediction, filled)
            return loss / share.astype(loss.dtype), given.any()

        each, there = one(prediction, target) if self.streams is None else jax.vmap(one)(prediction, target)
        return jnp.where(there, each, jnp.nan), there

    def _accumulate(self, memory: Memory, gradient, learned) -> Memory:
        if self.update_every == 1:
            return self._update(memory, gradient, learned)
        total, count = memory.gradient
        total = jax.tree.map(lambda a, g: a + jnp.where(learned, g, 0), total, gradient)
        count = count + learned.astype(jnp.int32)
        due = (memory.steps - self.delay + 1) % self.update_every == 0

        def update(memory):
            mean = jax.tree.map(lambda a: a / jnp.maximum(count, 1).astype(a.dtype), total)
            zeros = jax.tree.map(jnp.zeros_like, total)
            return self._update(memory, mean, count > 0)._replace(gradient=(zeros, jnp.zeros_like(count)))

        return jax.lax.cond(due, update, lambda m: m._replace(gradient=(total, count)), memory)

    def _update(self, memory: Memory, gradient, learned) -> Memory:
        trained, fixed = eqx.partition(memory.model, self._trained)
        with jax.numpy_dtype_promotion("standard"):  # Optax mixes precisions, also where the user forbids it
            updates, optimiser = self.optimiser.update(gradient, memory.optimiser, trained)
        updated = eqx.apply_updates(trained, updates)
        choose = select(learned)
        return memory._replace(
            model=eqx.combine(jax.tree.map(choose, updated, trained), fixed),
            optimiser=jax.tree.map(choose, optimiser, memory.optimiser),
        )

    def _fit(self, arrays, carry, target, learned):
        model = eqx.combine(arrays, self._static)
        if not callable(getattr(model, "fit", None)):
            return arrays
        old, rest = eqx.partition(model, eqx.is_array)

        def fit(arrays, step):
            carry, target = step
            return eqx.filter(eqx.combine(arrays, rest).fit(carry, target), eqx.is_array), None

        if self.streams is None:
            new, _ = fit(old, (carry, target))
        else:
            new, _ = jax.lax.scan(fit, old, (carry, target))
        return jax.tree.map(select(learned), new, old)

    @functools.cached_property
    def _predict(self):
        @jax.jit
        def predict(st: LearnerState, x):
            memory, x = st.memory, jnp.asarray(x)
            serving = self._serving(memory.model)
            late = memory.pending != ()
            carry = memory.pending[0] if late else states_only(memory.carry)
            broken = ~finite_by_stream(carry, self.streams) if late else memory.broken
            carry = self._restart(serving, carry, broken, memory.key)
            return self._call(serving, carry, x)[1]

        return predict


def _is_traced(st: LearnerState) -> bool:
    return isinstance(st.arrays[0], jax.core.Tracer)
