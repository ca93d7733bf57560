"""Draw lines with a spread over seeds, named where they end, and floors: the one style of all figures."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import sub
from typing import Any

from .schema import Metric
from .tables import label, scale
from .values import Spread, in_order, text

#: Okabe and Ito's colours, which differ for every kind of colour vision; without yellow, which is pale on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#444444")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (5, 1.5, 1.5, 1.5)))
INK, GREY = "#222222", "#6b6b6b"
WIDTH, HEIGHT, DPI, FONT = 7.0, 4.3, 160, 12.0  # inches, dots an inch, points
NAMED = 12  # more lines than this, or names of more than LONG characters, get a legend below
BANDS = 10  # lines with a band each; more would hide each other
LONG = 28
LETTERS = 60  # more than these below an axis stand upright
BEYOND = 2.0  # a floor further from the data than so many times their range is left out


@dataclass(frozen=True)
class Line:
    """A line of a figure: a spread over seeds for each x. Lines with the same `style`, a number, look the same."""

    name: str
    x: tuple[Any, ...]
    spreads: tuple[Spread, ...]
    style: int


@dataclass(frozen=True)
class Panel:
    """Axes of a figure, with a title above them if there are several."""

    title: str
    lines: tuple[Line, ...]


def draw(metric: Metric, panels: Sequence[Panel], x_label: str, *, log: bool, steps: bool) -> tuple[bytes, list[str]]:
    """Draw panels with the same axes as a PNG; returns it, with sentences on what could not be drawn.

    **Arguments:**

    - `metric`: of the y axis; its floors are dashed.
    - `panels`: at least one, with at least one line in each. In a single one, names stand where the lines end, if
      there is room; else there is a legend.
    - `x_label`: name of the x axis.
    - `log`: a logarithmic y axis, if there is a value above 0.
    - `steps`: x are steps; else they are values of a variant's key, which are marked one by one, on a logarithmic
      axis if they spread widely, or side by side if they are not numbers.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    lines = [line for panel in panels for line in panel.lines]
    names = list(dict.fromkeys(line.name for line in lines))
    named = len(panels) == 1 and len(names) <= NAMED and max(map(len, names)) <= LONG
    columns = 1 if len(panels) == 1 else 2 if len(panels) in (2, 4) else 3
    rows = -(-len(panels) // columns)
    legend = 0 if named else 0.22 * (1 + -(-len(names) // 2))
    size = (WIDTH, (HEIGHT if columns == 1 else 0.5 + 2.3 * rows) + legend)
    style: dict[Any, Any] = {"font.size": FONT if columns == 1 else FONT - 2, "font.family": "DejaVu Sans"}
    style |= {"axes.edgecolor": GREY, "axes.axisbelow": True, "axes.titlesize": "medium", "legend.fontsize": FONT - 1}
    style |= {"xtick.color": INK, "ytick.color": INK, "text.color": INK, "axes.labelcolor": INK}
    with rc_context(style):
        figure = Figure(figsize=size, dpi=DPI, layout="constrained", facecolor="white")
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        first = grid[0, 0]
        places = None if steps else _x_axis(first, lines)
        for axes, panel in zip(grid.flat, panels):
            ends = [
                _line(axes, line, scale(metric), places, (k + 0.5) / len(names) - 0.5, band=len(names) <= BANDS)
                for k, line in enumerate(panel.lines)
            ]
            axes.set_title(panel.title or _heading(metric), loc="left", parse_math=False)
            axes.grid(alpha=0.25, lw=0.7)
            axes.spines[["top", "right"]].set_visible(False)
        if places is None:
            _step_axis(first, lines, 6 if columns == 1 else 3)
        floors, notes = _y_axis(first, metric, lines, log)
        for k, axes in enumerate(grid.flat):
            for name, value in floors.items():
                axes.axhline(value, color=GREY, ls=(0, (4, 3)), lw=1.1, zorder=1.5, label=name)
            axes.tick_params(labelbottom=k + columns >= len(panels))
            axes.set_xlabel(x_label if k + columns >= len(panels) else "", parse_math=False)
            axes.set_visible(k < len(panels))
        if len(panels) > 1:
            figure.suptitle(_heading(metric), fontsize=FONT, x=0.01, ha="left", parse_math=False)
        if named:
            ends = [end for end in ends if end[0] != "all"]
            ends += [(name, float(first.get_xlim()[1]), value, GREY) for name, value in floors.items()]
            _name(first, [end for end in ends if math.isfinite(end[2])])
        else:
            _legend(figure, grid.flat)
        file = io.BytesIO()
        figure.savefig(file, format="png", metadata={"Software": None})
    notes += [_lost(line, panel.title, x_label) for panel in panels for line in panel.lines]
    return file.getvalue(), list(filter(None, notes))


def _legend(figure: Any, every: Iterable[Any]) -> None:
    """Below all axes, each name once."""
    found = {}
    for axes in every:
        for handle, name in zip(*axes.get_legend_handles_labels()):
            found.setdefault(name, handle)
    legend = figure.legend(found.values(), found, loc="outside lower left", ncols=2, frameon=False)
    for words in legend.get_texts():
        words.set_parse_math(False)


def _line(axes: Any, line: Line, times: float, places: Mapping[Any, float] | None, aside: float, band: bool) -> tuple:
    """Draw a line, with its band if wanted, or points with bars, set aside; returns its name, where it ends, and its
    colour."""
    colour = COLOURS[line.style % len(COLOURS)]
    dash = DASHES[line.style // len(COLOURS) % len(DASHES)]
    marker = MARKERS[(line.style + line.style // len(COLOURS)) % len(MARKERS)]  # no colour has a marker twice
    x = list(line.x) if places is None else [places[v] for v in line.x]
    whole = [s.n > 0 and not s.lost for s in line.spreads]
    of_whole = lambda name: [getattr(s, name) * times if w else math.nan for s, w in zip(line.spreads, whole)]
    mean, low, high = of_whole("mean"), of_whole("low"), of_whole("high")
    side_by_side = places is not None and any(isinstance(v, str | bool) for v in places)
    if side_by_side:
        x = [v + 0.5 * aside for v in x]
        # A mean of equal values may be a rounding beside them; NaN stays.
        errors = [[d if not d < 0 else 0.0 for d in away] for away in (map(sub, mean, low), map(sub, high, mean))]
        axes.errorbar(x, mean, errors, color=colour, fmt=marker, capsize=3, ms=6, label=line.name)
    else:
        if band:
            axes.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)
        dots = {"marker": marker, "ms": 5.5} if places is not None else {"marker": "o", "ms": 4} if len(x) < 3 else {}
        axes.plot(x, mean, color=colour, ls=dash, lw=1.8, label=line.name, **dots)
    last = max((i for i, w in enumerate(whole) if w), default=None)
    x_end, y_end = (math.nan, math.nan) if last is None else (float(x[last]), mean[last])
    return line.name, x_end, y_end, colour


def _x_axis(axes: Any, lines: Sequence[Line]) -> dict[Any, float]:
    """Set up the axis for values of a variant's key; returns where each of them is."""
    values = [v for (v,) in in_order(dict.fromkeys((v,) for line in lines for v in line.x))]
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        words = [text(v) for v in values]
        upright = sum(map(len, words)) > LETTERS
        axes.set_xticks(range(len(values)), words, rotation=90 if upright else 0, parse_math=False)
        axes.set_xlim(-0.5, len(values) - 0.5)
        return {v: float(i) for i, v in enumerate(values)}
    if values[0] > 0 and values[-1] / values[0] >= 8:
        axes.set_xscale("log")
        axes.minorticks_off()
    if len(values) <= 10:
        axes.set_xticks(values, [text(v) for v in values])
    return {v: float(v) for v in values}


def _step_axis(axes: Any, lines: Sequence[Line], parts: int) -> None:
    """From the first step, or 0 if that is near, to the last."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    low, high = min(line.x[0] for line in lines), max(line.x[-1] for line in lines)
    axes.set_xlim(0 if 0 <= low < 0.2 * high else low, high if high > low else low + 1)
    axes.xaxis.set_major_locator(MaxNLocator(parts, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.10g}"))


def _y_axis(axes: Any, metric: Metric, lines: Sequence[Line], log: bool) -> tuple[dict[str, float], list[str]]:
    """Set the limits; returns the floors within them, and sentences on those that are left out."""
    times = scale(metric)
    shown = [s for line in lines for s in line.spreads if s.n and not s.lost]
    values = [v * times for s in shown for v in (s.low, s.high)]
    floors = {name: v * times for name, v in (metric.floors or {}).items() if math.isfinite(v)}
    notes = []
    log = log and any(v > 0 for v in values)
    if log:
        axes.set_yscale("log", nonpositive="mask")
        if any(v <= 0 for v in values):
            notes.append("Values of 0 or less have no place on a logarithmic axis.")
        values = [v for v in values if v > 0]
        for name in [name for name, v in floors.items() if v <= 0]:
            notes.append(f"The floor {name} ({floors.pop(name):g}) has no place on a logarithmic axis.")
    if not values:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", color=GREY)
        return {}, notes
    to, back = (math.log10, lambda v: 10.0**v) if log else (float, float)
    low, high = to(min(values)), to(max(values))
    room = BEYOND * (high - low)
    for name, value in list(floors.items()):
        if room and not low - room <= to(value) <= high + room:
            notes.append(f"The floor {name} ({value:.4g}) lies outside what is shown.")
            del floors[name]
    low, high = (f([end, *map(to, floors.values())]) for f, end in ((min, low), (max, high)))
    gap = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
    axes.set_ylim(back(low - gap), back(high + gap))
    if log:
        _log_ticks(axes, high - low)
    return floors, notes


def _log_ticks(axes: Any, decades: float) -> None:
    """Plain numbers at powers of ten, and between them where there are few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    plain = FuncFormatter(lambda v, _: f"{v:g}")
    axes.yaxis.set_major_formatter(plain)
    axes.yaxis.set_minor_formatter(plain if decades < 2 else NullFormatter())
    if decades < 2:
        axes.yaxis.set_minor_locator(LogLocator(subs=(2.0, 5.0) if decades > 0.6 else range(2, 10)))


def _name(axes: Any, ends: Sequence[tuple[str, float, float, str]]) -> None:
    """Write names to the right of the axes at the height where their lines end, moved apart where they would meet."""
    axes.set_xlim(axes.get_xlim())
    heights = [axes.transAxes.inverted().transform(axes.transData.transform((x, y)))[1] for _, x, y, _ in ends]
    gap = 1.25 * FONT / 72 / (0.78 * HEIGHT)
    for (name, x, y, colour), height, at in zip(ends, heights, _apart(heights, gap)):
        moved = abs(at - height) > 0.015 or x < axes.get_xlim()[1]
        arrow = {"arrowstyle": "-", "color": colour, "lw": 0.7, "alpha": 0.7, "shrinkA": 1, "shrinkB": 2}
        axes.annotate(
            name,
            (x, y),
            (1.035, at),
            textcoords="axes fraction",
            color=_dark(colour),
            va="center",
            fontsize=FONT - 1,
            arrowprops=arrow if moved else None,
            annotation_clip=False,
            parse_math=False,
        )


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """Heights in the same order, each at least `gap` from the next, moved as little as may be: those that would meet
    form a block around their mean."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    blocks: list[tuple[float, int]] = []  # mean, how many
    for i in order:
        mean, n = heights[i], 1
        while blocks and mean - blocks[-1][0] < gap * (n + blocks[-1][1]) / 2:
            other, m = blocks.pop()
            mean, n = (mean * n + other * m) / (n + m), n + m
        blocks.append((mean, n))
    spots = [mean + gap * (k - (n - 1) / 2) for mean, n in blocks for k in range(n)]
    return [spot for _, spot in sorted(zip(order, spots))]


def _dark(colour: str) -> str:
    """The colour for text, which needs more contrast than a line."""
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(0.75 * part):02x}" for part in parts)


def _heading(metric: Metric) -> str:
    return f"{label(metric)}, {metric.better} is better" if metric.better else label(metric)


def _lost(line: Line, title: str, x_label: str) -> str:
    lost = [(x, s) for x, s in zip(line.x, line.spreads) if s.lost]
    if not lost:
        return ""
    most = max(lost, key=lambda item: item[1].lost)[1]
    which = f"{line.name} ({title})" if title else line.name
    where = f"{most.lost} of {most.n + most.lost} seeds are not finite"
    return f"{which} is not drawn where {where}, first at {x_label} {text(lost[0][0])}."
