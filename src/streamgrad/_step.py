"""One step of learning, as a function of everything that a learner knows."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from ._dependence import dependence
from ._inference import inference, without_traces
from ._memory import (
    Memory,
    Output,
    finite,
    finite_by_stream,
    fitted,
    mean,
    missing_where,
    of_algorithms,
    scored,
    states,
    states_only,
    total,
    untrained,
)
from ._select import select
from .estimators import Estimator
from .nn import restarted, unroll


class Step:
    """`one(memory, x, target, reset) -> (memory, output)` for a model, an optimiser and a loss.

    `windowed`: `update_every` steps are differentiated at once: credit goes through the carry (BPTT), or, when
    `chunked`, each layer's algorithm runs a whole window without traces. The other arguments are those of `Learner`.
    """

    def __init__(
        self,
        model: Any,
        optimiser: Any,
        loss: Any,
        update_every: int,
        delay: int,
        streams: int | None,
        windowed: bool,
        chunked: bool,
        estimator: Estimator,
    ):
        self.optimiser: optax.GradientTransformation = optimiser
        self.loss, self.update_every, self.delay = loss, update_every, delay
        self.streams, self.windowed, self.chunked = streams, windowed, chunked
        self.estimator = estimator
        arrays, self.static = eqx.partition(model, eqx.is_array)
        #: which arrays of the model the optimiser moves: not those that fit themselves
        self.trained = jax.tree.map(lambda leaf, own: eqx.is_inexact_array(leaf) and not own, arrays, untrained(model))
        #: and which of these algorithms learn by themselves, targets or not
        self.own = jax.tree.map(lambda trained, own: trained and own, self.trained, of_algorithms(model))

    def init(self, arrays, key_carry, key) -> Memory:
        """What is known before the first step."""
        trained = eqx.filter(arrays, self.trained)
        carry = self.fresh(arrays, key_carry)
        zeros = jax.tree.map(jnp.zeros_like, trained)
        return Memory(
            model=arrays,
            carry=carry,
            optimiser=self.optimiser.init(trained),
            gradient=(zeros, jnp.zeros((), jnp.int32)) if self.update_every > 1 and not self.windowed else (),
            window=(),
            pending=(),
            broken=jnp.zeros(self.lead, bool),
            steps=jnp.zeros(2, jnp.uint32),
            phase=jnp.zeros((), jnp.int32),
            skipped=jnp.zeros((), jnp.int32),
            restarts=jnp.zeros((), jnp.int32),
            key=key,
            owed=eqx.filter(zeros, self.own),
            estimate=self.estimator.init(trained, carry, key=jax.random.fold_in(key, 1)),
        )

    @property
    def lead(self) -> tuple[int, ...]:
        return () if self.streams is None else (self.streams,)

    def fresh(self, arrays, key):
        """A carry before the first step, for every stream its own key."""
        model = self.stepping(arrays)
        if self.streams is None:
            return model.init(key=key)
        return jax.vmap(lambda k: model.init(key=k))(jax.random.split(key, self.streams))

    def check(self, memory: Memory, x, target) -> None:
        """Refuse, from shapes alone, a model, loss and target that do not go together."""
        carry, prediction = eqx.filter_eval_shape(self.forward, memory.model, memory.carry, x)
        if jax.tree.structure(carry) != jax.tree.structure(memory.carry):
            raise TypeError("The model returned a carry of another structure than init(key=...) gave.")
        if not jnp.issubdtype(target.dtype, jnp.integer) and prediction.shape != target.shape:
            raise ValueError(
                f"The model predicts shape {prediction.shape}, but the target has shape {target.shape}: "
                "make them equal (a scalar target of a model with one output has shape (1,))."
            )
        each, _ = eqx.filter_eval_shape(self.score, prediction, target)
        if each.shape != self.lead:
            raise ValueError(
                f"The loss must be a scalar for each step, got shape {each.shape[len(self.lead) :]}: take the mean, as "
                "sg.losses.mse does."
            )
        own = jax.tree.leaves(fitted(eqx.combine(memory.model, self.static)))
        fit = lambda target: jax.tree.leaves(self.fit(memory.model, memory.carry, target, jnp.array(True)))
        if any(own) and not dependence(jax.make_jaxpr(fit)(target).jaxpr)[own, 0].all():
            raise ValueError(
                "A part of the model fits itself from targets (sg.RLS), but the model's fit(carry, target) does "
                "not reach it: put it last in sg.nn.Sequential, or give your model a fit that calls it."
            )

    def with_buffers(self, memory: Memory, x, target, prediction) -> Memory:
        """`memory` with the rings of a delay and the window of BPTT, whose shapes only a step tells."""
        ring = lambda like, n, fill=0.0: jnp.full((n, *like.shape), fill, like.dtype)
        copy = lambda tree: jax.tree.map(lambda a: jnp.array(a, copy=True), tree)
        flag = jax.ShapeDtypeStruct(self.lead, jnp.bool_)
        if self.delay:
            # Predictions that were never made count as missing.
            never = ring(prediction, self.delay, jnp.nan)
            serving = copy(states_only(memory.carry))
            memory = memory._replace(pending=(serving, ring(x, self.delay), ring(flag, self.delay), never))
        if self.windowed:
            k = self.update_every
            missing = -1 if jnp.issubdtype(target.dtype, jnp.integer) else jnp.nan
            window = (copy(memory.carry), ring(x, k), ring(target, k, missing), ring(flag, k))
            memory = memory._replace(window=window)
        return memory

    def one(self, memory: Memory, x, target, reset) -> tuple[Memory, Output]:
        reset = jnp.broadcast_to(reset, self.lead)
        now = self._late if self.delay else self._learn
        memory, out = now(memory, x, target, reset)
        low, high = memory.steps
        low = low + 1
        return memory._replace(steps=jnp.stack([low, high + (low == 0).astype(high.dtype)])), out

    def _late(self, memory: Memory, x, target, reset) -> tuple[Memory, Output]:
        """Learn from the target of x_{t-delay} on the copy that runs behind, then predict at the present."""
        serving, xs, resets, predictions = memory.pending
        # A target whose input lies before the start or before an episode's boundary belongs to nothing.
        begun = (memory.steps[0] >= self.delay) | (memory.steps[1] > 0)
        target = missing_where(resets[1:].any(0) | reset | ~begun, target)
        scored, _ = self.score(predictions[0], target)

        def learn(memory):
            memory, out = self._learn(memory, xs[0], target, resets[0])
            return memory, out.learned

        memory, learned = jax.lax.cond(begun, learn, lambda m: (m, jnp.zeros(self.lead, bool)), memory)
        model = self.serving(memory.model)
        serving = self.restart(model, serving, reset | ~finite_by_stream(serving, self.streams), memory.key)
        serving, prediction = jax.lax.stop_gradient(self.call(model, serving, x))
        push = lambda ring, value: jnp.concatenate([ring[1:], value[None].astype(ring.dtype)])
        pending = (serving, push(xs, x), push(resets, reset), push(predictions, prediction))
        return memory._replace(pending=pending), Output(prediction, scored, learned)

    def _learn(self, memory: Memory, x, target, reset) -> tuple[Memory, Output]:
        """Predict with the learning copy, then learn from the target."""
        key = jax.random.fold_in(memory.key, memory.steps[0])
        model = self.stepping(memory.model)
        carry = self.restart(model, memory.carry, reset | memory.broken, key)
        learn = self._learn_window if self.windowed else self._learn_now
        restart = lambda carry: self.restart(model, carry, reset | memory.broken, key)
        memory, prediction, each, there, sound = learn(memory, carry, x, target, reset, restart)
        broken = ~finite_by_stream(states(memory.carry), self.streams) | (there & ~jnp.isfinite(each))
        # Where no stream shows why the gradient is not finite, the trace of any may be the cause.
        broken = broken | (~sound & ~broken.any())
        learned = there & sound
        memory = memory._replace(
            model=self.fit(memory.model, memory.carry, target, learned.any()),
            broken=broken,
            phase=(memory.phase + 1) % self.update_every,
            skipped=memory.skipped + (~sound).astype(jnp.int32),
            restarts=memory.restarts + broken.sum(dtype=jnp.int32),
        )
        return memory, Output(prediction, each, learned)

    def _learn_now(self, memory: Memory, carry, x, target, reset, restart):
        """Credit through the traces: the gradient of this step's loss."""
        trained, fixed = eqx.partition(memory.model, self.trained)

        def objective(trained, carry):
            new, prediction = self.forward(eqx.combine(trained, fixed), carry, x)
            each, there = self.score(prediction, target)
            # The sum, so that algorithms see each stream's own cotangent; the mean is taken of gradients.
            return total(each, there), (new, prediction, each, there)

        (loss, aux), gradient, estimate = self.estimator.estimate(
            objective,
            trained,
            carry,
            memory.estimate,
            reset=reset | memory.broken,
            begins=memory.phase == 0,
            restart=restart,
        )
        carry, prediction, each, there = jax.lax.stop_gradient(aux)
        if self.streams is not None:
            count = jnp.maximum(there.sum(), 1)
            gradient = jax.tree.map(lambda g: g / count.astype(g.dtype), gradient)
        sound = ~there.any() | (jnp.isfinite(loss) & finite(gradient))
        memory = memory._replace(carry=carry, estimate=estimate)
        if jax.tree.leaves(memory.owed):
            memory, gradient = self._with_owed(memory, gradient, there.any())
        memory = self._accumulate(memory, gradient, there.any() & sound)
        return memory, prediction, each, there, sound

    def _with_owed(self, memory: Memory, gradient, there):
        """The gradient with what steps without a target still owe to the leaves that algorithms learn themselves."""
        own, rest = eqx.partition(gradient, self.own)
        own = jax.tree.map(jnp.add, own, memory.owed)
        keep = ~there & finite(own)
        owed = jax.tree.map(lambda g: jnp.where(keep, g, 0), own)
        return memory._replace(owed=owed), eqx.combine(own, rest)

    def _learn_window(self, memory: Memory, carry, x, target, reset, restart):
        """Remember the step; at a window's end differentiate all of it."""
        at = memory.phase
        start, xs, targets, resets = memory.window
        start = jax.tree.map(select(at == 0), carry, start)
        put = lambda ring, value: jax.lax.dynamic_update_index_in_dim(ring, value.astype(ring.dtype), at, 0)
        xs, targets, resets = put(xs, x), put(targets, target), put(resets, reset & (at > 0))
        new, prediction = self.forward(memory.model, carry, x)
        each, there = self.score(prediction, target)
        memory = memory._replace(carry=new, window=(start, xs, targets, resets))

        def at_once(trained, fixed, keys):
            model = eqx.combine(eqx.combine(trained, fixed), self.static)
            run = lambda carry, xs, resets, keys: unroll(model, carry, xs, (resets, keys))[1]
            if self.streams is None:
                predictions = run(start, xs, resets, keys)
            else:
                each = jax.vmap(lambda key: jax.random.split(key, self.lead[0]))(keys)
                predictions = jax.vmap(run, in_axes=(0, 1, 1, 1), out_axes=1)(start, xs, resets, each)
            each, there = jax.vmap(self.score)(predictions, targets)
            losses, there = jax.vmap(mean)(each, there), there.reshape(len(xs), -1).any(1)
            return jnp.sum(losses) / jnp.maximum(there.sum(), 1).astype(losses.dtype), there.any()

        def step_by_step(trained, fixed, keys):
            arrays = eqx.combine(trained, fixed)

            def body(carry, now):
                x, target, reset, key = now
                carry = self.restart(eqx.combine(arrays, self.static), carry, reset, key)
                carry, prediction = self.forward(arrays, carry, x)
                each, there = self.score(prediction, target)
                return carry, (mean(each, there), there.any())

            _, (losses, there) = jax.lax.scan(body, start, (xs, targets, resets, keys))
            return jnp.sum(losses) / jnp.maximum(there.sum(), 1).astype(losses.dtype), there.any()

        def update(memory):
            trained, fixed = eqx.partition(memory.model, self.trained)
            # The keys with which each step of the window drew its fresh carry, had there been a reset.
            first = memory.steps[0] + jnp.uint32(1) - jnp.uint32(self.update_every)
            steps = first + jnp.arange(self.update_every, dtype=jnp.uint32)
            keys = jax.vmap(lambda step: jax.random.fold_in(memory.key, step))(steps)
            objective = at_once if self.chunked else step_by_step
            (loss, given), gradient = eqx.filter_value_and_grad(objective, has_aux=True)(trained, fixed, keys)
            sound = ~given | (jnp.isfinite(loss) & finite(gradient))
            return self._update(memory, gradient, given & sound), sound

        end = at == self.update_every - 1
        memory, sound = jax.lax.cond(end, update, lambda m: (m, jnp.array(True)), memory)
        return memory, prediction, each, there, sound

    # Its parts.

    def forward(self, arrays, carry, x):
        return self.call(self.stepping(arrays), carry, x)

    def call(self, model, carry, x):
        return model(carry, x) if self.streams is None else jax.vmap(lambda c, x: model(c, x))(carry, x)

    def stepping(self, arrays):
        """What takes single steps: in chunks it needs no traces."""
        model = eqx.combine(arrays, self.static)
        return without_traces(model) if self.chunked else model

    def serving(self, arrays):
        return inference(eqx.combine(arrays, self.static))

    def restart(self, model, carry, reset, key):
        """A fresh carry where `reset` says so, running statistics kept."""

        def fresh(carry):
            if self.streams is None:
                new = model.init(key=key)
            else:
                new = jax.vmap(lambda k: model.init(key=k))(jax.random.split(key, self.streams))
            return restarted(carry, new, reset)

        # A branch, not a selection: it costs nothing while it is not taken, and it keeps the flag out of the
        # loops over traces, which would stop being vectorised.
        return jax.lax.cond(reset.any(), fresh, lambda carry: carry, carry)

    def score(self, prediction, target):
        """The loss of each stream, NaN where there is no target, and whether there is one."""
        one = lambda prediction, target: scored(self.loss, prediction, target)
        return one(prediction, target) if self.streams is None else jax.vmap(one)(prediction, target)

    def _accumulate(self, memory: Memory, gradient, learned) -> Memory:
        if self.update_every == 1:
            return self._update(memory, gradient, learned)
        total, count = memory.gradient
        total = jax.tree.map(lambda a, g: a + jnp.where(learned, g, 0), total, gradient)
        count = count + learned.astype(jnp.int32)
        due = memory.phase == self.update_every - 1

        def update(memory):
            mean = jax.tree.map(lambda a: a / jnp.maximum(count, 1).astype(a.dtype), total)
            zeros = jax.tree.map(jnp.zeros_like, total)
            return self._update(memory, mean, count > 0)._replace(gradient=(zeros, jnp.zeros_like(count)))

        return jax.lax.cond(due, update, lambda m: m._replace(gradient=(total, count)), memory)

    def _update(self, memory: Memory, gradient, learned) -> Memory:
        trained, fixed = eqx.partition(memory.model, self.trained)
        with jax.numpy_dtype_promotion("standard"):  # Optax mixes precisions, also where the user forbids it
            updates, optimiser = self.optimiser.update(gradient, memory.optimiser, trained)
        updated = eqx.apply_updates(trained, updates)
        choose = select(learned)
        return memory._replace(
            model=eqx.combine(jax.tree.map(choose, updated, trained), fixed),
            optimiser=jax.tree.map(choose, optimiser, memory.optimiser),
        )

    def fit(self, arrays, carry, target, learned):
        model = eqx.combine(arrays, self.static)
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
