"""What a fleet of forecasters was worth: errors of all keys, the best and the worst, as numbers and as a picture."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from .._base.files import save_figure, whole_file
from ..data import shortest
from ..forecast._picture import BLUE, COLOURS, GREY, LABELS, OTHERS, newest
from ._forecasters import Forecasters
from ._keys import Key


class Summary(NamedTuple):
    """Errors of all keys.

    - `keys`, `figures`: of each key, as `Forecasters.figures` has them;
    - `methods`: what is compared, the forecaster first, without its experts; `measure`: the name of the error;
    - `errors`: that of the second half of a key's rows, of all rows where they are few; NaN: no row was scored;
    - `order`: keys that were scored, the best first.
    """

    keys: list[Key]
    figures: list[dict[str, Any]]
    methods: tuple[str, ...]
    measure: str
    errors: Float[np.ndarray, "keys methods"]
    order: Int[np.ndarray, " scored"]

    @classmethod
    def of(cls, fleet: Forecasters) -> Summary:
        """The errors of a fleet's keys by now."""
        found = sorted(fleet.figures(), key=lambda pair: str(pair[0]))
        measure, own = fleet.headline, fleet.own
        shown = [k for k, method in enumerate(fleet.methods) if method not in own]
        errors = np.full((len(found), len(shown)), np.nan)
        for k, (_, figures) in enumerate(found):
            whole, half = (np.array(figures[name], float)[shown] for name in (measure, f"{measure}_half"))
            errors[k] = half if np.isfinite(half).all() else whole
        scored = np.flatnonzero(np.isfinite(errors[:, 0]))
        order = scored[np.argsort(errors[scored, 0], kind="stable")]
        methods = tuple(fleet.methods[k] for k in shown)
        return cls([key for key, _ in found], [each for _, each in found], methods, measure, errors, order)

    def median(self) -> dict[str, float]:
        """The median over keys of each method's error."""
        some = self.errors[self.order]
        return {name: _median(some[:, k]) for k, name in enumerate(self.methods)}

    def won(self) -> dict[str, int]:
        """The number of keys at which each method has the least error."""
        some = np.where(np.isnan(self.errors[self.order]), np.inf, self.errors[self.order])
        best = np.bincount(some.argmin(axis=1), minlength=len(self.methods))
        return {name: int(best[k]) for k, name in enumerate(self.methods)}

    def middle(self) -> list[int]:
        """The best key, the one in the middle, and the worst."""
        places = {0: None, (len(self.order) - 1) // 2: None, len(self.order) - 1: None}
        return [int(self.order[place]) for place in places] if len(self.order) else []

    def to_csv(self, path: Path, fleet: Forecasters) -> None:
        """Write a line for each key: rows, and the errors of all methods by all measures."""
        counts = ("rows", "scored", "missing")
        with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            lines = csv.writer(file, lineterminator="\n")
            columns = [f"{name}_{_joined(method)}" for name in fleet.measures for method in fleet.methods]
            lines.writerow(["key", *counts, "changes", *columns])
            for key, figures in zip(self.keys, self.figures, strict=True):
                errors = [shortest(error) for name in fleet.measures for error in figures[name]]
                lines.writerow([key, *(figures[name] for name in counts), len(figures["changes"]), *errors])

    def plot(self, fleet: Forecasters, path: str | os.PathLike[str] | None = None, *, title: str = "") -> Any:
        """A Matplotlib figure: errors of all keys, and the newest rows of the best, the middle and the worst one. With
        `path`, it is written there too."""
        from matplotlib.figure import Figure

        chosen = self.middle()
        figure = Figure(figsize=(10, 3.6 + 2.6 * len(chosen)), dpi=120, layout="constrained")
        axes = figure.subplots(1 + len(chosen), 1, squeeze=False, height_ratios=[3.6, *[2.6] * len(chosen)])[:, 0]
        self._curves(axes[0], title)
        for each, k, which in zip(axes[1:], chosen, ("best", "middle", "worst"), strict=False):
            error = f"{self.measure.replace('_', ' ').replace('nrmse', 'nRMSE')} {self.errors[k, 0]:.3g}"
            newest(each, fleet[self.keys[k]], f"{_short(self.keys[k])}, the {which} key ({error})")
        for each in axes:
            each.grid(alpha=0.25)
            each.spines[["top", "right"]].set_visible(False)
            each.margins(x=0.01)
        if path is not None:
            save_figure(figure, path)
        return figure

    def _curves(self, axes: Any, title: str) -> None:
        """The error of each key, the best first, with dots for what is simple."""
        some, place = self.errors[self.order], np.arange(1, len(self.order) + 1)
        size = float(np.clip(2000 / max(len(place), 1), 3, 20))
        names = [name for name in self.methods if name != "running mean"]
        others = iter(OTHERS)
        for name in sorted(names, key=lambda name: name == "network"):
            values = some[:, self.methods.index(name)]
            if name == "network":
                marker = "o" if len(place) < 3 else None
                axes.plot(place, values, color=BLUE, lw=2, label=LABELS[name], marker=marker)
            else:
                axes.scatter(
                    place,
                    values,
                    s=size,
                    color=COLOURS.get(name) or next(others, GREY),
                    alpha=0.7,
                    label=name,
                    linewidths=0,
                )
        values = some[np.isfinite(some) & (some > 0)]
        if len(values) and values.max() > 10 * values.min():
            axes.set_yscale("log")
        axes.set_title(title, loc="left")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("keys, the best first")
        axes.set_ylabel(self.measure.replace("_", " ").replace("nrmse", "nRMSE") + ", second half")
        axes.legend(loc="upper left", ncols=4, frameon=False, fontsize=9)


def _median(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float("nan")


def _joined(name: str) -> str:
    return name.replace(" ", "_")


def _short(key: Key) -> str:
    text = str(key)
    return text if len(text) <= 40 else text[:37] + "..."
