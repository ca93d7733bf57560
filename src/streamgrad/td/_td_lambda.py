"""Temporal-difference learning with eligibility traces, over any model and any algorithm."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped

from .. import _health as health
from .._growth import grown, overlaid
from .._memory import finite_by_stream, is_algorithm, untrained
from .._order import computed
from .._select import select_bits
from ..cells._cell import check_sizes
from ..nn import Sequential, due, restarted
from ..readout import Readout
from ._checks import check_share
from ._compiled import Compiled

#: Steps of `run` after which it is seen whether all is finite.
STRETCH = 32


class TDOutput(NamedTuple):
    """What a step returns; of `run`, every leaf has a leading axis of time.

    - `prediction`: y_t, of the discounted sum of the cumulants to come, (predictions,);
    - `error`: δ_t, the temporal-difference error of the prediction before, NaN where there is none;
    - `learned`: whether something was learned from it.
    """

    prediction: Float[Array, "*lead predictions"]
    error: Float[Array, "*lead predictions"]
    learned: Bool[Array, ...]


class TDState(eqx.Module):
    """Everything that a TD learner knows, as one pytree, the model included.

    `model`, `carry`; `trace`: eligibility, a leaf for each trained parameter; `prediction`: the last one; `begun`:
    whether it may be learned from; `optimiser`: its state; `skipped`: steps undone because something was not finite;
    `key`: of fresh carries; `count`: steps taken, in two words, low first.
    """

    model: Any
    carry: PyTree
    trace: PyTree
    prediction: Float[Array, "*lead predictions"]
    begun: Bool[Array, "*lead"]
    optimiser: PyTree
    skipped: Int[Array, ""]
    key: PRNGKeyArray
    count: Shaped[Array, " 2"]

    @property
    def steps(self) -> int:
        """Steps taken."""
        low, high = np.asarray(self.count)
        return int(low) + (int(high) << 32)


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
        optimiser: optax.GradientTransformation | Callable[[Any], optax.GradientTransformation],
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
        if not isinstance(optimiser, optax.GradientTransformation) and not callable(optimiser):
            raise TypeError(
                "TDLambda expects an Optax optimiser such as optax.sgd(1e-2), or a function of the model that "
                f"makes one, got {optimiser!r}."
            )
        if streams is not None and (not isinstance(streams, int) or streams < 1):
            raise ValueError(f"streams must be None or an integer >= 1, got {streams!r}.")
        check_sizes(predictions=predictions)
        self._model, self._optimiser, self.predictions, self.streams = model, optimiser, predictions, streams
        self.gamma, self.lam = _shares("gamma", gamma, predictions), _shares("lam", lam, predictions)
        batched = streams is not None
        self._step, self._run = Compiled(self._one, batched=batched), Compiled(self._many, batched=batched)
        self._checked: set = set()
        self._ask = jax.jit(self._prediction, static_argnums=0)

    # Public calls.

    def init(self, *, key: PRNGKeyArray) -> TDState:
        """The state before the first step."""
        # A copy: the weights of the model that the user holds must survive donation.
        model = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True) if eqx.is_array(leaf) else leaf, self._model)
        key_carry, key = jax.random.split(key)
        carry = self._fresh(model, key_carry)
        return self._start(model, carry, key)

    def step(
        self, st: TDState, x: Any, cumulant: Any, *, gamma: Any = None, lam: Any = None, reset: Any = None
    ) -> tuple[TDState, TDOutput]:
        """One step of the stream: x_t and the cumulant c_t that arrives with it. Consumes `st`."""
        now = _arrays(x, cumulant, gamma, lam, reset)
        self._check(st, *now)
        st = self._grown(st)
        arrays, static = _split(st)
        step = self._one if is_traced(st) else self._step  # under the user's own jit, the compiler's options are theirs
        arrays, out = step(static, arrays, now)
        return _join(arrays, static), out

    def run(
        self, st: TDState, xs: Any, cumulants: Any, *, gammas: Any = None, lams: Any = None, resets: Any = None
    ) -> tuple[TDState, TDOutput]:
        """Many steps, scanned on the device: all arguments have a leading axis of time. Consumes `st`."""
        steps = _arrays(xs, cumulants, gammas, lams, resets)
        names = ("xs", "cumulants", "gammas", "lams", "resets")
        given = {name: array for name, array in zip(names, steps, strict=True) if array is not None}
        lengths = {name: array.shape[0] if array.ndim else None for name, array in given.items()}
        if len(set(lengths.values())) != 1 or not lengths["xs"]:
            raise ValueError(f"run expects at least one step, and arguments of one length, got {lengths}.")
        self._check(st, *_part(steps, 0))
        parts, start = [], 0
        while start < lengths["xs"]:
            st = self._grown(st)
            end = min(lengths["xs"], start + self._until_growth(st))
            arrays, static = _split(st)
            run = self._many if is_traced(st) else self._run
            arrays, out = run(static, arrays, _part(steps, slice(start, end)))
            st = _join(arrays, static)
            parts.append(out)
            start = end
        return st, parts[0] if len(parts) == 1 else jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)

    def warnings(self, st: TDState) -> list[str]:
        """What is growing out of bounds or was skipped, with the likely cause: ask now and then in a long run.
        Empty when all is well."""
        own = untrained(st.model)
        trained = jax.tree.map(
            lambda leaf, own: eqx.is_inexact_array(leaf) and not own, eqx.filter(st.model, eqx.is_array), own
        )
        return health.warnings(st, trained)

    def grow(self, st: TDState, *, key: PRNGKeyArray | None = None) -> TDState:
        """The state after the model has grown by a stage (`sg.nn.Constructive`): what is new starts fresh, all else
        goes on, the optimiser's state of what stays included. `key`: of the new stage; by default from the state's.

        Raises `TypeError` for a model that cannot grow, `ValueError` for one that has all its units."""
        key = jax.random.fold_in(st.key, 2**31 + len(jax.tree.leaves(st.model))) if key is None else key
        model, carry = grown(st.model, st.carry, self.streams, key)
        fresh = self._start(model, carry, st.key)
        trace, optimiser = overlaid((fresh.trace, fresh.optimiser), (st.trace, st.optimiser))
        return TDState(model, carry, trace, st.prediction, st.begun, optimiser, st.skipped, st.key, st.count)

    def predict(self, st: TDState, x: Any) -> Array:
        """The prediction for x after all that was seen. Changes nothing."""
        arrays, static = _split(st)
        return self._ask(static, arrays, jnp.asarray(x))

    # One step.

    def _advance(self, st: TDState, x, cumulant, gamma, lam, reset) -> tuple[TDState, TDOutput]:
        carry = st.carry
        if reset is not None:
            # By bits: a branch would copy the carry at every step.
            fresh = self._fresh(st.model, jax.random.fold_in(st.key, st.count[0]))
            carry = restarted(carry, fresh, reset, select_bits)
        parameters, static = eqx.partition(st.model, _trained(st.model))
        own = _own_rows(st.model, self.predictions)

        def slopes(carry, x):
            """The prediction, and its derivative by the parameters: rows for each prediction, or their own rows."""

            def predict(parameters):
                new, y = eqx.combine(parameters, static)(carry, x)
                return y, new

            y, pull, new = jax.vjp(predict, parameters, has_aux=True)
            (together,) = pull(jnp.ones_like(y))
            if self.predictions == 1:
                return y, new, together
            (each,) = jax.vmap(pull)(jnp.eye(self.predictions, dtype=y.dtype))
            return y, new, jax.tree.map(lambda all, one, own: all if own else one, together, each, own)

        y, carry, by_parameter = (slopes if self.streams is None else jax.vmap(slopes))(carry, x)
        y, carry = jax.lax.stop_gradient((y, carry))
        filled = lambda given, default: jnp.broadcast_to(
            jnp.asarray(default if given is None else given, y.dtype), y.shape
        )
        gamma, lam = filled(gamma, self.gamma), filled(lam, self.lam)
        if reset is not None:
            gamma = jnp.where(reset[..., None], 0, gamma)
        there = st.begun[..., None] & jnp.isfinite(cumulant)
        error = jnp.where(there, cumulant.astype(y.dtype) + gamma * y - st.prediction, 0)
        learned = there.any(-1)

        over = jnp.maximum(learned.sum(), 1).astype(y.dtype)
        gradient = jax.tree.map(lambda e, own: -self._credited(e, error, own, over), st.trace, own)
        with jax.numpy_dtype_promotion("standard"):  # Optax mixes precisions, also where the user forbids it
            updates, optimiser = self._optimise(st.model).update(gradient, st.optimiser, parameters)
        # In place: the weights, then the optimiser's state, which they have read, then the traces, which both have.
        use, decay = learned.any(), gamma * lam
        parameters = jax.tree.map(select_bits(use), eqx.apply_updates(parameters, updates), parameters)
        parameters, use = computed((parameters, use))
        optimiser = jax.tree.map(select_bits(use), optimiser, st.optimiser)
        parameters, optimiser, decay = computed((parameters, optimiser, decay))
        # At a reset γ is 0, and the traces start anew.
        trace = jax.tree.map(lambda e, slope: self._by_row(decay, e) * e + slope, st.trace, by_parameter)
        low, high = st.count
        low = low + 1
        new = TDState(
            model=eqx.combine(parameters, static),
            carry=carry,
            trace=trace,
            prediction=y,
            begun=jnp.ones_like(st.begun),
            optimiser=optimiser,
            skipped=st.skipped,
            key=st.key,
            count=jnp.stack([low, high + (low == 0).astype(high.dtype)]),
        )
        return new, TDOutput(y, jnp.where(there, error, jnp.nan), learned)

    def _by_row(self, each, trace):
        """A number for each prediction, (streams, predictions), broadcastable to a trace of them."""
        lead = each.shape[:-1]
        rows = () if self.predictions == 1 else each.shape[-1:]
        return each.reshape(*lead, *rows, *(1,) * (trace.ndim - len(lead) - len(rows))).astype(trace.dtype)

    def _credited(self, trace, error, own, over):
        """The sum of δ e over predictions that share a parameter, and the mean over streams."""
        if self.predictions > 1 and not own:
            return jnp.tensordot(error.astype(trace.dtype), trace, axes=error.ndim) / over.astype(trace.dtype)
        each = self._by_row(error, trace) * trace
        return each if self.streams is None else jnp.sum(each, 0) / over.astype(trace.dtype)

    def _one(self, static, arrays, now):
        arrays, out = self._stretch(static, arrays, jax.tree.map(lambda a: a[None], now))
        return arrays, jax.tree.map(lambda a: a[0], out)

    def _many(self, static, arrays, steps):
        """Stretches of steps, each of them guarded; what is left over is a shorter one."""
        whole, left = divmod(len(steps[0]), STRETCH)
        outs = []
        if whole:
            shaped = jax.tree.map(lambda a: a[: whole * STRETCH].reshape(whole, STRETCH, *a.shape[1:]), steps)
            arrays, out = jax.lax.scan(lambda arrays, now: self._stretch(static, arrays, now), arrays, shaped)
            outs.append(jax.tree.map(lambda a: a.reshape(whole * STRETCH, *a.shape[2:]), out))
        if left:
            arrays, out = self._stretch(static, arrays, jax.tree.map(lambda a: a[whole * STRETCH :], steps))
            outs.append(out)
        return arrays, outs[0] if len(outs) == 1 else jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *outs)

    def _stretch(self, static, arrays, steps):
        """Some steps, and what to do when something in them was not finite: looked for once, for it takes time."""

        def one(arrays, now):
            st, out = self._advance(_join(arrays, static), *now)
            return _split(st)[0], out

        after, out = jax.lax.scan(one, arrays, steps)
        before, after = _join(arrays, static), _join(after, static)
        sound = finite_by_stream((after.carry, after.trace, after.prediction), self.streams)
        weights = finite_by_stream((eqx.filter(after.model, eqx.is_array), after.optimiser), None)
        fault = ~sound | (~weights & sound.all())  # where no stream shows the cause, any may be it

        def undone(both):
            before, after = both
            before, after = _join(before, static), _join(after, static)
            fresh = self._fresh(before.model, jax.random.fold_in(before.key, before.count[0]))
            clear = lambda leaf: select_bits(fault)(jnp.zeros_like(leaf), leaf)
            st = TDState(
                model=before.model,
                carry=restarted(after.carry, fresh, fault, select_bits),
                trace=jax.tree.map(clear, after.trace),
                prediction=clear(after.prediction),
                begun=after.begun & ~fault,
                optimiser=before.optimiser,
                skipped=after.skipped + len(steps[0]),
                key=after.key,
                count=after.count,
            )
            return _split(st)[0]

        bad = fault.any()
        both = _split(before)[0], _split(after)[0]
        return jax.lax.cond(bad, undone, lambda both: both[1], both), out._replace(learned=out.learned & ~bad)

    def _prediction(self, static, arrays, x):
        st = arrays if static is None else _join(arrays, static)
        call = lambda carry, x: st.model(carry, x)[1]
        return call(st.carry, x) if self.streams is None else jax.vmap(call)(st.carry, x)

    # Its parts.

    def _optimise(self, model) -> optax.GradientTransformation:
        made = self._optimiser
        return made if isinstance(made, optax.GradientTransformation) else made(model)

    def _fresh(self, model, key):
        """A carry before the first step, for every stream its own key."""
        if self.streams is None:
            return model.init(key=key)
        return jax.vmap(lambda k: model.init(key=k))(jax.random.split(key, self.streams))

    def _start(self, model, carry, key) -> TDState:
        lead = () if self.streams is None else (self.streams,)
        parameters, own = eqx.filter(model, _trained(model)), _own_rows(model, self.predictions)
        # The rows of a bank: one for each prediction, but where a parameter has a row for each of its own.
        rows = lambda leaf, own: leaf.shape if own else (self.predictions, *leaf.shape)
        dtype = jnp.result_type(*jax.tree.leaves(parameters))
        return TDState(
            model=model,
            carry=carry,
            trace=jax.tree.map(lambda leaf, own: jnp.zeros((*lead, *rows(leaf, own)), leaf.dtype), parameters, own),
            prediction=jnp.zeros((*lead, self.predictions), dtype),
            begun=jnp.zeros(lead, bool),
            optimiser=self._optimise(model).init(parameters),
            skipped=jnp.zeros((), jnp.int32),
            key=key,
            count=jnp.zeros(2, jnp.uint32),
        )

    def _until_growth(self, st: TDState) -> int:
        """Steps until the model is to grow."""
        step = due(st.model)
        return sys.maxsize if step is None or is_traced(st) else step - st.steps

    def _grown(self, st: TDState) -> TDState:
        """The state with the stages that are due."""
        while self._until_growth(st) <= 0:
            st = self.grow(st)
        return st

    def _check(self, st: TDState, x, cumulant, gamma, lam, reset) -> None:
        """Refuse arguments of the wrong shape, before anything is consumed."""
        arrays, static = _split(st)
        shapes = tuple(
            None if array is None else (array.shape, array.dtype) for array in (x, cumulant, gamma, lam, reset)
        )
        seen = (static, jax.tree.structure(arrays), shapes)
        if seen in self._checked:
            return
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
        predict = lambda st, x: self._prediction(None, st, x)
        made = eqx.filter_eval_shape(predict, st, x)
        if made.shape != st.prediction.shape:
            raise ValueError(
                f"The model predicts shape {made.shape}, expected {st.prediction.shape}: give "
                "TDLambda(predictions=...) the number of predictions that the model makes."
            )
        self._checked.add(seen)


def _trained(model):
    """Which leaves an optimiser moves."""
    arrays = eqx.filter(model, eqx.is_array)
    return jax.tree.map(lambda leaf, own: eqx.is_inexact_array(leaf) and not own, arrays, untrained(model))


def _own_rows(model, predictions: int):
    """For each trained parameter, whether its rows belong to one prediction each: those of a last `Readout`; with a
    single prediction all are its own."""
    parameters = eqx.filter(model, _trained(model))
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


def _arrays(*values) -> tuple[Array | None, ...]:
    return tuple(None if value is None else jnp.asarray(value) for value in values)


def _part(steps, index):
    return tuple(None if array is None else array[index] for array in steps)


class _Static:
    """What of a state is not an array, as one hashable value."""

    def __init__(self, tree):
        leaves, self.treedef = jax.tree.flatten(tree)
        self.leaves = tuple(leaves)
        self._hash = hash((self.leaves, self.treedef))

    def __hash__(self):
        return self._hash

    def __eq__(self, other):
        return isinstance(other, _Static) and (self.leaves, self.treedef) == (other.leaves, other.treedef)

    @property
    def tree(self):
        return jax.tree.unflatten(self.treedef, self.leaves)


def _split(st: TDState):
    arrays, rest = eqx.partition(st, eqx.is_array)
    return arrays, _Static(rest)


def _join(arrays, static: _Static) -> TDState:
    return eqx.combine(arrays, static.tree)


def is_traced(tree) -> bool:
    """Whether a transformation of JAX is looking at the leaves."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))
