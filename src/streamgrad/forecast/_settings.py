"""What a forecaster is asked for: checked before anything is made, and kept in its checkpoints."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable, Mapping, Set
from typing import Any

import numpy as np

from ._columns import Columns
from ._experts import Expert
from ._learners import FLOORS, OWN, Net, learner as named
from ._path import EXPERTS, LIGHT

LEVELS = (0.8, 0.95)
KINDS = ("number", "event", "count", "class")
#: Rows that may wait for their truth, and rows of a path.
LONGEST, LONGEST_PATH = 100_000, 512
MOST = 4 * 2**30  # bytes


class Settings:
    """The arguments of a `Forecaster`, checked.

    `columns`: names by their part; `experts`: that are mixed; `others`: that stand beside them, floors included;
    `alone`: whether one target was named, and not a sequence of them.

    Raises `ValueError` for what cannot be meant."""

    def __init__(self, **given: Any):
        target, outcome, levels, net = (given[name] for name in ("target", "outcome", "levels", "net"))
        self.outcome, self.alone = outcome, isinstance(target, str | int)
        number = lambda name: None if given[name] is None else whole(name, given[name])
        self.horizon, self.seed = whole("horizon", given["horizon"]), whole("seed", given["seed"])
        self.path, self.period = number("path"), number("period")
        several = lambda name: _several(given[name], name)
        self.beside = several("beside")
        self.columns = Columns(
            several("target"), several("features"), several("known"), several("categorical"), given["time"], outcome
        )
        learner = given["learner"]
        if not isinstance(learner, str):
            raise ValueError(f"learner must be a name, got {learner!r}.")
        self.learner = learner
        if outcome != "number":
            self._check_outcome(path=self.path, levels=levels, beside=self.beside, net=net)
        self.levels = () if outcome != "number" else _shares(LEVELS if levels is None else levels)
        self.net = Net() if net is None else net
        self._check_net()
        if self.path is not None:
            self._check_path(self.path)
        self.experts, self.others = self._experts()
        self._check_numbers()

    @property
    def kept(self) -> dict[str, Any]:
        """The arguments as JSON can hold them: what a checkpoint must have been made with."""
        columns = self.columns
        kept = {
            "target": columns.targets[0] if self.alone else list(columns.targets),
            "features": list(columns.features),
            "known": list(columns.known),
            "categorical": list(columns.categorical),
            "time": columns.time,
            "horizon": self.horizon,
            "path": self.path,
            "period": self.period,
            "levels": list(self.levels),
            "learner": self.learner,
            "beside": list(self.beside),
            "net": dataclasses.asdict(self.net),
            "seed": self.seed,
        }
        return kept if self.outcome == "number" else kept | {"outcome": self.outcome}

    @staticmethod
    def arguments(kept: Mapping[str, Any]) -> dict[str, Any]:
        """What `kept` was made from, as arguments; others in it are of no meaning here."""
        names = "target outcome features known categorical time horizon path period levels learner beside seed"
        given = {name: kept[name] for name in names.split() if name in kept}
        return given if "outcome" in given else given | {"net": Net(**kept["net"])}

    def _experts(self) -> tuple[dict[str, Expert], dict[str, Expert]]:
        """What is mixed, and what stands beside it."""
        if self.path is not None:
            return (LIGHT if self.learner == "light" else EXPERTS), {}
        experts, others = named(self.learner, self.net), dict(FLOORS)
        for name in self.beside:
            found = named(name, self.net)
            if len(found) > 1:
                raise ValueError(f"beside={name!r}: one learner alone can stand beside another, and this is a mixture.")
            others |= {key: expert for key, expert in found.items() if key not in experts}
        return experts, others

    def _check_numbers(self) -> None:
        """Refuse numbers that are out of range, with the bytes that they would take."""
        if not -(2**62) < self.seed < 2**62:
            raise ValueError(f"seed must be a whole number of less than 62 bits, got {self.seed}.")
        every = (*self.experts.values(), *self.others.values())
        waiting = 4 * self.horizon * (self.columns.size + max(expert.lags for expert in every))
        if self.horizon < 1:
            raise ValueError(f"horizon must be a whole number of rows from 1 to {LONGEST:,}, got {self.horizon!r}.")
        if self.horizon > LONGEST:
            raise ValueError(
                f"horizon must be a whole number of rows from 1 to {LONGEST:,}, got {self.horizon!r}: each row waits "
                f"in memory until its forecast is due, and these rows would take {waiting:,} bytes."
            )
        readouts = [expert.lags + expert.units for expert in every]
        if (needed := waiting + sum(4 * n * n for n in readouts)) > MOST:
            raise ValueError(
                f"lags and units: the forecaster would take {needed:,} bytes, and at most {MOST:,} are allowed: a "
                f"readout on n lags and units keeps n² numbers, here with n = {max(readouts):,}; and {self.horizon:,} "
                "rows wait for their truth. Take fewer lags, fewer units, or a shorter horizon."
            )
        if self.period is not None and not 2 <= self.period <= LONGEST:
            raise ValueError(f"period must be 2 to {LONGEST:,} rows, or None to look for it, got {self.period}.")

    def _check_net(self) -> None:
        """Refuse what is no net, and a net that no learner uses."""
        if not isinstance(self.net, Net):
            raise ValueError(f"net must be a Net, as sg.forecast.Net(units=8), got {self.net!r}.")
        if self.net != Net() and not {self.learner.lower(), *self.beside} & {*OWN}:
            raise ValueError(
                f"net: learner={self.learner!r} has nets of its own, or none; net is what {', '.join(OWN)} learn: "
                "name one of these as the learner, or beside it."
            )

    def _check_outcome(self, **given: Any) -> None:
        """Refuse what does not go with an event, a count or a class."""
        outcome, targets = self.outcome, len(self.columns.targets)
        if outcome not in KINDS:
            raise ValueError(f"there is no outcome {outcome!r}: there are {', '.join(KINDS)}.")
        if targets > 1:
            raise ValueError(f"outcome={outcome!r} goes with one target, got {targets}: give each its own.")
        reasons = {
            "path": "one horizon is forecast at a time: give horizon=",
            "levels": "its forecast is a probability or a mean, and intervals are for numbers",
            "beside": "nothing but its floors stands beside it",
            "net": "its net is given: choose learner='mixture' or 'light'",
        }
        for name, reason in reasons.items():
            if given[name]:
                raise ValueError(f"{name} does not go with outcome={outcome!r}: {reason}.")
        if self.learner not in ("mixture", "light"):
            raise ValueError(
                f"outcome={outcome!r} is forecast by the learner 'mixture' (a net and lags, one filter) or 'light' "
                f"(lags alone), got {self.learner!r}."
            )

    def _check_path(self, path: int) -> None:
        """Refuse what does not go with a path."""
        if not 1 <= path <= LONGEST_PATH:
            raise ValueError(f"path must be a whole number of rows from 1 to {LONGEST_PATH}, or None, got {path!r}.")
        if self.horizon != 1:
            raise ValueError(
                f"path={path} and horizon={self.horizon}: a path has all horizons up to its length; give one."
            )
        if self.columns.known:
            raise ValueError("known: columns that are known in advance go with one horizon, not with a path yet.")
        if self.learner not in ("mixture", "light") or self.beside:
            raise ValueError(
                f"a path is forecast by the learner 'mixture' or 'light' alone, got {self.learner!r}"
                f"{' and others beside it' if self.beside else ''}."
            )


def whole(what: str, value: Any) -> int:
    """A whole number of any kind as an int. Raises `ValueError`."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{what} must be a whole number, got {value!r}.") from None


