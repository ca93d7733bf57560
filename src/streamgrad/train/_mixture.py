"""Several learners as one."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, PRNGKeyArray

from .._base.owned import owned
from .._cpu.loop import form_of_one, loop, put
from .._cpu.options import compiler_options
from .._cpu.piece import ByPieces, as_it_is, chosen
from ._mixing import Mixed, Mixing
from ._shell import Shell, refuse_growth

if TYPE_CHECKING:
    from ..session import Loop, Session


class MixtureState(NamedTuple):
    """`members`: the state of each learner; `made`: forecasts that wait for their targets; `mixing`: their past
    losses; `steps`: modulo the delay. `made` and `mixing` are () before the first step, whose shapes they have."""

    members: tuple[Any, ...]
    made: Any
    mixing: Any
    place: Array
    key: PRNGKeyArray


class MixtureOutput(NamedTuple):
    """The output of one step.

    - `prediction`: the mixture, of shape (*outputs,); `experts`: what each learner predicted, (learners, *outputs);
    - `weights`: of the experts in the weighted mean, (learners, *outputs);
    - `loss`: squared error of the prediction that came due, (*outputs,); NaN where no target came.
    """

    prediction: Array
    experts: Array
    weights: Array
    loss: Array


class Mixture:
    r"""Mix the predictions of several learners, by their past losses and by a regression around their mean.

        mixture = sg.Mixture({"gru": learner, "lags": another}, delay=h)
        state = mixture.init(key=key)
        state, out = mixture.step(state, x, target)     # every learner learns; out.prediction is their mixture

    Each output of the prediction has weights of its own, w_k ∝ exp(-η h^-½ (m_k - min m) / (min m + ε v)), where m_k is
    the clipped running mean of the squared errors of learner k; see `docs/second-order.md`. A learner whose prediction
    is not finite weighs nothing.

    **Arguments:**

    - `forecasters`: by name, or in a row: `sg.Learner`s, or whatever has `init(key=, like=) -> state` and
      `step(state, x, target) -> (state, out)` as pure functions, where `out.prediction` is an array;
    - `delay`: how many steps late targets come, the same for all. Given, it must be that of every `Learner`;
    - `rate`: η; `decay`: a loss counts for about 1/`decay` steps.

    Raises `ValueError` for no forecaster, and for learners of other delays; `TypeError` for a model that grows by
    itself.
    """

    def __init__(
        self,
        forecasters: Mapping[str, Any] | Sequence[Any],
        *,
        delay: int | None = None,
        rate: float = 10.0,
        decay: float = 0.01,
    ):
        if not isinstance(forecasters, Mapping):
            forecasters = {str(k): forecaster for k, forecaster in enumerate(forecasters)}
        if not forecasters:
            raise ValueError("Mixture: there is no forecaster to mix: give at least one.")
        for name, forecaster in forecasters.items():
            if lacking := [call for call in ("init", "step") if not callable(getattr(forecaster, call, None))]:
                raise TypeError(
                    f"Mixture: {name!r} is {type(forecaster).__name__}, without {' and '.join(lacking)}: give "
                    "learners, or what has init(key=, like=) and step(state, x, target)."
                )
            if isinstance(forecaster, Shell):
                refuse_growth(forecaster.program, "A mixture")
        delays = {name: forecaster.delay for name, forecaster in forecasters.items() if hasattr(forecaster, "delay")}
        late = next(iter(delays.values()), 0) if delay is None else delay
        if other := {name: steps for name, steps in delays.items() if steps != late}:
            shown = ", ".join(f"{name}: {steps}" for name, steps in other.items())
            raise ValueError(
                f"Mixture: all forecasters must have targets that come equally late, {late} steps here, and "
                f"others are {shown}: make all with one delay."
            )
        self.forecasters, self.delay = dict(forecasters), int(late)
        self.mixing = Mixing(rate=rate, decay=decay, horizon=float(max(self.delay, 1)))
        step = lambda state, inputs, count: (self._one, (state, *form_of_one(inputs)))
        self._run = ByPieces(self._many, step, options=compiler_options(), donate_argnums=0)
        self._within = jax.jit(functools.partial(self._many, as_it_is))
        self._predict = jax.jit(self._asked)
        self.loops: dict[Any, Any] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the forecasters."""
        return tuple(self.forecasters)

    def init(self, *, key: PRNGKeyArray, like: tuple[Any, Any] | None = None) -> MixtureState:
        """The state before the first step. `like`: an input and a target such as `step` will get; with it the state
        never changes its structure."""
        key = owned(key)  # the user's own must survive donation
        keys = jax.random.split(key, len(self.forecasters))
        place = jnp.zeros((), jnp.int32)
        if like is None:
            return MixtureState((), (), (), place, key)
        members = tuple(f.init(key=k, like=like) for f, k in zip(self.forecasters.values(), keys, strict=True))
        x, target = jax.tree.map(jnp.asarray, like)
        said = jax.eval_shape(lambda members: self._step_members(members, x, target)[1], members)
        dtype, count, size = said.dtype, said.shape[0], said.size // said.shape[0]
        each = lambda tree: jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (size, *leaf.shape)).copy(), tree)
        ring = max(self.delay, 1)
        made = Mixed(*(jnp.full((ring, size, *axis), jnp.nan, dtype) for axis in ((), (2,), (count,))))
        return MixtureState(members, made, each(self.mixing.init(count, dtype)), place, key)

    def step(self, state: MixtureState, x: Any, target: Any) -> tuple[MixtureState, MixtureOutput]:
        """One step of the stream: every learner predicts and learns. Consumes `state`."""
        one = lambda leaf: jnp.asarray(leaf)[None]
        state, outs = self.run(state, jax.tree.map(one, x), one(target))
        return state, jax.tree.map(lambda leaf: leaf[0], outs)

    def run(self, state: MixtureState, xs: Any, targets: Any) -> tuple[MixtureState, MixtureOutput]:
        """Many steps in one call: xs and targets have a leading axis of time. Consumes `state`."""
        xs, targets = jax.tree.map(jnp.asarray, (xs, targets))
        if state.made == ():
            state = self.init(key=state.key, like=jax.tree.map(lambda leaf: leaf[0], (xs, targets)))
        call = self._within if isinstance(state.place, Tracer) else self._run
        return call(state, (xs, targets), len(jax.tree.leaves(xs)[0]))

    def session(self, state: MixtureState, *, native: bool | None = None) -> Session:
        """Step from Python, row by row, at the price of the step itself: see `streamgrad.session.Session`.
        Consumes `state`."""
        from ..session import Session

        return Session(self, state, native=native)

    def resident(self, state: MixtureState, x: Any, target: Any) -> tuple[MixtureState, Loop]:
        """What a session holds in its loop."""
        from ..session import Loop

        x, target = jax.tree.map(jnp.asarray, (x, target))
        if state.made == ():
            state = self.init(key=state.key, like=(x, target))
        jax.eval_shape(self._one, state, x, target)
        same = lambda state: state
        whole, options = chosen(self._one, state, x, target, options=compiler_options())
        return state, Loop(lambda state, row: whole(self._one)(state, *row[:2]), same, same, same, options)

    def predict(self, state: MixtureState, x: Any) -> Array:
        """The prediction for x after all that was seen. Changes nothing."""
        if state.made == ():
            raise ValueError("Mixture.predict: nothing was seen yet: step first, or init(key=, like=(x, target)).")
        return self._predict(state, x)

    def weights(self, state: MixtureState) -> dict[str, Array]:
        """How much each forecaster counts now, by name; equal before there are losses."""
        if state.made == ():
            return {name: jnp.full((), 1 / len(self.names)) for name in self.names}
        zeros = jnp.zeros_like(state.mixing.experts)
        weights = jax.vmap(self.mixing.weights)(state.mixing, zeros)
        return dict(zip(self.names, weights.T, strict=True))

    def model(self, state: MixtureState) -> dict[str, Any]:
        """The models with their present weights, by name."""
        return {name: forecaster.model(known) for name, forecaster, known in self._members(state)}

    def warnings(self, state: MixtureState) -> list[str]:
        """What is growing out of bounds or was skipped in a learner, with its name."""
        asked = [m for m in self._members(state) if hasattr(m[1], "warnings")]
        return [f"{name}: {text}" for name, forecaster, known in asked for text in forecaster.warnings(known)]

    def _members(self, state):
        return [(name, self.forecasters[name], known) for name, known in zip(self.names, state.members, strict=False)]

    def _step_members(self, members, x, target):
        stepped = [f.step(known, x, target) for f, known in zip(self.forecasters.values(), members, strict=True)]
        return tuple(known for known, _ in stepped), self._stacked([out.prediction for _, out in stepped])

    def _stacked(self, said):
        """Predictions with a leading axis of learners. Raises `ValueError` where their shapes differ."""
        found = {name: jnp.shape(y) for name, y in zip(self.names, said, strict=True)}
        if len(set(found.values())) > 1:
            raise ValueError(f"Mixture: predictions must have one shape, got {found}.")
        return jnp.stack([jnp.asarray(y) for y in said])

    def _one(self, state: MixtureState, x, target) -> tuple[MixtureState, MixtureOutput]:
        members, experts = self._step_members(state.members, x, target)
        shape, flat = experts.shape[1:], experts.reshape(len(experts), -1).T  # (outputs, learners)
        dtype = state.made.forecast.dtype
        target = jnp.broadcast_to(jnp.asarray(target, dtype), shape).reshape(-1)
        mix, learn = jax.vmap(self.mixing.forecast), jax.vmap(self.mixing.update)
        then = lambda ring: jax.tree.map(lambda leaf: leaf[state.place], ring)
        if self.delay:
            due = then(state.made)
            mixing = learn(state.mixing, due, target)
            made = mix(mixing, flat)
        else:
            made = due = mix(state.mixing, flat)
            mixing = learn(state.mixing, due, target)
        weights = jax.vmap(self.mixing.weights)(mixing, flat)
        ring = jax.tree.map(lambda ring, new: put(ring, new, state.place), state.made, made)
        out = MixtureOutput(
            made.forecast.reshape(shape),
            experts,
            weights.T.reshape(experts.shape),
            ((target - due.forecast) ** 2).reshape(shape),
        )
        return MixtureState(members, ring, mixing, (state.place + 1) % max(self.delay, 1), state.key), out

    def _many(self, whole, state, inputs, count):
        return loop(whole(self._one), state, inputs, count)

    def _asked(self, state, x):
        said = [forecaster.predict(known, x) for _, forecaster, known in self._members(state)]
        experts = self._stacked(said)
        made = jax.vmap(self.mixing.forecast)(state.mixing, experts.reshape(len(experts), -1).T)
        return made.forecast.reshape(experts.shape[1:])
