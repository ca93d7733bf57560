"""What `explain` found, and how it is printed."""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

from ...algorithms import Traits
from ...recurrent import Recurrent
from .._cost import Cost, table

Verdict = Literal["exact", "unbiased", "biased", "unknown"]


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """One recurrent layer within its model.

    - `path`: where it stands in the model; `cell`, `algorithm`: in a few words;
    - `gradient`: `"exact"`, `"unbiased"`, `"biased"` or `"unknown"` (not proved), for frozen weights; `reason`: the
      proof, or the path that spoils it;
    - `feeds`: the carried values that it reaches and where the gradient stops;
    - `traits`: of the algorithm on the cell alone; `layer`: one of them alone, where layers are stacked.
    """

    path: str
    cell: str
    algorithm: str
    gradient: Verdict
    reason: str
    feeds: tuple[str, ...]
    traits: Traits
    layer: Recurrent = dataclasses.field(repr=False, compare=False)

    @functools.cached_property
    def costs(self) -> tuple[Cost, ...]:
        """The layer's cell under other methods, counted when first asked for."""
        return tuple(table(self.layer))


@dataclasses.dataclass(frozen=True)
class ParameterReport:
    """One parameter outside of the layers: `path`, `gradient`, `reason` and `feeds` as of a layer."""

    path: str
    gradient: Verdict
    reason: str
    feeds: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class UpdateReport:
    """The update of a learner's parameters, and its cost.

    - `name`: of the update; `parameters`: how many it moves; `bytes`: of its state, as allocated;
    - `blocks`: of a filter's covariance, (how many, of how many parameters); `numbers`: that say the covariance;
    - `pullbacks`: through the influence, of a step; `multiply_adds`: of a step beside them, None where not counted.
    """

    name: str
    parameters: int
    bytes: int
    blocks: tuple[tuple[int, int], ...] = ()
    numbers: int = 0
    pullbacks: int = 1
    multiply_adds: int | None = None


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What `explain` found of the `layers`, of the `parameters` outside of them, and of a learner's `update`. Printing
    it gives the tables."""

    layers: tuple[LayerReport, ...]
    parameters: tuple[ParameterReport, ...]
    update: UpdateReport | None = None

    @property
    def others(self) -> dict[str, tuple[str, ...]]:
        """The spoiled gradients of parameters outside of the layers, by path: () if it is exact."""
        return {each.path: each.feeds for each in self.parameters}

    @property
    def exact(self) -> bool:
        """Whether every parameter of the model gets its exact gradient."""
        return all(each.gradient == "exact" for each in (*self.layers, *self.parameters))

    def __str__(self) -> str:
        update = [] if self.update is None else ["", *_update_text(self.update)]
        return "\n".join([*map(_layer_text, self.layers), *_parameters_text(self.parameters), *update])


def _layer_text(layer: LayerReport) -> str:
    traits = layer.traits
    lines = [
        f"{layer.path}: {layer.cell}; {layer.algorithm}",
        f"  gradient   {layer.gradient}: {layer.reason}.",
        f"  influence  {traits.kept:,} numbers for {traits.full:,} entries of J; {_bytes(traits.bytes)} allocated, "
        f"{_bytes(traits.temporaries)} beside it for an update ({traits.layout})",
        "",
        f"  {'method':<18}{'entries kept':>16}{'memory':>12}{'FLOPs a step':>16}{'density of J':>14}  exact",
    ]
    for cost in layer.costs:
        density = "" if cost.density is None else f"{100 * cost.density:.3g}%"
        counted = f"{cost.entries:>16,}{_bytes(cost.bytes):>12}{cost.flops:>16,}{density:>14}"
        lines.append(f"  {cost.method:<18}{counted}  {cost.exact}")
    return "\n".join([*lines, ""])


def _parameters_text(parameters) -> list[str]:
    together: dict[tuple[str, str], list[str]] = {}
    for each in parameters:
        together.setdefault((each.gradient, each.reason), []).append(each.path)
    lines = []
    for (gradient, reason), names in together.items():
        if gradient == "exact":
            lines.append(f"outside the layers, exact: {', '.join(names)}.")
        else:
            lines.append(f"outside the layers, {gradient}: {', '.join(names)}: {reason}.")
    return sorted(lines, key=lambda line: "exact:" not in line)


def _update_text(update: UpdateReport) -> list[str]:
    counted = lambda count, what: f"{count:,} {what}{'s'[: count != 1]}"
    blocks = ", ".join(f"{counted(count, 'block')} of {size:,}" for count, size in update.blocks)
    lines = [
        f"update: {update.name}; {counted(update.parameters, 'parameter')}" + (f" in {blocks}" if blocks else ""),
        f"  state      {_bytes(update.bytes)} allocated"
        + (f"; {update.numbers:,} numbers for the covariance" if update.numbers else ""),
    ]
    if update.multiply_adds is not None:
        pullbacks = f"{counted(update.pullbacks, 'pullback')} through the influence"
        lines.append(f"  a step     {pullbacks}, and about {update.multiply_adds:,} multiply-adds")
    return lines


def _bytes(count: int | float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    raise AssertionError
