"""Forecasts on real series: every algorithm on the same cell and optimiser, beside what is hard to beat."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ... import cells, compiler_options, losses
from ...algorithms import NAMED
from ...data import SERIES, open_source
from ...forecast import Scores
from ...nn import Sequential
from ...readout import RLS, Readout
from ...recurrent import Recurrent
from ...train import Learner
from ..tasks.encoding import Encoded, Encoder
from ..tasks.floors import Floors
from ._algorithms import algorithm, known
from ._experiment import Experiment, Recorder, Row, Trial
from ._settings import at_least, positive, some, within
from ._tuning import TUNING_SEED, tuned, tuning_views

LMS, BEST = "LMS on the inputs", "RLS on the inputs"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Forecasts on real series."""

    series: tuple[str, ...] = ("seattle-temps", "seattle-weather", "co2")
    """Bundled series: seattle-temps, sf-temps, seattle-weather, co2, sunspots, elnino."""
    horizon: int = 6
    """Rows ahead; a target is scored when it arrives, and learned from then."""
    algorithms: tuple[str, ...] = tuple(NAMED)
    """How the recurrent layer learns, by default every way there is. Frozen: the readout alone; BPTT: one update for
    each `window`."""
    cell: Literal["vanilla", "gru", "lstm", "leaky"] = "leaky"
    """The recurrent cell: leaky is one that every algorithm can learn, and the one that RFLO was made for."""
    units: int = 32
    """Units of the cell."""
    leak: float = 0.3
    """How fast a leaky unit follows its drive, at most 1."""
    window: int = 32
    """Rows of a window of BPTT."""
    lags: int = 32
    """Newest values that the stronger of the two RLS sees; the other one, and LMS, have the network's inputs."""
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2)
    """Learning rates of Adam (of LMS, its own) to choose from, half-decades, for every learner by short runs."""
    tuning_share: float = 0.5
    """Share of the series, from its beginning, in them; as many seeds as those that count, and none of them."""
    seeds: int = 5
    """Repetitions: other weights, run together."""
    every: int = 500
    """Rows between two rows of results."""

    def __post_init__(self):
        some(self, "series")
        positive(self, "rates")
        at_least(1, self, "horizon", "units", "window", "seeds", "every")
        at_least(2, self, "lags")
        within(self, "tuning_share", 0.01, 1.0)
        known(self, "algorithms")
        for name in self.series:
            if name not in SERIES:
                raise ValueError(f"no series {name!r}: there are {', '.join(SERIES)}.")


@functools.lru_cache(maxsize=8)
def _encoded(name: str, horizon: int, lags: int) -> tuple[Encoded, Encoder]:
    """The whole series, row by row as `streamgrad learn` sees it."""
    encoder = Encoder(1, lags, horizon)
    return encoder(np.concatenate(list(open_source(name).read((SERIES[name].target,))))), encoder


def rescaled(encoded: Encoded, horizon: int) -> Encoded:
    """The rows with changes over as many rows in units of their root mean square so far: steps of gradients are of a
    size, and the encoder's own scale, the first changes from row to row, suits least squares alone."""
    origin = np.maximum(np.arange(len(encoded.learn)) - horizon, 0)
    change = encoded.learn * encoded.scale[origin]
    known = np.isfinite(change)
    squares = np.cumsum(np.where(known, change, 0) ** 2) / np.maximum(np.cumsum(known), 1)
    scale = np.where(squares > 0, np.sqrt(squares), encoded.scale)
    return encoded._replace(learn=change / scale[origin], scale=scale)


def network(settings: Settings, name: str, in_size: int, key) -> Sequential:
    """A forecaster whose first forecasts are the last value."""
    key_cell, key_out = jax.random.split(key)
    if name == BEST:
        return Sequential((RLS(in_size, 1),))
    if name == LMS:
        return Sequential((Readout(in_size, 1, scale=0.0, key=key_out),))
    options: dict[str, Any] = {"leak": settings.leak} if settings.cell == "leaky" else {}
    cell = cells.cell(settings.cell)(in_size, settings.units, key=key_cell, **options)
    return Sequential((Recurrent(cell, algorithm(name)), Readout(settings.units, 1, scale=0.0, key=key_out)))


