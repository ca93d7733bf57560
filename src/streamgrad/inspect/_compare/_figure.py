"""The picture of a comparison."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ._comparison import Comparison, Row

COLOURS = {"exact": "#009e73", "unbiased": "#0072b2", "biased": "#d55e00"}
GREY = "#6b6b6b"


def draw(comparison: Comparison, path: Path) -> Path:
    """Cosine with BPTT's gradient and late loss, for every learner, in the order of the table."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    shown = [row for row in comparison.rows if row.refused is None]
    nets, floors = [row for row in shown if row.bias != "-"], [row for row in shown if row.bias == "-"]
    figure = Figure(figsize=(9.5, 1.4 + 0.27 * len(nets)), dpi=160, layout="constrained", facecolor="white")
    axes = figure.subplots(1, 3, sharey=True)
    places = {row.name: k for k, row in enumerate(nets)}
    panels = (
        ("cosine with BPTT", lambda row: row.gradient and row.gradient.cosines, False),
        ("µs a step", lambda row: row.microseconds and (row.microseconds,), True),
        ("late loss (floors dashed)", lambda row: row.losses, True),
    )
    for ax, (title, values, log) in zip(axes, panels, strict=True):
        for row in nets:
            _mark(ax, places[row.name], row, values(row))
        ax.set_xlabel(title)
        if log and ax.lines:
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ax.xaxis.set_minor_formatter(NullFormatter())
            ax.tick_params(labelsize=8)
        ax.grid(axis="x", color="#dddddd", linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
    for k, row in enumerate(floors):
        if row.losses is not None:
            axes[2].axvline(float(np.mean(row.losses)), color=GREY, linestyle="--", linewidth=1)
            axes[2].annotate(
                row.name, (float(np.mean(row.losses)), 1.0 + 0.035 * (k % 3)), xycoords=("data", "axes fraction"),
                fontsize=7, color=GREY, ha="center", va="bottom",
            )  # fmt: skip
    axes[0].set_yticks(list(places.values()), list(places), fontsize=9)
    axes[0].set_ylim(len(nets) - 0.5, -0.5)
    axes[0].axvline(1.0, color=GREY, linewidth=0.8)
    handles = [
        figure.axes[0].plot([], [], "o", color=colour, label=kind)[0]
        for kind, colour in COLOURS.items()
        if any(row.bias == kind for row in nets)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(comparison.cell, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _mark(ax, place: int, row: Row, values) -> None:
    if not values or not np.isfinite(values).all():
        return
    colour = COLOURS[row.bias]
    ax.plot(values, [place] * len(values), "o", color=colour, markersize=3, alpha=0.5, markeredgewidth=0)
    ax.plot([float(np.mean(values))], [place], "|", color=colour, markersize=12, markeredgewidth=2)
