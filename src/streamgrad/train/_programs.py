"""The two programs that people ask for by their terms: learning from targets, and from temporal differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np

from ..estimators import Estimator
from ..nn import Sequential, check_unroll
from ..optimisers._masks import fitted, is_algorithm, of_algorithms
from ..optimisers._trained import checked_optimiser, split, trained
from ..readout import Readout
from ._checks import check_share
from ._descent import Descent
from ._families import family
from ._guard import Skip, Undo
from ._kalman import Kalman
from ._program import Program
from ._rules import Loss, Rule, TemporalDifference
from ._second_order import Filter
from ._traces import Traces
from ._update import Update
from ._window import Window


def supervised(
    model: Any,
    optimiser: Any,
    *,
    loss: Callable[[Any, Any], Any],
    update_every: int = 1,
    delay: int = 0,
    streams: int | None = None,
    chunked: bool = False,
    estimator: Estimator | None = None,
) -> Program:
    """The program of `sg.Learner(model, optimiser, loss=...)`: its pure functions, without a compiler or checks of
    what a step is given. The arguments, and what is refused, are those of `sg.Learner`."""
    _check_model(model, "Learner")
    _check_streams(streams)
    if not callable(loss) or isinstance(loss, type | Rule):
        raise TypeError(
            f"Learner expects loss(prediction, target) -> scalar, such as sg.losses.mse, got {loss!r}: a rule of the "
            "driver goes into sg.train.Program."
        )
    _check_whole("update_every", update_every, 1, "steps whose gradients make one update")
    _check_whole("delay", delay, 0, "how many steps late targets come")
    windowed = estimator is None and any(a.credit == "carry" for a in _algorithms(model))
    if estimator is not None:
        _check_estimator(model, estimator, streams, chunked)
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
    at_once = windowed or chunked
    update = _update(model, optimiser, 1 if at_once else update_every)
    if isinstance(update, Filter) and (at_once or estimator is not None):
        raise TypeError(
            "A Kalman filter needs the sensitivities of each step: leave out chunked and the estimator, and "
            "give layers an online algorithm such as sg.SnAp(1) or sg.RTRL(), not BPTT."
        )
    return Program(
        model,
        Loss(loss, streams, family(loss) if isinstance(update, Filter) else None),
        update,
        Skip(),
        streams=streams,
        every=update_every,
        window=Window(chunked) if at_once else None,
        delay=delay,
        estimator=estimator,
    )


def temporal_difference(
    model: Any,
    optimiser: Any,
    *,
    gamma: Any,
    lam: Any = 0.0,
    predictions: int = 1,
    streams: int | None = None,
) -> Program:
    """The program of `sg.td.TDLambda(model, optimiser, gamma=..., lam=...)`: its pure functions, without a compiler or
    checks of what a step is given. The arguments, and what is refused, are those of `sg.td.TDLambda`."""
    _check_model(model, "TDLambda")
    _check_streams(streams)
    _check_whole("predictions", predictions, 1, "how many predictions the model makes")
    gamma, lam = _shares("gamma", gamma, predictions), _shares("lam", lam, predictions)
    if any(jax.tree.leaves(fitted(model))):
        raise TypeError(
            "TDLambda has no target that a part which fits itself (sg.RLS) could learn from: use sg.Readout, and "
            "sg.Learner for targets."
        )
    for algorithm in _algorithms(model):
        if algorithm.learns:
            raise TypeError(
                f"{type(algorithm).__name__} learns leaves of its own by a regression that is no part of the "
                "prediction, and that an eligibility trace would weigh by the TD error: use an algorithm without, such "
                "as sg.SnAp(1)."
            )
        if algorithm.credit == "carry":
            raise TypeError(
                f"TDLambda needs an online gradient at every step, and {type(algorithm).__name__} has none: use "
                "sg.TBPTT(window), sg.SnAp(1) or sg.RTRL()."
            )
    if isinstance(optimiser, Kalman):
        if np.any(lam):
            raise ValueError(
                f"Under a Kalman filter TDLambda takes lam=0, got {lam}: the filter's covariance is its credit through "
                "time, and there are no eligibility traces."
            )
        update: Update = Filter(optimiser, model, temporal=True)
    else:
        made = checked_optimiser(optimiser, model, "TDLambda")
        update = Traces(made, predictions, _own_rows(model, predictions))
    return Program(model, TemporalDifference(gamma, lam, predictions), update, Undo(), streams=streams)


def _update(model: Any, optimiser: Any, every: int) -> Update:
    """What moves the parameters, from what a user gives for it."""
    if isinstance(optimiser, Update):
        return optimiser
    if isinstance(optimiser, Kalman):
        return Filter(optimiser, model, every)
    made = checked_optimiser(optimiser, model, "Learner")
    own = jax.tree.map(lambda moved, own: moved and own, trained(model), of_algorithms(model))
    return Descent(made, own, every)


def _algorithms(model: Any) -> list[Any]:
    return [leaf for leaf in jax.tree.leaves(model, is_leaf=is_algorithm) if is_algorithm(leaf)]


def _own_rows(model: Any, predictions: int) -> Any:
    """For each trained parameter, whether its rows belong to one prediction each: those of a last `Readout`; with a
    single prediction all are its own."""
    parameters = split(model)[0]
    marks = jax.tree.map(lambda leaf: predictions == 1, parameters)
    last = model.layers[-1] if isinstance(model, Sequential) else None
    if predictions == 1 or not isinstance(last, Readout) or last.feedback_weight is not None:
        return marks
    return eqx.tree_at(lambda m: m.layers[-1], marks, jax.tree.map(lambda leaf: True, parameters.layers[-1]))


# Refusals.


def _check_model(model: Any, who: str) -> None:
    if isinstance(model, type) or not callable(getattr(model, "init", None)) or not callable(model):
        got = f"the class {model.__name__}: call it" if isinstance(model, type) else type(model).__name__
        raise TypeError(
            f"{who} expects a model with init(key=...) and (carry, x) -> (carry, prediction), got {got}: wrap a layer "
            "and a readout in sg.nn.Sequential([...])."
        )


def _check_whole(name: str, value: Any, least: int, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {value!r}: it is {what}.")


def _check_streams(streams: Any) -> None:
    if streams is not None and (isinstance(streams, bool) or not isinstance(streams, int) or streams < 1):
        raise ValueError(f"streams must be None or an integer >= 1, got {streams!r}.")


def _check_estimator(model: Any, estimator: Any, streams: int | None, chunked: bool) -> None:
    if not isinstance(estimator, Estimator):
        raise TypeError(f"Learner(estimator=...) expects one such as sg.PES(), got {estimator!r}.")
    if streams is not None or chunked:
        raise ValueError(
            f"{type(estimator).__name__} needs one stream, one step at a time, got streams={streams}, "
            f"chunked={chunked}: leave both out."
        )
    estimator.check(model)


def _shares(name: str, value: Any, predictions: int) -> np.ndarray | float:
    """γ or λ, one for all predictions or one for each."""
    array = np.asarray(value, float)
    if array.shape not in ((), (predictions,)):
        raise ValueError(f"{name} is a number, or {predictions} of them, got shape {array.shape}.")
    for entry in array.ravel():
        check_share(name, entry)
    return array
