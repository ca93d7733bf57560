"""Temporal-difference learning with eligibility traces, over any model and any algorithm."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .._base.owned import owned
from .._base.trees import is_traced
from .._cpu.loop import form_of_one
from .._cpu.options import compiler_options
from .._cpu.ordered_loop import Compiled
from .._cpu.piece import as_it_is, chosen
from ..train import (
    Filter,
    Memory,
    Predicted,
    Program,
    Shell,
    check_key,
    check_reset,
    one_length,
    refuse_growth,
    temporal_difference,
)
from ._state import Form, Parts, TDState

if TYPE_CHECKING:
    from ..session import Loop


class TDOutput(NamedTuple):
    """What a step returns; of `run`, every leaf has a leading axis of time.

    - `prediction`: y_t, of the discounted sum of the cumulants to come, (predictions,);
    - `error`: δ_t, the temporal-difference error of the prediction before, NaN where there is none;
    - `learned`: whether something was learned from it.
    """

    prediction: Float[Array, "*lead predictions"]
    error: Float[Array, "*lead predictions"]
    learned: Bool[Array, " ..."]


class TDLambda(Shell):
    r"""TD(λ): predicts discounted sums of what is to come, and learns at every step.

        learner = sg.td.TDLambda(model, optax.sgd(1e-2), gamma=0.9, lam=0.99)
        st      = learner.init(key=key)
        st, out = learner.step(st, x, cumulant)        # out.prediction, out.error
        st, out = learner.run(st, xs, cumulants)       # the same, scanned on the device

    The prediction y_t of $G_t = \sum_{k\ge 1} \gamma^{k-1} c_{t+k}$ is learned from the next one, with accumulating
    eligibility traces e over all parameters θ:

        δ_t = c_t + γ_t y_t - y_{t-1}        the cumulant arrives with the input x_t
        θ   ← optimiser(θ, -δ_t e_{t-1})     all predictions together: the sum over j of δ_j e_j
        e_t = γ_t λ_t e_{t-1} + ∂y_t/∂θ      the online gradient, at the weights that made y_t

    so that each layer's own algorithm says how far back the credit for y goes.

    - `model`: `init(key=) -> carry` and `(carry, x) -> (carry, y)`, y of shape (predictions,); a bank of many
      predictions ("Horde") has a trace for each over what they share, and one for its own row of a last `sg.Readout`;
    - `optimiser`: any Optax transformation, or a function `model -> transformation` for one that depends on the model
      (asked again when the model grows), such as `sg.optimisers.rmsprop(1e-2)`;
      `sg.Kalman()` in its place makes Kalman temporal differences: the filter's sensitivity is ∂(y_{t-1} - γ_t y_t)/∂θ,
      `lam` must be 0, and `st.trace` holds ∂y_{t-1}/∂θ (Geist & Pietquin, 2010; biased where transitions are random);
    - `gamma`, `lam`: numbers in [0, 1], or one for each prediction; both can be given with every step instead;
    - `predictions`: how many the model makes at once;
    - `streams`: None for one stream, or how many share the weights, each with carry and traces of its own; then x,
      cumulant, γ, λ, reset and prediction have a leading axis of that length, and updates are averaged over them.

    Cumulants: a NaN is missing: that prediction learns nothing from the step. `reset=True`: x begins a new episode; the
    cumulant that arrives with it is the last of the one before, whose sum ends there (γ_t = 0), and state and traces
    start anew. When something is not finite, what was learned is undone: of this step, or in `run` of the stretch of up
    to 32 steps within which it is noticed; `st.skipped` counts them, and carry and traces of the stream at fault start
    anew.

    A model with `sg.nn.Constructive` grows by itself, in `step` and `run`, at the steps of its schedule (not under a
    `jit` of your own, where the structure cannot change: call `grow`). A step compiles once for each stage.

    Raises `TypeError` for a model without the two methods, with BPTT, which has no online gradient, or with an
    algorithm that learns leaves of its own (DNI, KeRNL); `ValueError` for γ and λ out of range and for inputs of the
    wrong shape.

    Reference: Sutton, 1988; Sutton et al., Horde, 2011; van Seijen et al., 2016 (accumulating traces).
    """

    def __init__(
        self,
        model: Any,
        optimiser: Any,
        *,
        gamma: Any,
        lam: Any = 0.0,
        predictions: int = 1,
        streams: int | None = None,
    ):
        given = dict(optimiser=optimiser, gamma=gamma, lam=lam, predictions=predictions, streams=streams)
        super().__init__(model, functools.partial(temporal_difference, **given))
        self.predictions, self.streams = predictions, streams
        rule: Any = self._program.rule
        self.gamma, self.lam = rule.gamma, rule.lam
        batched = streams is not None
        self._step = Compiled(
            self._packed_step, lambda form, *now: self._turn(form, form.unpack, *now), batched=batched
        )
        self._run = Compiled(
            self._many,
            lambda form, arrays, steps: self._turn(form, form.join, arrays, form_of_one(steps)),
            batched=batched,
        )
        self._checked: set = set()
        self._forms: dict[Form, Form] = {}
        self._programs: dict[Form, Program] = {}
        self._ask = jax.jit(lambda form, arrays, x: self._prediction(form.unpack(arrays), x), static_argnums=0)

    # Public calls.

    def init(self, *, key: PRNGKeyArray) -> TDState:
        """The state before the first step."""
        program = self._program
        # A copy: the weights of the model that the user holds must survive donation.
        memory = program.init(owned(self._arrays), *jax.random.split(check_key(key)))
        if not program.is_open(memory):
            y = jax.ShapeDtypeStruct((*program.lead, self.predictions), float)
            memory = program.opened(memory, None, None, y)
        return self._state(program, memory)

    def step(
        self, st: TDState, x: Any, cumulant: Any, *, gamma: Any = None, lam: Any = None, reset: Any = None
    ) -> tuple[TDState, TDOutput]:
        """One step of the stream: x_t and the cumulant c_t that arrives with it. Consumes `st`."""
        st.refuse_consumed()
        now = _arrays(x, cumulant, gamma, lam, reset)
        if is_traced(now) or (not st.is_packed and is_traced(st.memory)):
            # Under the user's own jit, the compiler's options are the user's.
            form, now = Form(st.memory), _as_jax(now)
            self._check(form, st.memory, *now)
            parts, out = self._one(form, st.memory, now)
            return TDState(*parts), out
        form, arrays = st.packed(self._forms)
        self._check(form, st, *now)
        if form.next_growth_step is not None and form.next_growth_step <= st.steps:
            st, _ = self._grown(st, self._program_of(form, st.memory.model))
            form, arrays = st.packed(self._forms)
        arrays, out = self._step(form, st.to_consume(arrays), now)
        st.consumed = True
        return st.followed_by(form, arrays), out

    def run(
        self, st: TDState, xs: Any, cumulants: Any, *, gammas: Any = None, lams: Any = None, resets: Any = None
    ) -> tuple[TDState, TDOutput]:
        """Many steps, scanned on the device: all arguments have a leading axis of time. Consumes `st`."""
        st.refuse_consumed()
        steps = _as_jax(_arrays(xs, cumulants, gammas, lams, resets))
        names = ("xs", "cumulants", "gammas", "lams", "resets")
        given = {name: array for name, array in zip(names, steps, strict=True) if array is not None}
        length = one_length(**given)
        form = Form(st.memory)
        self._check(form, st.memory, *(None if array is None else array[0] for array in steps))
        program = self._program_of(form, st.memory.model)
        return self._in_stretches(st, program, steps, length, self._run_many)

    def predict(self, st: TDState, x: Any) -> Array:
        """The prediction for x after all that was seen. Changes nothing."""
        st.refuse_consumed()
        if is_traced((st.memory, x)):
            return self._prediction(st.memory, jnp.asarray(x))
        form, arrays = st.packed(self._forms)
        return self._ask(form, arrays, jnp.asarray(x))

    def resident(
        self, st: TDState, x: Any, cumulant: Any, *, gamma: Any = None, lam: Any = None, reset: Any = None
    ) -> tuple[Any, Loop]:
        """What a session holds in its loop. Raises `TypeError` for a model that grows by itself."""
        from ..session import Loop

        st.refuse_consumed()
        form = Form(st.memory)
        refuse_growth(self._program_of(form, st.memory.model), "A session")
        self._check(form, st, *_arrays(x, cumulant, gamma, lam, reset))
        arrays = st.to_consume(eqx.filter(st.memory, eqx.is_array))
        st.consumed = True

        first = (x, cumulant, gamma, lam, reset)
        one, taken = self._turn(form, form.join, arrays, _as_jax(_arrays(*first)))
        whole, options = as_it_is, compiler_options(batched=True)
        if self.streams is None:
            whole, options = chosen(one, *taken, options=compiler_options())

        def turn(arrays, row):
            x, cumulant, more = row
            return whole(one)(arrays, (x, cumulant, *(more.get(name) for name in ("gamma", "lam", "reset"))))

        same = lambda arrays: arrays
        return arrays, Loop(turn, same, same, lambda arrays: TDState(*form.join(arrays)), options)

    # The state.

    def _program_of(self, form: Form, model: Any) -> Program:
        """The program of a model of that form."""
        if is_traced(model):
            return self._programs.get(form) or self._make(model)
        if form not in self._programs:
            self._programs[form] = self._make(model)
        return self._programs[form]

    def _held(self, st: TDState) -> tuple[Program, Memory]:
        st.refuse_consumed()
        program = self._program_of(Form(st.memory), st.memory.model)
        return program, _memory(program, st.memory)

    def _state(self, program: Program, memory: Memory) -> TDState:
        return TDState(*_parts(program, memory, program.static))

    # What is compiled.

    def _one(self, form: Form, parts: Parts, now):
        x, cumulant, gamma, lam, reset = now
        program = self._program_of(form, parts.model)
        memory, told = program.step(_memory(program, parts), x, (cumulant, gamma, lam), reset)
        return _parts(program, memory, parts.model), TDOutput(*told)

    def _turn(self, form: Form, parts_of: Callable, arrays, now) -> tuple[Callable, tuple]:
        """A step of arrays to arrays, and what it takes."""

        def turn(arrays, now):
            parts, out = self._one(form, form.join(arrays), now)
            return eqx.filter(parts, eqx.is_array), out

        joined = jax.eval_shape(lambda arrays: eqx.filter(parts_of(arrays), eqx.is_array), arrays)
        return turn, (joined, now)

    def _packed_step(self, whole: Callable, form: Form, arrays, now):
        def step(arrays, now):
            turn = self._turn(form, form.unpack, arrays, now)[0]  # a piece of its own, which rounds as a session's does
            arrays, out = whole(turn)(eqx.filter(form.unpack(arrays), eqx.is_array), now)
            return form.pack(form.join(arrays)), out

        return whole(step)(arrays, now)

    def _many(self, whole: Callable, form: Form, arrays: Parts, steps):
        parts = form.join(arrays)
        xs, cumulants, gammas, lams, resets = steps
        program = self._program_of(form, parts.model)
        memory, told = program.run(_memory(program, parts), xs, (cumulants, gammas, lams), resets, whole=whole)
        return eqx.filter(_parts(program, memory, parts.model), eqx.is_array), TDOutput(*told)

    def _run_many(self, st: TDState, program: Program, steps):
        del program
        form, arrays = Form(st.memory), eqx.filter(st.memory, eqx.is_array)
        if is_traced((arrays, steps)):
            arrays, out = self._many(as_it_is, form, arrays, steps)
        else:
            arrays, out = self._run(form, st.to_consume(arrays), steps)
            st.consumed = True
        return TDState(*form.join(arrays)), out

    def _prediction(self, st: Parts, x):
        call = lambda carry, x: st.model(carry, x)[1]
        return call(st.carry, x) if self.streams is None else jax.vmap(call)(st.carry, x)

    def _check(self, form: Form, st: Any, x, cumulant, gamma, lam, reset) -> None:
        """Refuse arguments of the wrong shape, before anything is consumed."""
        shapes = tuple(
            None if array is None else (array.shape, array.dtype) for array in (x, cumulant, gamma, lam, reset)
        )
        seen = (form, shapes)
        if seen in self._checked:
            return
        st, x = st.memory if isinstance(st, TDState) else st, jnp.asarray(x)
        lead = st.begun.shape
        if cumulant.shape != st.prediction.shape:
            raise ValueError(f"The cumulant of a step must have shape {st.prediction.shape}, got {cumulant.shape}.")
        if reset is not None:
            check_reset(reset, lead)
        for name, array in (("gamma", gamma), ("lam", lam)):
            if array is not None and not _broadcasts(array.shape, st.prediction.shape):
                raise ValueError(f"{name} of a step must broadcast to {st.prediction.shape}, got {array.shape}.")
        if lead and (x.ndim < 1 or x.shape[0] != lead[0]):
            raise ValueError(f"x must have a leading axis of {lead[0]} streams, got shape {x.shape}.")
        made = eqx.filter_eval_shape(self._prediction, st, x)
        if made.shape != st.prediction.shape:
            raise ValueError(
                f"The model predicts shape {made.shape}, expected {st.prediction.shape}: give "
                "TDLambda(predictions=...) the number of predictions that the model makes."
            )
        program = self._program_of(form, st.model)
        program.update.check(eqx.filter(st.model, program.trained))
        if lam is not None and isinstance(program.update, Filter):
            raise ValueError("Under a Kalman filter TDLambda takes no λ for a step: there are no eligibility traces.")
        self._checked.add(seen)


def _memory(program: Program, parts: Parts) -> Memory:
    """The memory of the driver in the parts of a state."""
    return Memory(
        model=eqx.filter(parts.model, eqx.is_array),
        carry=parts.carry,
        update=program.update.joined(parts.trace, parts.optimiser),
        rule=Predicted(parts.prediction, parts.begun),
        broken=jnp.zeros_like(parts.begun),
        steps=parts.count,
        phase=jnp.zeros((), jnp.int32),
        skipped=parts.skipped,
        key=parts.key,
    )


def _parts(program: Program, memory: Memory, model: Any) -> Parts:
    """The parts of a state with the driver's memory, of a model whose arrays are in it."""
    trace, optimiser = program.update.parts(memory.update)
    return Parts(
        model=eqx.combine(memory.model, model),
        carry=memory.carry,
        trace=trace,
        prediction=memory.rule.prediction,
        begun=memory.rule.begun,
        optimiser=optimiser,
        skipped=memory.skipped,
        key=memory.key,
        count=memory.steps,
    )


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(shape, to) == to
    except ValueError:
        return False


def _arrays(*values) -> tuple[Any, ...]:
    as_array = lambda value: value if isinstance(value, jax.Array | np.ndarray | np.generic) else jnp.asarray(value)
    return tuple(None if value is None else as_array(value) for value in values)


def _as_jax(arrays):
    return tuple(None if array is None else jnp.asarray(array) for array in arrays)
