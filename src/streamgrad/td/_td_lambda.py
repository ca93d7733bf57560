"""Temporal-difference learning with eligibility traces, over any model and any algorithm."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .. import _health as health
from .._compile import compiler_options
from .._growth import grown
from .._memory import fitted, is_algorithm
from .._owned import owned
from .._trained import checked_optimiser, split, trained
from ..cells._cell import check_sizes
from ..nn import Sequential, due
from ..readout import Readout
from ..train import Filter, Kalman, Memory, Predicted, Program, TemporalDifference, Traces, Undo
from ._checks import check_share
from ._compiled import Compiled
from ._state import Form, Parts, TDState, is_traced

if TYPE_CHECKING:
    from ..session import Loop, Session


class TDOutput(NamedTuple):
    """What a step returns; of `run`, every leaf has a leading axis of time.

    - `prediction`: y_t, of the discounted sum of the cumulants to come, (predictions,);
    - `error`: δ_t, the temporal-difference error of the prediction before, NaN where there is none;
    - `learned`: whether something was learned from it.
    """

    prediction: Float[Array, "*lead predictions"]
    error: Float[Array, "*lead predictions"]
    learned: Bool[Array, ...]


class TDLambda:
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
      (asked again when the model grows), such as `lambda model: sg.optimisers.rmsprop(model, 1e-2)`;
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
        if not callable(getattr(model, "init", None)) or not callable(model):
            raise TypeError(
                f"TDLambda expects a model with init(key=...) and (carry, x) -> (carry, prediction), got "
                f"{type(model).__name__}: wrap a layer and a readout in sg.nn.Sequential([...])."
            )
        if any(jax.tree.leaves(fitted(model))):
            raise TypeError(
                "TDLambda has no target that a part which fits itself (sg.RLS) could learn from: use sg.Readout, and "
                "sg.Learner for targets."
            )
        algorithms = [a for a in jax.tree.leaves(model, is_leaf=is_algorithm) if is_algorithm(a)]
        for own in (a for a in algorithms if a.learns):
            raise TypeError(
                f"{type(own).__name__} learns leaves of its own by a regression that is no part of the prediction, and "
                "that an eligibility trace would weigh by the TD error: use an algorithm without, such as sg.SnAp(1)."
            )
        if windowed := [a for a in algorithms if a.credit == "carry"]:
            raise TypeError(
                f"TDLambda needs an online gradient at every step, and {type(windowed[0]).__name__} has none: use "
                "sg.TBPTT(window), sg.SnAp(1) or sg.RTRL()."
            )
        if not isinstance(optimiser, Kalman):
            checked_optimiser(optimiser, model, "TDLambda")
        elif np.any(lam):
            raise ValueError(
                f"Under a Kalman filter TDLambda takes lam=0, got {lam}: the filter's covariance is its credit through "
                "time, and there are no eligibility traces."
            )
        if streams is not None and (not isinstance(streams, int) or streams < 1):
            raise ValueError(f"streams must be None or an integer >= 1, got {streams!r}.")
        check_sizes(predictions=predictions)
        self._model, self._optimiser, self.predictions, self.streams = model, optimiser, predictions, streams
        self.gamma, self.lam = _shares("gamma", gamma, predictions), _shares("lam", lam, predictions)
        batched = streams is not None
        self._step, self._run = Compiled(self._packed_one, batched=batched), Compiled(self._many, batched=batched)
        self._checked: set = set()
        self.loops: dict[Any, Any] = {}
        self._forms: dict[Form, Form] = {}
        self._ask = jax.jit(lambda form, arrays, x: self._prediction(form.unpack(arrays), x), static_argnums=0)

    # Public calls.

    def init(self, *, key: PRNGKeyArray) -> TDState:
        """The state before the first step."""
        # A copy: the weights of the model that the user holds must survive donation.
        model = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True) if eqx.is_array(leaf) else leaf, self._model)
        program, lead = self._program(model), () if self.streams is None else (self.streams,)
        memory = program.init(eqx.filter(model, eqx.is_array), *jax.random.split(key))
        if not program.is_open(memory):
            memory = program.opened(memory, None, None, jax.ShapeDtypeStruct((*lead, self.predictions), float))
        return TDState(*_parts(program, memory, model))

    def step(
        self, st: TDState, x: Any, cumulant: Any, *, gamma: Any = None, lam: Any = None, reset: Any = None
    ) -> tuple[TDState, TDOutput]:
        """One step of the stream: x_t and the cumulant c_t that arrives with it. Consumes `st`."""
        st.refuse_consumed()
        now = _arrays(x, cumulant, gamma, lam, reset)
        if is_traced(now) or (not st.is_packed and is_traced(st.memory)):
            # Under the user's own jit, the compiler's options are the user's.
            now = _as_jax(now)
            self._check(Form(st.memory), st.memory, *now)
            memory, out = self._one(st.memory, now)
            return TDState(*memory), out
        form, arrays = st.packed(self._forms)
        self._check(form, st, *now)
        if form.due is not None and form.due <= st.steps:
            st = self._grown(st)
            form, arrays = st.packed(self._forms)
        arrays, out = self._step(form, st.to_consume(arrays), now)
        st.consumed = True
        return st.followed_by(form, arrays), out

    def session(self, st: TDState, *, native: bool | None = None) -> Session:
        """Step from Python, row by row, at the price of the step itself: see `streamgrad.session.Session`. A step takes
        gamma, lam and reset by name. Consumes `st`."""
        from ..session import Session

        return Session(self, st, native=native)

    def resident(
        self, st: TDState, x: Any, cumulant: Any, *, gamma: Any = None, lam: Any = None, reset: Any = None
    ) -> tuple[Any, Loop]:
        """What a session holds in its loop. Raises `TypeError` for a model that grows by itself."""
        from ..session import Loop

        st.refuse_consumed()
        if due(st.memory.model) is not None:
            raise TypeError(
                "A session runs one compiled program, and this model grows by itself: call step or run instead."
            )
        form = Form(st.memory)
        self._check(form, st, *_arrays(x, cumulant, gamma, lam, reset))
        arrays = st.to_consume(eqx.filter(st.memory, eqx.is_array))
        st.consumed = True

        def turn(arrays, row):
            x, cumulant, more = row
            parts, out = self._one(form.join(arrays), (x, cumulant, *(more.get(n) for n in ("gamma", "lam", "reset"))))
            return eqx.filter(parts, eqx.is_array), out

        same = lambda arrays: arrays
        options = compiler_options(batched=self.streams is not None)
        return arrays, Loop(turn, same, same, lambda arrays: TDState(*form.join(arrays)), options)

    def run(
        self, st: TDState, xs: Any, cumulants: Any, *, gammas: Any = None, lams: Any = None, resets: Any = None
    ) -> tuple[TDState, TDOutput]:
        """Many steps, scanned on the device: all arguments have a leading axis of time. Consumes `st`."""
        st.refuse_consumed()
        steps = _as_jax(_arrays(xs, cumulants, gammas, lams, resets))
        names = ("xs", "cumulants", "gammas", "lams", "resets")
        given = {name: array for name, array in zip(names, steps, strict=True) if array is not None}
        lengths = {name: array.shape[0] if array.ndim else None for name, array in given.items()}
        if len(set(lengths.values())) != 1 or not lengths["xs"]:
            raise ValueError(f"run expects at least one step, and arguments of one length, got {lengths}.")
        self._check(Form(st.memory), st.memory, *_part(steps, 0))
        parts, start = [], 0
        while start < lengths["xs"]:
            st = self._grown(st)
            end = min(lengths["xs"], start + self._until_growth(st))
            form, arrays = Form(st.memory), eqx.filter(st.memory, eqx.is_array)
            if is_traced((arrays, steps)):
                arrays, out = self._many(form, arrays, _part(steps, slice(start, end)))
            else:
                arrays, out = self._run(form, st.to_consume(arrays), _part(steps, slice(start, end)))
                st.consumed = True
            st = TDState(*form.join(arrays))
            parts.append(out)
            start = end
        return st, parts[0] if len(parts) == 1 else jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)

    def model(self, st: TDState) -> Any:
        """The model with its present weights, copies that live on when `st` is consumed."""
        st.refuse_consumed()
        arrays, rest = eqx.partition(st.model, eqx.is_array)
        return eqx.combine(owned(arrays), rest)

    def warnings(self, st: TDState) -> list[str]:
        """What is growing out of bounds or was skipped, with the likely cause: ask now and then in a long run.
        Empty when all is well."""
        return health.warnings(st, trained(st.model))

    def grow(self, st: TDState, *, key: PRNGKeyArray | None = None) -> TDState:
        """The state after the model has grown by a stage (`sg.nn.Constructive`): what is new starts fresh, all else
        goes on, the optimiser's state of what stays included. `key`: of the new stage; by default from the state's.

        Raises `TypeError` for a model that cannot grow, `ValueError` for one that has all its units."""
        old = st.memory
        key = jax.random.fold_in(old.key, 2**31 + len(jax.tree.leaves(old.model))) if key is None else key
        model, carry = grown(old.model, old.carry, self.streams, key)
        program, smaller = self._program(model), self._program(old.model)
        memory = program.grown(smaller, _memory(smaller, old), eqx.filter(model, eqx.is_array), carry, None)
        return TDState(*_parts(program, memory, model))

    def predict(self, st: TDState, x: Any) -> Array:
        """The prediction for x after all that was seen. Changes nothing."""
        st.refuse_consumed()
        if is_traced((st.memory, x)):
            return self._prediction(st.memory, jnp.asarray(x))
        form, arrays = st.packed(self._forms)
        return self._ask(form, arrays, jnp.asarray(x))

    # What is compiled.

    @property
    def driven(self) -> tuple[Any, Program]:
        """The model as it was given, and the driver that steps it."""
        return self._model, self._program(self._model)

    def _program(self, model: Any) -> Program:
        rule = TemporalDifference(self.gamma, self.lam, self.predictions)
        if isinstance(self._optimiser, Kalman):
            update = Filter(self._optimiser, model, temporal=True)
        else:
            update = Traces(self._optimise(model), self.predictions, _own_rows(model, self.predictions))
        return Program(model, rule, update, Undo(), streams=self.streams)

    def _one(self, parts: Parts, now):
        x, cumulant, gamma, lam, reset = now
        program = self._program(parts.model)
        memory, told = program.step(_memory(program, parts), x, (cumulant, gamma, lam), reset)
        return _parts(program, memory, parts.model), TDOutput(*told)

    def _packed_one(self, form: Form, arrays, now):
        parts, out = self._one(form.unpack(arrays), now)
        return form.pack(parts), out

    def _many(self, form: Form, arrays: Parts, steps):
        parts = form.join(arrays)
        xs, cumulants, gammas, lams, resets = steps
        program = self._program(parts.model)
        memory, told = program.run(_memory(program, parts), xs, (cumulants, gammas, lams), resets)
        return eqx.filter(_parts(program, memory, parts.model), eqx.is_array), TDOutput(*told)

    def _prediction(self, st: Parts, x):
        call = lambda carry, x: st.model(carry, x)[1]
        return call(st.carry, x) if self.streams is None else jax.vmap(call)(st.carry, x)

    # Its parts.

    def _optimise(self, model) -> optax.GradientTransformation:
        made: Any = self._optimiser
        return made if isinstance(made, optax.GradientTransformation) else made(model)

    def _until_growth(self, st: TDState) -> int:
        """Steps until the model is to grow."""
        step = due(st.memory.model)
        return sys.maxsize if step is None or is_traced(st) else step - st.steps

    def _grown(self, st: TDState) -> TDState:
        """The state with the stages that are due."""
        while self._until_growth(st) <= 0:
            st = self.grow(st)
        return st

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
        wanted = {"cumulant": (cumulant, st.prediction.shape), "reset": (reset, lead)}
        for name, (array, shape) in wanted.items():
            if array is not None and array.shape != shape:
                raise ValueError(f"The {name} of a step must have shape {shape}, got {array.shape}.")
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
        self._program(st.model).update.check(split(st.model)[0])
        if lam is not None and isinstance(self._optimiser, Kalman):
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


def _own_rows(model, predictions: int):
    """For each trained parameter, whether its rows belong to one prediction each: those of a last `Readout`; with a
    single prediction all are its own."""
    parameters = split(model)[0]
    marks = jax.tree.map(lambda leaf: predictions == 1, parameters)
    last = model.layers[-1] if isinstance(model, Sequential) else None
    if predictions == 1 or not isinstance(last, Readout) or last.feedback_weight is not None:
        return marks
    return eqx.tree_at(lambda m: m.layers[-1], marks, jax.tree.map(lambda leaf: True, parameters.layers[-1]))


def _shares(name: str, value: Any, predictions: int) -> np.ndarray | float:
    """γ or λ, one for all predictions or one for each."""
    array = np.asarray(value, float)
    if array.shape not in ((), (predictions,)):
        raise ValueError(f"{name} is a number, or {predictions} of them, got shape {array.shape}.")
    for entry in array.ravel():
        check_share(name, entry)
    return array


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


def _part(steps, index):
    return tuple(None if array is None else array[index] for array in steps)