class SeedBatch:
    """Many seeds of one learner, run together: all arrays have a leading axis of seeds."""

    def __init__(self, settings: Settings, name: str, in_size: int):
        window = settings.window if name == "BPTT" else 1
        make = lambda key: network(settings, name, in_size, key)

        def learner(key, rate):
            optimiser = optax.sgd(rate) if name == LMS else optax.adam(rate)
            return Learner(make(key), optimiser, loss=losses.mse, delay=settings.horizon, update_every=window)

        like = jnp.zeros(in_size), jnp.zeros(1)
        start = lambda key: learner(key, 0.0).init(key=jax.random.fold_in(key, 1), like=like)
        begin = lambda keys: eqx.filter_vmap(start)(keys)

        def run(st, rate, xs, targets):
            one = learner(jax.random.key(0), rate)
            return eqx.filter_vmap(lambda st: one.run(st, xs, targets))(st)

        self.start = eqx.filter_jit(begin)
        self.run = jax.jit(run, donate_argnums=0, compiler_options=compiler_options(batched=True))


@functools.lru_cache(maxsize=1)
def _crowd(settings: Settings, name: str, in_size: int) -> SeedBatch:
    """One program for every rate and series."""
    return SeedBatch(settings, name, in_size)


def run(settings: Settings, series: str, name: str, rate: float, tuning: bool, recorder: Recorder) -> None:
    """One trial, all seeds of a learner together."""
    encoded, encoder = _encoded(series, settings.horizon, settings.lags)
    encoded = rescaled(encoded, settings.horizon)
    rows = round(len(encoded.inputs) * (settings.tuning_share if tuning else 1))
    inputs, targets = encoded.inputs[:, : encoder.recurrent_size], encoded.learn[:, None]
    crowd = _crowd(settings, name, inputs.shape[1])
    seeds = [seed + TUNING_SEED * tuning for seed in range(settings.seeds)]
    st, outputs, first = crowd.start(jnp.stack([jax.random.key(s) for s in seeds])), np.zeros((rows, len(seeds))), 0
    arrays, packed = jax.tree.flatten(st)
    if not tuning and (kept := recorder.load(lambda step: (arrays, outputs))) is not None:
        (arrays, outputs), first = kept
        st, outputs = jax.tree.unflatten(packed, arrays), np.array(outputs)
    for begin in range(first, rows, settings.every):
        stop = min(begin + settings.every, rows)
        missing = (0, settings.every - (stop - begin)), (0, 0)  # rows behind the last one: no target
        xs, due = np.pad(inputs[begin:stop], missing), np.pad(targets[begin:stop], missing, constant_values=np.nan)
        st, out = crowd.run(st, *map(jnp.asarray, (rate, xs, due)))
        outputs[begin:stop] = np.asarray(out.prediction)[:, : stop - begin, 0].T
        recorder.progress(stop, rows)
        if not tuning:
            _write(recorder, settings, encoded, outputs, seeds, begin, stop)
            recorder.save((jax.tree.leaves(st), outputs), stop)
    if tuning:
        for seed, error in zip(seeds, _nrmse(settings, encoded, outputs, 0, rows), strict=True):
            recorder.write(seed, rows, "tuning", final=True, loss=error)
    else:
        _finish(recorder, settings, encoded, outputs, seeds)


def _nrmse(settings: Settings, encoded: Encoded, outputs: np.ndarray, begin: int, stop: int) -> list[float]:
    """The errors of forecasts that came due in these rows, over the target's deviation up to their end."""
    h = settings.horizon
    made = encoded.base[: len(outputs), None] + encoded.scale[: len(outputs), None] * outputs
    forecasts = np.concatenate([np.full((h, outputs.shape[1]), np.nan), made[:-h]])
    scores = Scores([str(k) for k in range(outputs.shape[1])])
    scores(encoded.truth[:begin], forecasts[:begin])
    scores.restart()
    scores(encoded.truth[begin:stop], forecasts[begin:stop])
    return list(scores.nrmse("part").values())


