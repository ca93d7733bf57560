"""Copy memory by cell: networks of equal size under the learning rule that is right for each."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax

from ... import cells
from ...nn import Sequential
from ...recurrent import Recurrent
from ._copying import ABOUT, METRICS, QUICK, Shared, run
from ._experiment import Experiment, Row, Trial
from ._settings import MODES, Mode, Network, at_least, some
from ._tuning import tuned, tuning_views


@dataclasses.dataclass(frozen=True)
class Wide:
    """One layer of GRU with a hidden layer in its readout."""

    units: int = 134
    hidden: int = 1072

    def __post_init__(self):
        at_least(1, self, "units", "hidden")

    def build(self, in_size: int, out_size: int, mode: str, *, pooling: bool, key) -> Sequential:
        """The model, learning by `mode`."""
        del pooling
        key_cell, key_hidden, key_out = jax.random.split(key, 3)
        return Sequential(
            (
                Recurrent(cells.GRU(in_size, self.units, key=key_cell), MODES[mode]),
                eqx.nn.Linear(self.units, self.hidden, key=key_hidden),
                jax.nn.gelu,
                eqx.nn.Linear(self.hidden, out_size, key=key_out),
            )
        )


@dataclasses.dataclass(frozen=True)
class Settings(Shared):
    """Copy memory by cell."""

    lru: Network = dataclasses.field(default_factory=Network)
    """A deep network of LRU: each layer's traces are exact."""
    linear: Network = dataclasses.field(default_factory=lambda: Network(cell="linear", width=146))
    """A deep network of dense linear recurrences under SnAp-1."""
    gru: Network = dataclasses.field(default_factory=lambda: Network(cell="gru", width=91, units=91))
    """A deep network of dense GRU under SnAp-1."""
    wide: Wide = dataclasses.field(default_factory=Wide)
    """One dense GRU under SnAp-1, with a hidden layer in its readout."""
    modes: tuple[Mode, ...] = ("online", "bptt")
    """online: SnAp(1), which is exact for the LRU's layers; bptt."""

    def __post_init__(self):
        super().__post_init__()
        some(self, "modes")


def _trials(settings: Settings, rows: list[Row]) -> Iterator[Trial]:
    task = settings.task
    networks = {
        _text("LRU", settings.lru): settings.lru,
        _text("linear RNN", settings.linear): settings.linear,
        _text("GRU", settings.gru): settings.gru,
        f"GRU 1 x {settings.wide.units}, readout {settings.wide.hidden}": settings.wide,
    }

    def trial(variant: dict[str, Any], tuning: bool) -> Trial:
        network = networks[variant["network"]]
        make = lambda key: network.build(task.in_size, task.bits, variant["mode"], pooling=False, key=key)
        return Trial(variant, functools.partial(run, settings, make, variant["rate"], tuning), tuning)

    variants = [{"network": name, "mode": mode} for mode in settings.modes for name in networks]
    yield from tuned(variants, settings.rates, rows, trial)


def _text(name: str, network: Network) -> str:
    return f"{name} {network.depth} x ({network.width}, {network.units})"


def _views(settings: Settings) -> list[dict[str, Any]]:
    return [
        {
            "view": "table",
            "title": "Test loss and bit accuracy",
            "rows": ["mode", "network", "rate"],
            "metrics": ["loss", "accuracy"],
            "split": "test",
        },
        {
            "view": "curves",
            "title": "Validation loss during training",
            "metric": "loss",
            "by": ["network"],
            "split": "valid",
            "log": True,
        },
        *tuning_views(settings.rates, f"{settings.tuning_updates} updates", ["mode", "network"]),
    ]


EXPERIMENT = Experiment(
    name="copy-memory",
    title="Copy memory by cell",
    about=ABOUT
    + " A deep network of LRU, whose layers have exact traces, beside dense linear recurrences and dense GRU "
    "of about as many parameters, for which SnAp-1 is an approximation; and each of them with BPTT.",
    duration="about 10 hours as in the paper; 1 hour with --training.batch 20 --training.updates 3000 --rates 0.004",
    config=Settings(),
    quick=Settings(
        **QUICK,
        lru=Network(depth=2, width=16, units=16),
        linear=Network(cell="linear", depth=2, width=16, units=16),
        gru=Network(cell="gru", depth=2, width=16, units=16),
        wide=Wide(16, 32),
        modes=("online",),
    ),
    trials=_trials,
    metrics=METRICS,
    views=_views,
)
