"""What an experiment is: a typed configuration, trials, and how its results are shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

Row = dict[str, Any]


@runtime_checkable
class Recorder(Protocol):
    """The place of a trial's results and kept state, and the display of its progress."""

    def write(self, seed: int, step: int, split: str, *, final: bool = False, **values: Any) -> None:
        """One row of results: metrics, and `depth=`, `layer=`, `credit=` where these are not the trial's."""

    def progress(self, done: int, total: int, text: str = "") -> None:
        """How much of the trial is done."""

    def save(self, state: Any, step: int) -> None:
        """Keep the trial's state, with all rows written so far: a killed run goes on from here."""

    def load(self, like: Callable[[int], Any]) -> tuple[Any, int] | None:
        """The state kept last and its step; None when there is none. `like(step)`: a state as it is at that step."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One variant, all seeds together: `run(recorder)` does it; `variant` names it in the results; `tuning`: it is
    a short one, by which a setting is chosen."""

    variant: Mapping[str, Any]
    run: Callable[[Recorder], None]
    tuning: bool = False

    @property
    def name(self) -> str:
        """The trial in a few words."""
        words = ", ".join(f"{key} {value}" for key, value in self.variant.items())
        return f"tuning, {words}" if self.tuning else words


@dataclasses.dataclass(frozen=True)
class Experiment:
    """An experiment by name.

    - `title`, `about`: a line, and a few sentences for its help and its report; `duration`: on two cores;
    - `config`: the frozen dataclass of its settings, every default in it; `quick`: settings that finish soon;
    - `trials(config, rows)`: what is run, in order; `rows` grows with the results, for trials that depend on them;
    - `metrics`, `views(config)`: how results are named and shown: see `streamgrad report`;
    - `small`: whether its loops are so small that calling their parts takes longer than the parts: XLA is then asked,
      on CPUs, to compile every loop as one piece (half the time; large networks would be slower).
    """

    name: str
    title: str
    about: str
    duration: str
    config: Any
    quick: Any
    trials: Callable[[Any, list[Row]], Iterator[Trial]]
    metrics: Mapping[str, Mapping[str, Any]]
    views: Callable[[Any], list[dict[str, Any]]]
    small: bool = False
