"""A forecaster of a stream of rows that learns from every row."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from .. import checkpoint
from .._base.files import save_figure
from ._clock import Clock
from ._history import History
from ._interrupt import uninterrupted
from ._learners import Net
from ._outcome import OutcomeTarget
from ._path import PathTarget
from ._said import Forecast, Forecasts
from ._settings import Settings, whole
from ._target import Said, Target, joined

Names = str | int | Sequence[str | int]


class Forecaster:
    """Forecast columns of a stream, and learn from every row as it comes.

        forecaster = sg.forecast.Forecaster(target="demand", horizon=24)
        out = forecaster.update({"demand": 31.2})      # learn from what has come due, then forecast
        table = forecaster.run("demand.csv")           # the same over a file, an iterator, an array, a table

    A forecast for `horizon` rows ahead is learned from, and scored, when that row has come, never earlier. Memory does
    not grow with the stream. Units do not matter: the series in other units gives the same forecasts in these units.

    **Arguments:**

    - `target`: a column, or several; of arrays the number of the column.
    - `outcome`: what the target is: "number", or, of one target with one horizon, "event" (1 or 0), "count" (0, 1, 2,
      ...) or "class" (texts or numbers, up to 16, found as they come). These are forecast by probabilities, and scored
      by log loss.
    - `features`: other columns to learn from; a missing value is the one last seen.
    - `known`: columns that are known `horizon` rows in advance, such as a price or a plan.
    - `categorical`: columns of texts or codes, each put into one of 8 buckets.
    - `time`: a column of times (ISO 8601, or seconds): their order is checked, gaps are counted, and the day, the week
      and the year of the forecast's row become features.
    - `horizon`: rows ahead.
    - `path`: instead of `horizon`, how many of the next rows are all forecast; they are learned together when the last
      of them has come.
    - `period`: rows in a season; None: looked for (for numbers).
    - `levels`: of the intervals, .8 and .95 if None; only numbers have them.
    - `learner`: "mixture" (the default: least squares on lags, a fixed net, and two nets that a Kalman filter learns),
      "light" (without nets), one of its experts ("rls", "reservoir", "columns", "fast-columns"), or one net, as `net`
      says, under "adam", "kalman" or "frozen".
    - `beside`: learners that run beside it, to be compared with in `scores`.
    - `net`: what "adam", "kalman" and "frozen" are made of.
    - `seed`: of initial weights.

    Raises `ValueError` for what cannot be meant.
    """

    def __init__(
        self,
        target: Names,
        *,
        outcome: str = "number",
        features: Names = (),
        known: Names = (),
        categorical: Names = (),
        time: str | int | None = None,
        horizon: int = 1,
        path: int | None = None,
        period: int | None = None,
        levels: Sequence[float] | None = None,
        learner: str = "mixture",
        beside: Sequence[str] = (),
        net: Net | None = None,
        seed: int = 0,
    ):
        asked = Settings(
            target=target,
            outcome=outcome,
            features=features,
            known=known,
            categorical=categorical,
            time=time,
            horizon=horizon,
            path=path,
            period=period,
            levels=levels,
            learner=learner,
            beside=beside,
            net=net,
            seed=seed,
        )
        self.settings, self.columns, self.alone, self.outcome = asked.kept, asked.columns, asked.alone, asked.outcome
        self.horizon, self.path, self.levels, self.learner = asked.horizon, asked.path, asked.levels, asked.learner
        self.targets: list[Any] = [make_target(asked, asked.seed + k) for k in range(len(self.columns.targets))]
        self.methods = self.targets[0].methods
        self._turn = threading.RLock()
        self._begin()

    def _begin(self) -> None:
        """No row yet."""
        self.clock, self.row = Clock(), 0
        self.history = [History(len(self.methods), len(target.learner.experts)) for target in self.targets]
        self.missing = np.zeros(len(self.columns.names), np.int64)

    # Learning.

    def update(
        self, row: Mapping[Any, Any] | Sequence[Any] | float, *, ahead: Mapping[Any, Any] | None = None
    ) -> Forecast:
        """Learn from what has come due with a row, then forecast.

        - `row`: a mapping from column to value, values in the order target, features, known, categorical, time, or the
          one value; None or NaN is missing.
        - `ahead`: what is known of the row `horizon` rows on.

        Raises `ValueError` for a row that cannot be read; nothing is learned from it."""
        numbers = np.array([self.columns.row(row)], float)
        known = np.array([self.columns.ahead(ahead)]).reshape(1, -1)
        return Forecasts.of(self, self.learn(numbers, known)).at(0)

    def learn(
        self, rows: Float[np.ndarray, "n names"], ahead: Float[np.ndarray, "n known"] | None = None
    ) -> list[Said]:
        """Learn from rows of numbers in turn, in the order of `columns.names`, and say something of each target.

        Threads take their turns, and Ctrl-C waits until all that is known is of the same row."""
        rows = self.columns.checked(rows)
        if ahead is not None and np.shape(ahead) != (len(rows), len(self.columns.known)):
            raise ValueError(
                f"ahead must have the shape ({len(rows)}, {len(self.columns.known)}), a value of each known column for "
                f"each row, got {np.shape(ahead)}."
            )
        with self._turn, uninterrupted():
            return self._learn_rows(rows, ahead)

    def in_order(self, rows: Float[np.ndarray, "n names"]) -> int:
        """How many of the rows can be learned before time goes back; at least one, which is then refused."""
        return len(rows) if self.columns.time is None else max(self.clock.in_order(rows[:, -1]), min(1, len(rows)))

    def _learn_rows(self, rows: np.ndarray, ahead: np.ndarray | None) -> list[Said]:
        if ahead is None:
            ahead = np.full((len(rows), len(self.columns.known)), np.nan)
        times = rows[:, -1] if self.columns.time is not None else np.full(len(rows), np.nan)
        then = self.clock(times, self.path or self.horizon) if self.columns.time is not None else times
        wide = self.columns.expanded(rows, ahead, then)
        self.missing = self.missing + np.isnan(rows).sum(axis=0)
        said, at = [], 0
        while at < len(wide) or not said:  # cut where the curves of the picture have their points
            part = wide[at : at + self.history[0].room]
            said.append([self._learn(k, part) for k in range(len(self.targets))])
            at += len(part)
        self.row += len(rows)
        return [joined(parts) for parts in zip(*said, strict=True)]

    def _learn(self, k: int, rows: np.ndarray) -> Said:
        """Learn a target, whose column comes first for it, from rows that an encoder sees."""
        target, many = self.targets[k], len(self.targets)
        order = [k, *range(many, rows.shape[1]), *(j for j in range(many) if j != k)]
        said = target(rows[:, order])
        self.history[k](said, target.learner.weights)
        return said

    def run(self, rows: Any) -> Forecasts:
        """Learn from many rows and forecast from each.

        `rows`: the path of a file or the name of a bundled series, a source of `sg.data`, an iterable of rows as
        `update` takes them, a two-dimensional array, or a pandas, polars or Arrow table. Columns that are known in
        advance are read `horizon` rows ahead."""
        from ._feed import portions

        parts = [self.learn(self.columns.none), *(self.learn(*portion) for portion in portions(self, rows))]
        return Forecasts.of(self, [joined(said) for said in zip(*parts, strict=True)])

    def fit(self, rows: Any, *, passes: int = 2) -> Forecasts:
        """Learn from a history in several passes, and go on online from its end. What is said in the last pass is
        returned; scores begin anew with the rows that come after it.

        A forecaster that was loaded goes on from what it knows."""
        if (passes := whole("passes", passes)) < 1:
            raise ValueError(f"passes must be at least 1, got {passes}.")
        if passes > 1 and hasattr(rows, "__next__"):
            rows = list(rows)  # an iterator can be read once
        for _ in range(passes - 1):
            self.run(rows)
            self.restart()
        table = self.run(rows)
        for target in self.targets:
            target.forget_scores()
        return table

    def restart(self) -> None:
        """Keep what was learned, and forget the stream: the next row is the first of another one."""
        for target in self.targets:
            target.restart()
        self._begin()

    # What it knows.

    @property
    def state(self) -> dict[str, Any]:
        """All that it knows: a pytree, which belongs in a checkpoint."""
        return {
            "targets": [target.state for target in self.targets],
            "history": [history.state for history in self.history],
            "clock": self.clock.state,
            "missing": self.missing,
            "row": np.array([self.row], np.int64),
        }

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        for target, kept in zip(self.targets, state["targets"], strict=True):
            target.state = kept
        for history, kept in zip(self.history, state["history"], strict=True):
            history.state = kept
        self.clock.state, self.missing, self.row = state["clock"], state["missing"], int(state["row"][0])

    def save(self, folder: str | os.PathLike[str], *, keep: int = 3) -> Path:
        """Write all that it knows to a folder, as a file of its own; the newest `keep` files stay.

        The file is the newest there, whatever lies there already: its number is the row, or the next free one."""
        with self._turn:
            newest = checkpoint.steps(folder)[-1:] or [-1]
            step = max(self.row, newest[0] + 1)
            return checkpoint.save(folder, self.state, step=step, meta={}, config=self.settings, keep=keep)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Forecaster:
        """A forecaster as it was saved: it goes on as if it had never stopped, to the bit.

        Raises `sg.checkpoint.CheckpointError` where there is none, or none that is whole."""
        if (Path(path) / "checkpoints").is_dir():  # the folder of a run of `streamgrad learn`
            path = Path(path) / "checkpoints"
        settings = dict(checkpoint.config(path))
        if lacking := {"target", "learner", "net"} - settings.keys():
            raise checkpoint.CheckpointError(
                f"{path} holds no forecaster: its settings lack {', '.join(sorted(lacking))}. Give the folder that "
                "Forecaster.save, or streamgrad learn (its checkpoints), wrote into."
            )
        forecaster = cls(**Settings.arguments(settings))
        like = forecaster.state
        if "log_every" in settings:  # by `streamgrad learn`
            from ._record import beside

            like |= beside(forecaster.columns)
        forecaster.state = checkpoint.load(path, like, config=settings).tree
        return forecaster

    def __reduce__(self) -> tuple[Any, ...]:
        """To be copied, or sent to another process: a copy shares nothing."""
        with self._turn:
            return _copied, (type(self), self.settings, jax.tree.map(np.array, self.state))

    def weights(self) -> dict[str, float] | list[dict[str, float]]:
        """How much each expert counts now; a list for several targets."""
        return self._each([target.learner.weights() for target in self.targets])

    def warnings(self) -> list[str]:
        """What is no longer finite in a target's learner, with what to do."""
        named = zip(self.columns.targets, self.targets, strict=True)
        return [f"{name}: {warning}" for name, target in named for warning in target.learner.warnings()]

    def scores(self) -> Any:
        """Errors of the forecaster and of all methods beside it, over the rows scored so far.

        A dictionary, or a list of them for several targets: `rows`, `half` (rows before the second half), `nrmse`,
        `nrmse_half` (of the second half), `mae`, `mase`, `median` (of absolute errors), each by method, `intervals`
        (level, coverage, finite share, mean interval score), `weights` of the experts, and `verdict`, in words. Of a
        path these are of one row ahead, and `steps` has those of each step that is scored.

        Of events, counts and classes: `log_loss` (nats a row), and `brier`, `mae` or `accuracy`, each with that of the
        second half (`log_loss_half`), in the stead of errors; of classes `classes`, too."""
        return self._each([target.found() for target in self.targets])

    def plot(self, path: str | os.PathLike[str] | None = None, *, title: str = "") -> Any:
        """The newest rows with forecasts and intervals, the running error and the weights, as a Matplotlib figure;
        with `path`, written there too."""
        from ._picture import picture

        figure = picture(self, title)
        if path is not None:
            save_figure(figure, path)
        return figure

    def _each(self, values: list[Any]) -> Any:
        return values[0] if self.alone else values

    def __repr__(self) -> str:
        shown = ", ".join(map(str, self.columns.targets))
        return f"Forecaster({shown}, horizon={self.horizon}, learner={self.learner!r}, rows={self.row:,})"


def make_target(asked: Settings, seed: int) -> Target | PathTarget | OutcomeTarget:
    """What forecasts one target, with the others among its columns."""
    columns, period = asked.columns, asked.period
    if asked.outcome != "number":
        form = {"horizon": asked.horizon, "period": period, "net": asked.learner != "light"}
        return OutcomeTarget(asked.outcome, columns.size, columns.classes, **form, seed=seed)
    form = {"period": period, "levels": asked.levels, "seed": seed}
    if asked.path is not None:
        return PathTarget(columns.size, asked.experts, steps=asked.path, **form)
    return Target(columns.size, asked.experts, asked.others, horizon=asked.horizon, **form)


def _copied(kind: type[Forecaster], settings: Mapping[str, Any], state: dict[str, Any]) -> Forecaster:
    made = kind(**Settings.arguments(settings))
    like = lambda now, kept: jnp.asarray(kept) if isinstance(now, jax.Array) else kept.copy()
    made.state = jax.tree.map(like, made.state, state)
    return made
