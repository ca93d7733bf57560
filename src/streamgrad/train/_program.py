"""The driver: pure functions of a memory that predict, then learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from .._cpu.piece import as_it_is
from ..algorithms import Algorithm
from ..estimators import Differentiate, Estimator
from ..nn import next_growth_step, restarted
from ..optimisers._masks import told_by_row
from ..optimisers._trained import frozen, split, trained
from ._carries import states_only
from ._delay import Delay
from ._evidence import Evidence, Finding
from ._guard import Guard
from ._memory import Memory, Told, counted
from ._rules import Rule
from ._serving import serving, without_traces
from ._soundness import closely
from ._update import Price, Update
from ._window import Window


def parameters(model: Any) -> PyTree[Array]:
    """The trained parameters of a model, None in the place of all else."""
    return split(model)[0]


class Program:
    """`init(arrays, key_carry, key) -> memory`, `step(memory, x, signal, reset) -> (memory, told)`, and `run` of many.

    - `model`: `init(key=) -> carry` and `(carry, x) -> (carry, y)`; its arrays live in the memory;
    - `rule`: what is to be learned from y and a signal; `update`: how parameters follow from it;
    - `guard`: what happens to a step that is not finite;
    - `streams`: None for one; `every`: steps whose evidence makes one update, differentiated at once by a `window`;
    - `delay`: steps that signals come late; `estimator`: of gradients.

    `next_growth_step`: the step before which the model is to grow, None without a schedule.

    The functions are pure: compile them, map them over seeds and rates, shard them, or scan them in a loop of your own.
    """

    def __init__(
        self,
        model: Any,
        rule: Rule,
        update: Update,
        guard: Guard,
        *,
        streams: int | None = None,
        every: int = 1,
        window: Window | None = None,
        delay: int = 0,
        estimator: Estimator | None = None,
    ):
        collected = getattr(update, "every", None)
        if collected is not None and collected != (each := every if window is None else 1):
            raise ValueError(
                f"{type(update).__name__}(every={collected}) within Program(every={every}): an update collects the "
                f"evidence of {each} steps here, so give it every={each}."
            )
        self.rule, self.update, self.guard = rule, update, guard
        self.streams, self.every, self.window = streams, every, window
        self.delay = Delay(delay) if delay else None
        self.estimator = estimator or Differentiate()
        self.static = eqx.partition(model, eqx.is_array)[1]
        self.trained = trained(model)
        marks = told_by_row(model)
        is_algorithm = lambda node: isinstance(node, Algorithm)
        late = [a for a in jax.tree.leaves(model, is_leaf=is_algorithm) if is_algorithm(a) and a.defers]
        self.rare = bool(late)
        if late and (update.sensitivity is not None or estimator is not None):
            raise TypeError(
                f"{type(update if estimator is None else estimator).__name__} asks for derivatives at every step, "
                f"where {late[0]} costs more than it saves: leave defer out."
            )
        self.told_by_row = None if marks is None else eqx.filter(marks, self.trained)
        self.lead = () if streams is None else (streams,)
        self.next_growth_step = next_growth_step(model)

    # Public calls.

    def init(self, arrays: PyTree[Array], key_carry: PRNGKeyArray, key: PRNGKeyArray) -> Memory:
        """What is known before the first step."""
        parameters = eqx.filter(arrays, self.trained)
        carry = self.fresh(self.stepping(arrays), key_carry)
        return Memory(
            model=arrays,
            carry=carry,
            update=self.update.init(parameters, self.lead),
            rule=self.rule.init(self.lead, jnp.result_type(*(jax.tree.leaves(parameters) or [float]))),
            broken=jnp.zeros(self.lead, bool),
            steps=jnp.zeros(2, jnp.uint32),
            phase=jnp.zeros((), jnp.int32),
            skipped=jnp.zeros((), jnp.int32),
            restarts=jnp.zeros((), jnp.int32),
            key=key,
            estimate=self.estimator.init(parameters, carry, key=jax.random.fold_in(key, 1)),
        )

    def opened(self, memory: Memory, x: Any, signal: Any, y: Any) -> Memory:
        """`memory` opened: with the rings of a delay and of a window, whose shapes only a step tells."""
        if not self.update.is_sized(memory.update):
            parameters = eqx.filter(memory.model, self.trained)
            memory = memory._replace(update=self.update.sized(memory.update, parameters, y, self.lead))
        if self.delay is not None:
            memory = memory._replace(pending=self.delay.init(memory.carry, x, y, self.lead))
        if self.window is not None:
            signal = self.rule.typed(y, signal)
            memory = memory._replace(window=self.window.init(memory.carry, x, signal, self.every, self.lead))
        return memory

    def price(self, arrays: PyTree[Array], y: Any) -> tuple[Price, int]:
        """What the update keeps and does when one stream predicts such a y, and the bytes of its state."""
        y = jax.ShapeDtypeStruct((*self.lead, *y.shape), y.dtype)

        def begun(arrays):
            trained = eqx.filter(arrays, self.trained)
            state = self.update.init(trained, self.lead)
            return state if self.update.is_sized(state) else self.update.sized(state, trained, y, self.lead)

        state = eqx.filter_eval_shape(begun, arrays)
        leaves = [leaf for leaf in jax.tree.leaves(state) if isinstance(leaf, jax.ShapeDtypeStruct)]
        return self.update.price(state, self.streams or 1), sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    def is_open(self, memory: Memory) -> bool:
        """Whether a memory has all buffers whose shapes only a step tells."""
        late, at_once = self.delay is None or memory.pending != (), self.window is None or memory.window != ()
        return late and at_once and self.update.is_sized(memory.update)

    def grown(self, smaller: Program, memory: Memory, arrays: PyTree[Array], carry: PyTree, serving: PyTree) -> Memory:
        """The memory of a program whose model is a stage larger than the one of `smaller`: what is new starts fresh,
        all else goes on. `serving`: the grown carry of the serving copy under a delay.

        Raises `TypeError` for an estimator, `ValueError` within a window."""
        if memory.estimate != ():
            name = type(smaller.estimator).__name__
            raise TypeError(f"A learner with {name} cannot grow: its noise has the old shapes.")
        if smaller.every > 1 and int(memory.phase):
            raise ValueError(f"grow between windows of update_every={smaller.every} steps: now is within one.")
        update = self.update.grown(memory.update, eqx.filter(arrays, self.trained), self.lead)
        pending, window = memory.pending, memory.window
        if pending != ():
            pending = pending._replace(serving=states_only(serving))
        if window != ():
            window = window._replace(start=jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), carry))
        return memory._replace(model=arrays, carry=carry, update=update, pending=pending, window=window)

    def step(self, memory: Memory, x: Any, signal: Any, reset: Any) -> tuple[Memory, Told]:
        """Predict from x, then learn from the signal that came with it. `reset`: None, or where an episode begins."""
        return self.guard.looked_back(self, memory, *self._once(memory, x, signal, reset), 1)

    def run(
        self, memory: Memory, xs: Any, signals: Any, resets: Any, *, whole: Callable[[Callable], Callable] = as_it_is
    ) -> tuple[Memory, Told]:
        """Many steps, with a leading axis of time: looked at once in a stretch, where the guard wants it so. `whole`
        marks a step, or a stretch of them, for the compiler."""
        n, stretch = jax.tree.leaves(xs)[0].shape[0], self.guard.stretch
        if stretch == 1:
            step = whole(lambda memory, now: self.step(memory, *now))
            return jax.lax.scan(step, memory, (xs, signals, resets))
        inputs, outs = (xs, signals, resets), []
        together, left = divmod(n, stretch)
        if together:
            fold = lambda a: a[: together * stretch].reshape(together, stretch, *a.shape[1:])
            memory, out = jax.lax.scan(whole(self._stretch), memory, jax.tree.map(fold, inputs))
            outs.append(jax.tree.map(lambda a: a.reshape(together * stretch, *a.shape[2:]), out))
        if left:
            memory, out = whole(self._stretch)(memory, jax.tree.map(lambda a: a[together * stretch :], inputs))
            outs.append(out)
        return memory, outs[0] if len(outs) == 1 else jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *outs)

    def predict(self, memory: Memory, x: Any) -> Any:
        """The prediction for x after all that was seen, from the newest weights."""
        model = self.serving(memory.model)
        if self.delay is None:
            carry, broken = states_only(memory.carry), memory.broken
        else:
            carry, broken = self.delay.serving(memory.pending, self.streams)
        return self.call(model, self.restart(model, carry, broken, memory.key), x)[1]

    # A step.

    def _once(self, memory: Memory, x: Any, signal: Any, reset: Any) -> tuple[Memory, Told]:
        reset = None if reset is None else jnp.broadcast_to(reset, self.lead)
        if self.delay is None:
            memory, told = self.learn(memory, x, signal, reset)
        else:
            memory, told = self.delay(self, memory, x, signal, reset)
        return memory._replace(steps=jnp.stack(counted(memory.steps))), told

    def _stretch(self, memory: Memory, inputs) -> tuple[Memory, Told]:
        """Some steps, and what to do when something in them was not finite: looked for once, for it takes time."""
        after, told = jax.lax.scan(lambda memory, now: self._once(memory, *now), memory, inputs)
        return self.guard.looked_back(self, memory, after, told, jax.tree.leaves(inputs)[0].shape[0])

    def learn(self, memory: Memory, x: Any, signal: Any, reset: Any) -> tuple[Memory, Told]:
        """Predict with the learning copy, then learn from the signal."""
        anew = self.guard.anew(memory.broken, reset)
        key = jax.random.fold_in(memory.key, memory.steps[0])
        model = self.stepping(memory.model)
        restart = lambda carry: self.restart(model, carry, anew, key)
        memory = memory._replace(carry=restart(memory.carry))
        if self.window is not None:
            memory, y, finding, sound = self.window(self, memory, x, signal, reset)
        else:
            memory, y, finding, sound = self._now(memory, x, signal, reset, anew, restart)
        learned = finding.there & sound
        memory = self.guard.looked_at(memory, finding, sound, self.streams)
        memory = memory._replace(
            model=self.fit(memory.model, memory.carry, self.rule.numbers(y, signal), learned.any()),
            phase=(memory.phase + 1) % self.every,
        )
        return memory, Told(y, self.rule.wrong(finding), learned)

    def _now(self, memory: Memory, x, signal, reset, anew, restart):
        """Credit through the traces, at this very step."""
        parameters, fixed = eqx.partition(memory.model, self.trained)
        due = memory.phase == self.every - 1
        forward = lambda parameters, carry, x: self.stepping(eqx.combine(parameters, fixed))(carry, x)
        if not isinstance(self.estimator, Differentiate):
            memory, evidence = self._estimated(memory, forward, parameters, x, signal, reset, anew, restart)
        else:
            y, carry, pull, sensitivity = self._linearise(forward, parameters, memory.carry, x)
            kept, finding = self.rule(memory.rule, y, signal, reset)
            untouched = self._untouched(forward, parameters, memory.carry, x)
            evidence = Evidence(
                finding,
                y,
                self.streams,
                due,
                pull,
                sensitivity,
                untouched=untouched,
                told_by_row=self.told_by_row,
                closely=closely(memory.steps[0], x, memory.carry, carry),
                rare=self.rare,
            )
            memory = memory._replace(carry=carry, rule=kept)
        state, parameters, sound = self.update(memory.update, parameters, evidence, self.guard)
        memory = memory._replace(model=eqx.combine(parameters, fixed), update=state)
        return memory, evidence.y, evidence.finding, sound

    def _linearise(self, forward, parameters, carry, x):
        """One step, with its pullback of all streams together, or what the update keeps of each one's."""

        def predict(parameters, carry, x):
            new, y = forward(parameters, carry, x)
            return y, new

        if (sensitivity := self.update.sensitivity) is not None:

            def one(carry, x):
                y, pull, new = jax.vjp(lambda parameters: predict(parameters, carry, x), parameters, has_aux=True)
                return y, new, sensitivity(pull, y)

            y, new, kept = one(carry, x) if self.streams is None else jax.vmap(one)(carry, x)
            return *jax.lax.stop_gradient((y, new)), None, kept
        together = lambda parameters: self._over_streams(predict, parameters)(carry, x)
        y, pull, new = jax.vjp(together, parameters, has_aux=True)
        return *jax.lax.stop_gradient((y, new)), jax.tree_util.Partial(lambda pull, slope: pull(slope)[0], pull), None

    def _untouched(self, forward, parameters, carry, x):
        """Which parameters no gradient reaches, by the form of the program."""

        def summed(parameters, carry, x):
            _, y = forward(parameters, carry, x)
            return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(y)), None

        one = lambda leaf: jax.ShapeDtypeStruct(leaf.shape if self.streams is None else leaf.shape[1:], leaf.dtype)
        return frozen(summed, parameters, *jax.tree.map(one, (carry, x)))

    def _over_streams(self, predict, parameters):
        one = lambda carry, x: predict(parameters, carry, x)
        return one if self.streams is None else jax.vmap(one)

    def _estimated(self, memory, forward, parameters, x, signal, reset, anew, restart):
        """Evidence that is a gradient alone."""

        def objective(parameters, carry):
            new, y = forward(parameters, carry, x)
            kept, finding = self.rule(memory.rule, y, signal, reset)
            loss = Evidence(finding, y, None).loss
            return loss, (new, y, finding.there, finding.loss, kept)

        (_, aux), gradient, estimate = self.estimator.estimate(
            objective,
            parameters,
            memory.carry,
            memory.estimate,
            reset=anew,
            begins=memory.phase == 0,
            restart=restart,
        )
        carry, y, there, loss, kept = jax.lax.stop_gradient(aux)
        memory = memory._replace(carry=carry, rule=kept, estimate=estimate)
        due = memory.phase == self.every - 1
        return memory, Evidence(Finding(there, loss), y, None, due, estimate=gradient)

    # Its parts.

    def model(self, arrays):
        return eqx.combine(arrays, self.static)

    def stepping(self, arrays):
        """What takes single steps: in chunks it needs no traces."""
        model = self.model(arrays)
        return without_traces(model) if self.window is not None and self.window.chunked else model

    def serving(self, arrays):
        return serving(self.model(arrays))

    def forward(self, arrays, carry, x):
        return self.call(self.stepping(arrays), carry, x)

    def call(self, model, carry, x):
        return model(carry, x) if self.streams is None else jax.vmap(lambda c, x: model(c, x))(carry, x)

    def fresh(self, model, key):
        """A carry before the first step, for every stream its own key."""
        if self.streams is None:
            return model.init(key=key)
        return jax.vmap(lambda k: model.init(key=k))(jax.random.split(key, self.streams))

    def restart(self, model, carry, anew, key):
        """A fresh carry where `anew` says so, running statistics kept."""
        if anew is None:
            return carry
        fresh = lambda carry: restarted(carry, self.fresh(model, key), anew, self.guard.choose)
        return jax.lax.cond(anew.any(), fresh, lambda carry: carry, carry) if self.guard.by_branch else fresh(carry)

    def fit(self, arrays, carry, target, learned):
        """The arrays after parts of the model that fit themselves have seen the target."""
        model = self.model(arrays)
        if target is None or not callable(getattr(model, "fit", None)):
            return arrays
        old, rest = eqx.partition(model, eqx.is_array)

        def fit(arrays, step):
            carry, target = step
            return eqx.filter(eqx.combine(arrays, rest).fit(carry, target), eqx.is_array), None

        if self.streams is None:
            new, _ = fit(old, (carry, target))
        else:
            new, _ = jax.lax.scan(fit, old, (carry, target))
        return jax.tree.map(self.guard.choose(learned), new, old)