def _several(names: Any, what: str) -> tuple[Any, ...]:
    """Names as a tuple; one alone may stand for itself."""
    if isinstance(names, str | int):
        return (names,)
    if not isinstance(names, Iterable):
        raise ValueError(f"{what} must be a name or a sequence of names, got {names!r}.")
    if isinstance(names, Set):
        raise ValueError(f"{what} must be a sequence of names, got a set, {names!r}, whose order changes: give a list.")
    return tuple(int(name) if isinstance(name, np.integer) else name for name in names)


def _shares(levels: Any) -> tuple[float, ...]:
    """Levels of intervals. Raises `ValueError` for what is no share, and for two that files could not tell apart."""
    if isinstance(levels, str) or not isinstance(levels, Iterable):
        raise ValueError(f"levels must be a sequence of shares, as (.8, .95), got {levels!r}.")
    try:
        levels = tuple(map(float, levels))
    except (TypeError, ValueError):
        raise ValueError(f"levels must be shares, as (.8, .95), got {levels!r}.") from None
    for level in levels:
        if not 0 < level < 1:
            raise ValueError(f"levels are shares between 0 and 1, as .8 for 80%, got {level}.")
    if len({f"{100 * level:g}" for level in levels}) < len(levels):
        raise ValueError(f"levels must differ in the first six digits of their percents, got {levels}.")
    return levels
