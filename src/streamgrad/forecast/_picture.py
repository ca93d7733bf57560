"""The picture of a run: the newest rows with forecast and interval, the running error, the weights of the experts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ._naive import LAST, MEAN, SEASONAL
from ._outcome_picture import outcome_rows

if TYPE_CHECKING:
    from ._forecaster import Forecaster
    from ._history import History
    from ._path import PathTarget
    from ._target import Target

INK, BLUE, GREY, GREEN, ORANGE, RED = "#222222", "#1565c0", "#9e9e9e", "#2e7d32", "#ef6c00", "#c62828"
COLOURS = {"network": BLUE, LAST: GREY, SEASONAL: GREEN, "RLS on lags": ORANGE}
LABELS = {"network": "forecaster"}
OTHERS = ("#6a1b9a", "#00838f", "#ad1457", "#558b2f", "#4e342e", "#283593")
DASHED = (0, (4, 4))


def picture(forecaster: Forecaster, title: str = "") -> Any:
    """A Matplotlib figure: for one target three panels below each other, for several a row of two for each."""
    from matplotlib.figure import Figure

    pairs = list(zip(forecaster.targets, forecaster.history, map(str, forecaster.columns.targets), strict=True))
    ahead = f"{forecaster.horizon} row{'s' * (forecaster.horizon > 1)} ahead"
    if steps := getattr(forecaster.targets[0], "steps", 0):
        ahead = f"1 row ahead, and the next {steps}"
    draw = _rows if forecaster.outcome == "number" else outcome_rows
    if len(pairs) == 1:
        target, history, name = pairs[0]
        mixed = len(target.learner.experts) > 1
        size = (10, 8.6 if mixed else 7)
        figure = Figure(figsize=size, dpi=120, layout="constrained")
        axes = figure.subplots(3 if mixed else 2, 1, height_ratios=(3, 2, 1)[: 3 if mixed else 2])
        draw(axes[0], target, history, title or f"{name}, {ahead}", forecaster.levels)
        _errors(axes[1], target, history)
        if mixed:
            _weights(axes[2], target, history)
    else:
        figure = Figure(figsize=(13, 2.9 * len(pairs)), dpi=110, layout="constrained")
        axes = figure.subplots(len(pairs), 2, width_ratios=(3, 2), squeeze=False)
        for (target, history, name), (left, right) in zip(pairs, axes, strict=True):
            draw(left, target, history, f"{name}, {ahead}", forecaster.levels)
            _errors(right, target, history, narrow=True)
        if title:
            figure.suptitle(title, x=0.01, ha="left")
    for each in np.ravel(axes):
        each.grid(alpha=0.25)
        each.spines[["top", "right"]].set_visible(False)
        each.margins(x=0.01)
    return figure


def newest(axes: Any, forecaster: Forecaster, title: str) -> None:
    """Truth and forecast of the newest rows of the first target, on axes of another picture."""
    draw = _rows if forecaster.outcome == "number" else outcome_rows
    draw(axes, forecaster.targets[0], forecaster.history[0], title, forecaster.levels)


def _rows(axes: Any, target: Target | PathTarget, history: History, title: str, levels: tuple[float, ...]) -> None:
    """Truth, forecast and interval of the newest rows."""
    values, last = history.state["newest"], int(history.state["rows"][0])
    many = min(last, len(values))
    values, row = values[len(values) - many :], np.arange(last - many, last)
    if levels:
        low, high = values[:, -2:].T
        axes.fill_between(row, low, high, color=BLUE, alpha=0.13, lw=0, label=f"{100 * levels[-1]:g}% interval")
    axes.plot(row, values[:, 0], color=INK, lw=2.6, alpha=0.4, label="truth", marker="o" if many < 3 else None)
    axes.plot(row, values[:, 1], color=BLUE, lw=1.3, label="forecast")
    following = _following(axes, target, last, levels)
    for k, changed in enumerate(c for c in history.changes if c >= last - many):
        axes.axvline(changed, color=RED, lw=1, ls=DASHED, label=None if k else "the stream has changed")
    axes.set_title(f"{title}: the newest {many} rows" if many else title, loc="left")
    axes.set_xlabel("row")
    shown = np.concatenate([values[:, :2].ravel(), following])
    shown = shown[np.isfinite(shown)]
    if len(shown):  # an interval that is wide for a moment must not hide the curves
        low, high = shown.min(), shown.max()
        room = 0.35 * (high - low) or abs(low) * 0.01 or 1.0
        bottom, top = axes.get_ylim()
        bottom, top = max(bottom, low - room), min(top, high + room)
        axes.set_ylim(bottom, top + 0.14 * (top - bottom))  # the legend above the curves
    axes.legend(loc="upper left", ncols=4, frameon=False, fontsize=9)


def _following(axes: Any, target: Target | PathTarget, last: int, levels: tuple[float, ...]) -> np.ndarray:
    """The newest path, beyond the newest row; nothing for a forecast of one row."""
    steps = getattr(target, "steps", 0)
    if not steps:
        return np.zeros(0)
    path = target.pending[-1]  # type: ignore[union-attr]
    row = last - 1 + np.arange(1, steps + 1)
    axes.axvline(last - 1, color=GREY, lw=0.8)
    if levels:
        axes.fill_between(row, path[:, -2], path[:, -1], color=ORANGE, alpha=0.18, lw=0)
    axes.plot(row, path[:, 0], color=ORANGE, lw=1.6, label=f"the next {steps} rows")
    return path[:, 0]


def _blocks(history: History) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows at the ends of blocks, mean losses by method, weights by expert."""
    state = history.state
    width, many = state["width"].tolist()
    errors, weights = state["errors"][:many], state["weights"][:many]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = errors[:, 1:] / errors[:, :1]
    return width * np.arange(1, many + 1), mean, weights


