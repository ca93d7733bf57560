"""Copy memory by mode: how well each way of giving credit learns to remember."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

from ._copying import ABOUT, METRICS, QUICK, Shared, run
from ._experiment import Experiment, Row, Trial
from ._settings import Mode, Network, some
from ._tuning import tuned, tuning_views


@dataclasses.dataclass(frozen=True)
class Settings(Shared):
    """Copy memory by mode."""

    modes: tuple[Mode, ...] = ("bptt", "online", "lambda-gamma", "one-step", "spatial")
    """How the recurrent layers learn; a trial for each."""
    network: Network = dataclasses.field(default_factory=Network)

    def __post_init__(self):
        super().__post_init__()
        some(self, "modes")


def _trials(settings: Settings, rows: list[Row]) -> Iterator[Trial]:
    task = settings.task

    def trial(variant: dict[str, Any], tuning: bool) -> Trial:
        make = lambda key: settings.network.build(task.in_size, task.bits, variant["mode"], pooling=False, key=key)
        return Trial(variant, functools.partial(run, settings, make, variant["rate"], tuning), tuning)

    yield from tuned([{"mode": mode} for mode in settings.modes], settings.rates, rows, trial)


def _views(settings: Settings) -> list[dict[str, Any]]:
    return [
        {
            "view": "table",
            "title": "Test loss and bit accuracy",
            "rows": ["mode", "rate"],
            "metrics": ["loss", "accuracy"],
            "split": "test",
        },
        {
            "view": "curves",
            "title": "Validation loss during training",
            "metric": "loss",
            "by": ["mode"],
            "split": "valid",
            "log": True,
        },
        *tuning_views(settings.rates, f"{settings.tuning_updates} updates", ["mode"]),
    ]


EXPERIMENT = Experiment(
    name="copy-memory-modes",
    title="Copy memory by mode of credit",
    about=ABOUT + " One network, trained with BPTT, online (exact traces in each layer), with traces for λ and γ "
    "alone, with one-step truncation, and with spatial backpropagation alone. The learning rate of each mode is chosen "
    "from the same list by a short run.",
    duration="about 8 hours as in the paper; 1 hour with --training.batch 20 --training.updates 4000 --rates 0.002",
    config=Settings(),
    quick=Settings(**QUICK, modes=("bptt", "online", "spatial"), network=Network(depth=2, width=16, units=16)),
    trials=_trials,
    metrics=METRICS,
    views=_views,
)
