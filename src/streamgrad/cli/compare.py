"""`streamgrad bench algorithms`: every algorithm on one cell and one stream, in one table and one plot."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from streamgrad._base.files import write_whole
from streamgrad.data import SERIES, SourceError, open_source
from streamgrad.data.errors import unknown_column


@dataclasses.dataclass(frozen=True)
class Options:
    """Compare algorithms on a stream: the gradient beside BPTT's (mean and spread over seeds), bytes, time a step, and
    how well each learns to predict the next row. All have the same cell, optimiser (Adam) and rates to choose from."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")] = "seattle-temps"
    """CSV, TSV, Parquet, Arrow or JSON lines, or a bundled series."""
    columns: Annotated[tuple[str, ...], tyro.conf.arg(metavar="COLUMN ...")] = ()
    """Columns to hear and to predict. A bundled series knows its own; of a file, all."""
    algorithms: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """Algorithms by name (rtrl, snap-2, ok-4, uoro, ...); all when none is named."""
    cell: str = "Vanilla"
    """The cell, in any spelling; every algorithm fits Vanilla."""
    units: int = 32
    """The number of units."""
    density: float | None = None
    """Sparse recurrent wiring with this share of the links."""
    rows: int = 4000
    """Rows to learn from, from the first one on."""
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2)
    """Learning rates of Adam to choose from."""
    seeds: int = 3
    """Repetitions: other weights, other random numbers, another stretch for the gradients."""
    steps: int = 64
    """Steps over which gradients are compared."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("runs/algorithms")
    """Where the table (JSON) and the picture go."""


def main(arguments: Sequence[str]) -> int:
    """Compare, print the table, write table and picture."""
    options = tyro.cli(Options, args=list(arguments), prog="streamgrad bench algorithms")
    try:
        return _compare(options)
    except (SourceError, ValueError, TypeError) as error:
        print(f"streamgrad bench algorithms: {error}", file=sys.stderr)
        return 2


def _compare(options: Options) -> int:
    rows = _rows(options)
    import jax
    import numpy as np
    from rich.console import Console

    import streamgrad as sg

    console = Console()
    wiring = {} if options.density is None else {"wiring": sg.wiring.Sparse(density=options.density)}
    kind = sg.cells.cell(options.cell)
    if wiring and not sg.cells.has_links(kind):
        raise ValueError(f"{kind.__name__} has no links between its units: leave --density out.")
    named = {name: sg.algorithms.algorithm(name) for name in options.algorithms} or None
    with console.status("") as status:
        found = sg.compare(
            lambda key: kind(rows.shape[1], options.units, key=key, **wiring),
            named,
            np.nan_to_num(rows[:-1]),
            rows[1:],
            key=jax.random.key(0),
            rates=options.rates,
            seeds=options.seeds,
            steps=options.steps,
            progress=lambda what: status.update(what),
        )
    console.print(str(found), highlight=False, soft_wrap=True, markup=False)
    options.out.mkdir(parents=True, exist_ok=True)
    table = {"source": options.source, "jax": jax.__version__, **found.as_dict()}
    write_whole(options.out / "algorithms.json", json.dumps(table, indent=1) + "\n")
    console.print(f"wrote {options.out / 'algorithms.json'} and {found.figure(options.out / 'algorithms.png')}")
    return 0


def _rows(options: Options):
    """The rows, each column in units of its own spread so far and about its own mean so far; gaps are NaN."""
    import numpy as np

    source, series = open_source(options.source), SERIES.get(options.source)
    columns = options.columns or ((series.target,) if series else source.columns)
    for column in columns:
        if column not in source.columns:
            raise unknown_column(column, source.columns, source.name)
    parts, count = [], 0
    for part in source.read(columns):
        parts.append(part)
        count += len(part)
        if count >= options.rows:
            break
    rows = np.concatenate(parts)[: options.rows] if parts else np.zeros((0, len(columns)))
    seen = np.cumsum(np.isfinite(rows), axis=0)
    mean = np.nancumsum(rows, axis=0) / np.maximum(seen, 1)
    shifted = rows - mean
    spread = np.sqrt(np.nancumsum(shifted**2, axis=0) / np.maximum(seen, 1))
    return np.clip(shifted / np.where(spread > 0, spread, 1), -10, 10).astype(np.float32)