def _errors(axes: Any, target: Target | PathTarget, history: History, narrow: bool = False) -> None:
    """The running error of the forecaster and of what it has to beat."""
    row, root, _ = _blocks(history)
    squares = target.headline == "nrmse"
    root = np.sqrt(root) if squares else root
    measure = "error: root mean square" if squares else "log loss (nats a row)"
    shown = [name for name in target.methods if name not in target.own and not (squares and name == MEAN)]
    others = iter(OTHERS)
    drawn = []
    for name in sorted(shown, key=lambda name: name == "network"):
        error = root[:, target.methods.index(name)]
        if not np.isfinite(error).any():
            continue
        drawn.append(error[np.isfinite(error)])
        wide = 1.9 if name == "network" else 1.1
        colour = COLOURS.get(name) or next(others)
        marker = "o" if len(row) < 3 else None
        axes.plot(row, error, color=colour, lw=wide, label=LABELS.get(name, name), marker=marker)
    width = int(history.state["width"][0])
    axes.set_xlabel("row")
    axes.set_title(f"running {measure} of each {width} rows" if drawn else "", loc="left")
    for changed in history.changes:
        axes.axvline(changed, color=RED, lw=0.8, ls=DASHED)
    if drawn:
        values = np.concatenate(drawn)
        low, high = values[values > 0].min(initial=np.inf), values.max()
        if np.isfinite(low) and high > 10 * low:
            axes.set_yscale("log")
            axes.set_ylim(low / 1.2, high * (high / low) ** 0.25)  # the legend above the curves
        elif high > 0:
            axes.set_ylim(0, (1.5 if narrow else 1.25) * high)
        axes.legend(loc="upper right", ncols=2 if narrow else 4, frameon=False, fontsize=8 if narrow else 9)


def _weights(axes: Any, target: Target | PathTarget, history: History) -> None:
    """How much each expert counted."""
    row, _, weights = _blocks(history)
    if len(row):
        marker = "o" if len(row) < 3 else None
        for name, weight, colour in zip(target.learner.experts, weights.T, OTHERS, strict=False):
            axes.plot(row, weight, color=colour, lw=1.2, label=name, marker=marker)
        axes.legend(loc="upper right", ncols=5, frameon=False, fontsize=9)
    axes.set_ylim(0, 1.3)
    axes.set_yticks([0, 0.5, 1])
    axes.set_xlabel("row")
    axes.set_title("weight of each expert", loc="left")
