"""What a forecaster said, of one row and of many."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool

from .._base.files import write_whole
from ._target import Said

if TYPE_CHECKING:
    from ._forecaster import Forecaster


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What a forecaster says after a row. Axes: targets (if several were named), steps (of a path), levels.

    - `value`: the forecast for `horizon` rows on, or for each step of the path, in the target's unit; NaN before there
      was a value;
    - `lower`, `upper`: ends of its intervals, one for each level; NaN before the scale of the target is known;
    - `surprise`: -log₁₀ of how often a truth lies as far from its forecast as that of this row, 3 being one row in a
      thousand; NaN where nothing came due;
    - `changed`: whether by now the stream has become another one;
    - `probabilities`: of each class seen so far, by its text; None for other outcomes.

    Of an event `value` is its probability, of a count what is expected, of a class the most probable one (None before
    there was one), and `surprise` is -log₁₀ of the probability that what came had, with all that was no more probable.
    """

    value: Any
    lower: np.ndarray
    upper: np.ndarray
    surprise: Any
    changed: Any
    probabilities: dict[str, float] | None = None


@dataclasses.dataclass(frozen=True)
class Forecasts:
    """What a forecaster said of many rows. Axes: rows, targets (if several were named), steps (of a path), levels.

    - `value`, `lower`, `upper`, `surprise`, `changed`: as in `Forecast`, of each row;
    - `truth`: the target as it came; `due`: the forecast for this row, made `horizon` rows before (for each
      step j of a path, j rows before);
    - `probabilities`: of classes, with an axis of `classes` (their texts, as found by the last row), NaN where one had
      not been seen; None for other outcomes.

    `columns()` has all of it by the names that `predictions.csv` has."""

    value: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    surprise: np.ndarray
    changed: Bool[np.ndarray, " ..."]
    truth: np.ndarray
    due: np.ndarray
    probabilities: np.ndarray | None
    classes: tuple[str, ...]
    _said: tuple[Said, ...] = dataclasses.field(repr=False)
    _names: tuple[tuple[str, ...], tuple[str, ...], tuple[float, ...], int] = dataclasses.field(repr=False)

    @classmethod
    def of(cls, forecaster: Forecaster, said: Sequence[Said]) -> Forecasts:
        pick = lambda of: of(said[0]) if forecaster.alone else np.stack([of(each) for each in said], axis=1)
        first = forecaster.row - len(said[0].truth)
        classes = said[0].outcome.classes if said[0].outcome is not None else ()
        targets = ("",) if forecaster.alone else tuple(map(str, forecaster.columns.targets))
        return cls(
            pick(lambda s: s.named((s.path or s).ahead)),
            pick(lambda s: (s.path or s).ahead_ends[..., 0]),
            pick(lambda s: (s.path or s).ahead_ends[..., 1]),
            pick(lambda s: s.surprise),
            pick(lambda s: s.changed),
            pick(lambda s: s.named(s.truth)),
            pick(lambda s: s.named(s.due[:, 0]) if s.path is None else s.path.due),
            pick(lambda s: s.outcome.probabilities[:, : len(classes)]) if classes else None,
            classes,
            tuple(said),
            (targets, forecaster.methods, forecaster.levels, first),
        )

    def __len__(self) -> int:
        return len(self.value)

    def at(self, row: int) -> Forecast:
        """What was said at one row."""
        found = None
        if self.probabilities is not None:
            found = dict(zip(self.classes, self.probabilities[row].tolist()))
        each = self.lower[row], self.upper[row], self.surprise[row], self.changed[row]
        return Forecast(self.value[row], *each, found)

    def columns(self) -> dict[str, np.ndarray]:
        """The columns by name: `row`, `truth`, each method's forecast *for* the row, ends of intervals, `surprise`,
        `changed`, and `ahead`, the newest forecast, with its interval. Of several targets each name ends with that of
        its target."""
        targets, methods, levels, first = self._names
        out: dict[str, np.ndarray] = {"row": np.arange(first, first + len(self))}
        for name, said in zip(targets, self._said, strict=True):
            out |= named_columns(said, methods, levels, f"_{name}" if name else "")
        return out

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write `columns()` as a CSV file, the bytes that `streamgrad learn` writes."""
        from ._feed import csv_header, csv_lines

        columns = self.columns()
        write_whole(path, csv_header(columns) + csv_lines(columns))


def named_columns(said: Said, methods: Sequence[str], levels: Sequence[float], end: str) -> dict[str, np.ndarray]:
    """What was said of a target, by the names that files have. Names of a step of a path have its number at the end;
    the first step's `due` has none."""
    named = said.named
    out = {"truth": named(said.truth), methods[0]: named(said.due[:, 0]), **_ends("", "", said.due_ends, levels)}
    out |= {"surprise": said.surprise, "changed": said.changed}
    out |= {name.replace(" ", "_"): named(said.due[:, k]) for k, name in enumerate(methods) if k}
    if said.path is None:
        out |= {"ahead": named(said.ahead), **_ends("ahead_", "", said.ahead_ends, levels)}
    else:
        path, steps = said.path, said.path.due.shape[1]
        out |= {f"{methods[0]}_{j + 1}": path.due[:, j] for j in range(1, steps)}
        for j in range(steps):
            out |= {f"ahead_{j + 1}": path.ahead[:, j]}
            out |= _ends("ahead_", f"_{j + 1}", path.ahead_ends[:, j], levels)
    if said.outcome is not None:
        out |= said.outcome.columns()
    return {f"{name}{end}": column for name, column in out.items()}


def _ends(start: str, end: str, ends: np.ndarray, levels: Sequence[float]) -> dict[str, np.ndarray]:
    """Ends of intervals by name."""
    sides = ((k, f"{100 * level:g}", side, name) for k, level in enumerate(levels) for side, name in SIDES)
    return {f"{start}{name}_{percent}{end}": ends[:, k, side] for k, percent, side, name in sides}


SIDES = ((0, "lower"), (1, "upper"))