def _write(recorder, settings, encoded, outputs, seeds, begin, stop):
    for seed, error in zip(seeds, _nrmse(settings, encoded, outputs, begin, stop), strict=True):
        recorder.write(seed, stop, "stream", nrmse=error)


def _finish(recorder, settings, encoded, outputs, seeds):
    rows = len(outputs)
    errors = [_nrmse(settings, encoded, outputs, begin, rows) for begin in (0, rows // 2)]
    for seed, error, late in zip(seeds, *errors, strict=True):
        recorder.write(seed, rows, "end", final=True, nrmse=error, late=late)


def floor(settings: Settings, series: str, name: str, recorder: Recorder) -> None:
    """A method without weights to draw: last value, seasonal last value, RLS on lags."""
    encoded, encoder = _encoded(series, settings.horizon, settings.lags)
    floors = Floors(encoder.size, settings.horizon, SERIES[series].period)
    made = floors(encoded)[:, floors.names.index(name)]
    outputs = np.divide(made - encoded.base, encoded.scale, out=np.zeros_like(made), where=encoded.scale > 0)[:, None]
    for begin in range(0, len(outputs), settings.every):
        _write(recorder, settings, encoded, outputs, [0], begin, min(begin + settings.every, len(outputs)))
    _finish(recorder, settings, encoded, outputs, [0])


def _trials(settings: Settings, rows: list[Row]) -> Iterator[Trial]:
    for series in settings.series:
        for name in ("last value", "seasonal last value", "RLS on lags"):
            yield Trial({"series": series, "learner": name}, functools.partial(floor, settings, series, name))

    def trial(variant: dict[str, Any], tuning: bool = False) -> Trial:
        rest = variant["series"], variant["learner"], variant.get("rate", 0.0)
        return Trial(variant, functools.partial(run, settings, *rest, tuning), tuning)

    each = lambda *names: [{"series": series, "learner": name} for name in names for series in settings.series]
    yield from map(trial, each(BEST))
    yield from tuned(each(LMS, *settings.algorithms), settings.rates, rows, trial)


def _views(settings: Settings) -> list[dict[str, Any]]:
    keys = ["series", "learner"]
    table = {"view": "table", "title": f"Forecasts {settings.horizon} rows ahead", "rows": [*keys, "rate"]}
    against = {"view": "against", "title": "Error by learner", "x": "learner", "by": ["series"], "split": "end"}
    return [
        {**table, "metrics": ["nrmse", "late"], "split": "end"},
        {**against, "metric": "late", "log": True},
        *tuning_views(settings.rates, f"{settings.tuning_share:.0%} of the series", keys),
    ]


EXPERIMENT = Experiment(
    name="forecast",
    title="Forecasts on real series, by algorithm",
    about="Bundled real series, row by row and once: a small network hears the newest value and its "
    "change, and forecasts some rows ahead. A target is scored when it arrives, and learned from then. Every algorithm "
    "has the same cell, readout and optimiser (Adam), and a learning rate from the same list, chosen by runs of other "
    "seeds on the first half of the series. Beside them: the last value, the one a season ago, least squares with "
    "forgetting (RLS) on the same inputs and on many lags, and LMS. nRMSE: the root mean square error over the "
    "target's standard deviation, of the whole series from its first rows on, and of its second half.",
    duration="20 minutes",
    config=Settings(),
    quick=Settings(
        series=("sunspots",),
        horizon=2,
        algorithms=("SnAp-1", "BPTT"),
        units=4,
        window=4,
        lags=3,
        rates=(1e-3,),
        seeds=2,
        every=50,
    ),
    trials=_trials,
    metrics={
        "nrmse": {"label": "nRMSE, whole series", "better": "lower", "floors": {}},
        "late": {"label": "nRMSE, second half", "better": "lower", "floors": {}},
        "loss": {"label": "nRMSE", "better": "lower", "floors": {}},
    },
    views=_views,
)
