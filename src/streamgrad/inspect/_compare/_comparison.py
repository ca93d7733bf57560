"""What a comparison found, as a table and a figure."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Gradient:
    """The agreement of the online gradient with BPTT's, over all parameters of the cell, for each seed: the cosine, and
    the ratio of norms."""

    cosines: tuple[float, ...]
    ratios: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Row:
    """One learner. `None`: does not apply, or was not asked for.

    - `name`; `bias`: exact, unbiased, biased, or "-" for a floor;
    - `gradient`: beside BPTT's, frozen weights;
    - `bytes`: of the trace (of BPTT's window: its activations are not counted); `microseconds`: a step of learning;
    - `losses`: in the late part of the stream, for each seed, at the best of the rates; `rate`: that one; `edge`:
      whether it is the first or the last of the list, so that one beyond may be better;
    - `refused`: why the algorithm does not fit the cell.
    """

    name: str
    bias: str = "-"
    gradient: Gradient | None = None
    bytes: int | None = None
    microseconds: float | None = None
    losses: tuple[float, ...] | None = None
    rate: float | None = None
    edge: bool = False
    refused: str | None = None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """`rows`, one a learner; `cell`, `conditions`: in words. Printing it gives the table; `figure(path)` the picture,
    `as_dict()` what JSON can hold."""

    cell: str
    conditions: str
    rows: tuple[Row, ...]

    def __str__(self) -> str:
        heads = ("", "gradient", "cosine", "norm ratio", "trace", "µs a step", "late loss", "rate")
        lines = [self._cells(row) for row in self.rows if row.refused is None]
        widths = [max(len(line[k]) for line in [heads, *lines]) for k in range(len(heads))]
        left = {0, 1}

        def text(line):
            each = [c.ljust(w) if k in left else c.rjust(w) for k, (c, w) in enumerate(zip(line, widths, strict=True))]
            return "  ".join(each).rstrip()

        refused = [f"left out: {row.refused}" for row in self.rows if row.refused is not None]
        table = [text(heads), "  ".join("-" * w for w in widths), *map(text, lines)]
        return "\n".join([self.cell, self.conditions, "", *table, *([""] if refused else []), *refused])

    @staticmethod
    def _cells(row: Row) -> tuple[str, ...]:
        gradient, none = row.gradient, ""
        return (
            row.name,
            row.bias,
            none if gradient is None else spread(gradient.cosines, "{:.3f}"),
            none if gradient is None else spread(gradient.ratios, "{:.2f}"),
            none if row.bytes is None else amount(row.bytes),
            none if row.microseconds is None else f"{row.microseconds:.1f}",
            none if row.losses is None else spread(row.losses, "{:.4f}"),
            none if row.rate is None else f"{row.rate:g}" + " (edge)" * row.edge,
        )

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        return dataclasses.asdict(self)

    def figure(self, path: str | Path) -> Path:
        """Draw cosine and late loss against the time of a step, to a file; needs Matplotlib (the extra `plot`)."""
        from ._figure import draw

        return draw(self, Path(path))


def spread(values: tuple[float, ...], form: str) -> str:
    """Mean ± standard deviation over seeds."""
    mean = sum(values) / len(values)
    deviation = (sum((v - mean) ** 2 for v in values) / max(len(values) - 1, 1)) ** 0.5
    return form.format(mean) + (f" ± {form.format(deviation)}" if len(values) > 1 else "")


def amount(count: int) -> str:
    """Bytes, to three digits."""
    size, units = float(count), ["B", "kB", "MB", "GB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.3g} {units[0]}"
