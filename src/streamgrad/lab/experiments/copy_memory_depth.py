"""Copy memory by depth: what each layer's gradient is worth, and what credit across layers would buy."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax

from ._copying import ABOUT, METRICS, QUICK, Shared, run
from ._experiment import Experiment, Recorder, Row, Trial
from ._hops import alignment, influence_numbers
from ._settings import Network, at_least, some


@dataclasses.dataclass(frozen=True)
class Settings(Shared):
    """Copy memory by depth."""

    rates: tuple[float, ...] = (4e-3,)
    """The learning rate, the same for all."""
    depths: tuple[int, ...] = (1, 2, 3, 4)
    """Blocks; a trial for each and each mode of credit."""
    hops: tuple[int, ...] = (0, 1, 2, 3)
    """Layers beyond its own on which the influence of a parameter is kept; those below the depth are run."""
    network: Network = dataclasses.field(default_factory=Network)

    def __post_init__(self):
        super().__post_init__()
        some(self, "depths", "hops")
        at_least(1, self, "depths")
        at_least(0, self, "hops")
        if len(self.rates) > 1:
            raise ValueError(f"rates: copy-memory-depth uses one for all, got {self.rates}.")


def _trials(settings: Settings, rows: list[Row]) -> Iterator[Trial]:
    del rows
    task, rate = settings.task, settings.rates[0]
    for depth in settings.depths:
        network = dataclasses.replace(settings.network, depth=depth)
        useful = tuple(h for h in settings.hops if h < depth)
        for credit in ("BPTT", *(_name(h) for h in useful)):
            mode = "bptt" if credit == "BPTT" else "online"
            make = functools.partial(_make, network, task, mode)
            options: dict[str, Any] = {}
            if credit != "BPTT":
                options["hops"] = hop = next(h for h in useful if _name(h) == credit)
                if hop == 0:
                    options["probe"] = functools.partial(alignment, hops=useful)
            yield Trial(
                {"credit": credit, "depth": depth}, functools.partial(run, settings, make, rate, False, **options)
            )

    yield Trial({"about": "cost"}, functools.partial(_cost, settings))


def _cost(settings: Settings, recorder: Recorder) -> None:
    """What the influence takes for each stream, counted."""
    task = settings.task
    for depth in settings.depths:
        network = dataclasses.replace(settings.network, depth=depth)
        model = network.build(task.in_size, task.bits, "online", pooling=False, key=jax.random.key(0))
        for hops in (h for h in settings.hops if h < depth):
            count = influence_numbers(model, hops)
            values = {"influence": count, "times": count / influence_numbers(model, 0)}
            recorder.write(0, 0, "cost", final=True, depth=depth, credit=_name(hops), **values)


def _make(network, task, mode, key):
    return network.build(task.in_size, task.bits, mode, pooling=False, key=key)


def _name(hops: int) -> str:
    return "online" if hops == 0 else f"online, {hops} hop{'s'[: hops != 1]}"


def _views(settings: Settings) -> list[dict[str, Any]]:
    aligned = ["cosine", *(f"cosine_{h}" for h in settings.hops if 0 < h < max(settings.depths))]
    return [
        {
            "view": "against",
            "title": "Test loss by depth",
            "x": "depth",
            "metric": "loss",
            "by": ["credit"],
            "split": "test",
            "log": True,
        },
        {
            "view": "table",
            "title": "Test loss and bit accuracy",
            "rows": ["depth", "credit"],
            "metrics": ["loss", "accuracy"],
            "split": "test",
        },
        {
            "view": "curves",
            "title": "Cosine between the online gradient and BPTT's, by layer, along online training",
            "metric": "cosine",
            "by": ["layer"],
            "split": "gradient",
        },
        {
            "view": "table",
            "title": "Alignment at the end of online training, by layer, with credit over more layers",
            "rows": ["depth", "layer"],
            "metrics": aligned,
            "split": "gradient",
            "note": "The encoder has no trace of its own; with credit over depth - 1 more layers the gradient of every "
            "recurrent layer is BPTT's.",
        },
        {
            "view": "table",
            "title": "Influence that each stream must keep, counted",
            "rows": ["depth", "credit"],
            "metrics": ["influence", "times"],
            "split": "cost",
            "note": "One step at a time, each of these numbers is read and written at every step; beyond the first hop "
            "a step multiplies them by the layers' Jacobians, too. Encoder, norms and gated units count from the first "
            "hop on.",
        },
    ]


_COSINES = {
    f"cosine_{h}": {"label": f"cosine, {h} hop{'s'[: h != 1]}", "better": None, "floors": {}} for h in range(1, 9)
}

_COSTS = {
    "influence": {"label": "real numbers", "better": None, "floors": {}},
    "times": {"label": "times the online traces", "better": None, "floors": {}},
}

EXPERIMENT = Experiment(
    name="copy-memory-depth",
    title="Copy memory by depth, and credit across layers",
    about=ABOUT + " Networks of 1 to 4 layers, trained with BPTT and online. Only the last layer's online gradient is "
    "exact: the cosine with BPTT's gradient is followed layer by layer. 'Hops' keeps the influence of a layer's "
    "parameters on the states of that many layers above it too.",
    duration="about 12 hours as in the paper; 40 minutes with --network.width 64 --network.units 32 "
    "--training.batch 20 --training.updates 1500",
    config=Settings(),
    quick=Settings(**QUICK, depths=(1, 2), network=Network(width=16, units=16)),
    trials=_trials,
    metrics={**METRICS, **_COSINES, **_COSTS},
    views=_views,
)
