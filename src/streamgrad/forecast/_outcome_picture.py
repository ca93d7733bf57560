"""The newest rows of events, counts or classes in a picture: what was expected, and what came."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ._history import History
    from ._outcome import OutcomeTarget

INK, BLUE, GREY, RED = "#222222", "#1565c0", "#9e9e9e", "#c62828"
SMOOTH = 20  # rows of a running mean


def outcome_rows(axes: Any, target: OutcomeTarget, history: History, title: str, levels: tuple[float, ...]) -> None:
    """Truth and forecast of the newest rows."""
    values, last = history.state["newest"], int(history.state["rows"][0])
    many = min(last, len(values))
    values, row = values[len(values) - many :], np.arange(last - many, last)
    truth, shown = values[:, 0], values[:, 1]
    {"event": _events, "count": _counts, "class": _classes}[target.kind](axes, row, truth, shown, target)
    for k, changed in enumerate(c for c in history.changes if c >= last - many):
        axes.axvline(changed, color=RED, lw=1, ls=(0, (4, 4)), label=None if k else "the stream has changed")
    axes.set_title(f"{title}: the newest {many} rows" if many else title, loc="left")
    axes.set_xlabel("row")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", ncols=6, frameon=False, fontsize=9)


def _events(axes: Any, row: np.ndarray, truth: np.ndarray, shown: np.ndarray, target: OutcomeTarget) -> None:
    """The probability of the event as an area; a mark above where it came."""
    probability = np.where(truth == 1, shown, 1 - shown)
    axes.fill_between(row, 0, probability, step="mid", color=BLUE, alpha=0.2, lw=0)
    axes.step(row, probability, where="mid", color=BLUE, lw=1.2, label="probability of the event")
    came = truth == 1
    axes.scatter(row[came], np.full(came.sum(), 1.06), marker="v", s=22, color=INK, lw=0, label="the event came")
    axes.set_ylim(0, 1.35)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])


def _counts(axes: Any, row: np.ndarray, truth: np.ndarray, shown: np.ndarray, target: OutcomeTarget) -> None:
    """Counts as bars, the expected count as a line in two deviations of its Poisson distribution."""
    axes.bar(row, truth, width=0.9, color=GREY, alpha=0.55, label="count")
    spread = 2 * np.sqrt(shown)
    low, high = np.maximum(shown - spread, 0), shown + spread
    axes.fill_between(row, low, high, step="mid", color=BLUE, alpha=0.15, lw=0, label="± 2 √expected")
    axes.step(row, shown, where="mid", color=BLUE, lw=1.5, label="expected")
    top = np.nanmax(np.concatenate([truth, shown, [0.0]]))
    axes.set_ylim(0, 1.3 * (top or 1.0))


def _classes(axes: Any, row: np.ndarray, truth: np.ndarray, shown: np.ndarray, target: OutcomeTarget) -> None:
    """The probability of what came as a dot in the colour of its class, and its running mean."""
    from matplotlib import colormaps

    colours = colormaps["tab20" if target.naive.seen > 10 else "tab10"].colors  # type: ignore[attr-defined]
    axes.vlines(row, 0, shown, color=GREY, lw=0.6, alpha=0.5)
    for code, name in enumerate(target.classes.texts[: target.naive.seen]):
        came = truth == code
        if came.any():
            axes.scatter(row[came], shown[came], s=18, color=colours[code], lw=0, zorder=3, label=_short(name))
    there = np.isfinite(shown)
    if there.sum() > SMOOTH:
        mean = np.convolve(shown[there], np.full(SMOOTH, 1 / SMOOTH), "valid")
        axes.plot(row[there][SMOOTH - 1 :], mean, color=BLUE, lw=1.6, label=f"mean of {SMOOTH} rows")
    axes.set_ylabel("probability of what came")
    top, lines = np.nanmax([*shown, 0.1]), -(-(target.naive.seen + 2) // 6)
    axes.set_ylim(0, top * (1.05 + 0.12 * lines))  # the legend above the dots


def _short(name: str) -> str:
    return name if len(name) <= 18 else name[:17] + "…"
