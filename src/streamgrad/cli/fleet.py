"""`streamgrad fleet`: a forecaster for each key of a table, on one file that can be gone on with."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from streamgrad._base.files import write_whole
from streamgrad.cli import stream
from streamgrad.cli.stream import UsageError
from streamgrad.data import Source, SourceError

if TYPE_CHECKING:
    from streamgrad.fleet import Forecasters, Record, Summary


@dataclass(kw_only=True)
class Keyed:
    """The option that stands before all others."""

    key: Annotated[str, tyro.conf.arg(metavar="COLUMN")] = ""
    """Column of the keys, such as a sensor's or a customer's name."""


@dataclass(kw_only=True)
class Options(stream.Options, Keyed):
    """Learn to forecast a column of many streams in one table, a forecaster for each key, row by row.

    Each row is forecast before it is learned from. What is said of a key is, to the bit, what
    `streamgrad learn` says of a table of its rows alone. The same command goes on where the store
    stands, and a run that is killed at any moment goes on to the same bytes.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """CSV, TSV, Parquet, Arrow or JSON lines; - for standard input. Rows of all keys, in the order of
    time within each key."""
    target: Annotated[str, tyro.conf.arg(metavar="COLUMN")] = ""
    """Column to forecast."""
    outcome: Literal["number", "event", "count"] = "number"
    """What the target is: a number, an event (1 or 0) or a count (0, 1, 2, ...)."""
    time: Annotated[str | None, tyro.conf.arg(metavar="COLUMN")] = None
    """Column of times (ISO 8601 or seconds): order within each key is checked, calendar features made."""
    late: Literal["refuse", "skip"] = "refuse"
    """What to do with a row whose time is before its key's last one: skip leaves it out, and counts."""
    horizon: int = 1
    """Rows ahead to forecast, of the same key."""
    path: Annotated[int | None, tyro.conf.arg(metavar="ROWS")] = None
    """Instead of one horizon: how many of the key's next rows are all forecast."""
    period: Annotated[int | None, tyro.conf.arg(metavar="ROWS")] = None
    """Rows of a key in a season. Without it, it is looked for, for each key."""
    light: bool = False
    """The learner without nets, a fifth of the bytes a key: the same as --learner light."""
    store: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """SQLite file of all states and of the offset in the source. Default: fleet.db in the folder."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder for predictions, figures and picture. Default: runs/SOURCE-fleet."""
    resume: bool = False
    """Refuse to begin: go on with the store, which has to be there."""
    overwrite: bool = False
    """Start anew with a store that holds a run already, and lose that run."""
    slots: Annotated[int | None, tyro.conf.arg(metavar="KEYS")] = None
    """Keys in memory, the others wait in the store. Default: as many as 1 GiB holds."""
    commit_every: Annotated[int | None, tyro.conf.arg(metavar="ROWS")] = None
    """Rows between two commits. Default: 30 seconds, or ten times as long as a commit takes."""
    show: Annotated[int, tyro.conf.arg(metavar="KEYS")] = 5
    """Of the best and of the worst keys, how many the table has."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; the exit status is 0, 1 after bad input, or 130 after Ctrl-C."""
    return stream.run_command("fleet", Options, fleet, arguments, "the same command goes on from the last commit.")


def fleet(options: Options) -> int:
    """Do what the options ask. Raises the errors that `main` turns into sentences."""
    _check(options)
    source = stream.opened(options)
    _columns(options, source)
    folder = stream.folder_of(options, "fleet")
    store = stream.store_of(options.store, folder, options.source)
    if options.resume and not store.exists():
        raise UsageError(f"--resume goes on with a store, and there is no {store}: leave it out, or name the store.")
    if not store.exists() and not options.overwrite and (folder / "predictions.csv").exists():
        raise UsageError(
            f"{folder} holds a run already, and {store} is not there: name that run's store to go on with it, another "
            "folder with --out, or --overwrite, which loses it."
        )
    from streamgrad.fleet import Record

    try:
        store.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{store.parent} cannot be made ({os.strerror(error.errno or 0)}): name another --store."
        ) from None
    with _forecasters(options, store) as forecasters:
        try:
            record = Record(forecasters, source, options.key, folder, commit_every=options.commit_every)
        except ValueError as error:
            raise error if isinstance(error, SourceError) else UsageError(str(error)) from None
        if record.row:
            keys = f"{len(forecasters):,} key{'s' * (len(forecasters) != 1)}"
            print(f"Going on from row {record.row:,} with {keys} ({store}).", file=sys.stderr)
        ratio = "error over the last value's"
        status = stream.run(
            options,
            record,
            newest=lambda: {f"{len(forecasters):,} keys, {ratio}": record.ratio},
            finish=lambda ending, first: _finish(options, record, store, ending, first),
        )
        if status == 0:
            _nothing_to_forecast(options, record)
        return status


def _nothing_to_forecast(options: Options, record: Record) -> None:
    """Refuse a target without a value."""
    if all(figures["missing"] == figures["rows"] for _, figures in record.fleet.figures()):
        raise SourceError(
            f"{record.source.name}: column {options.target!r} has no value in any of the {record.row} rows; choose "
            "another --target."
        )


def _forecasters(options: Options, store: Path) -> Forecasters:
    """The forecasters of all keys."""
    from streamgrad.fleet import Forecasters

    return stream.make_forecaster(
        Forecasters,
        options,
        [options.target],
        period=options.period or None,
        store=store,
        slots=options.slots,
        late=options.late,
        anew=options.overwrite,
    )


def _finish(options: Options, record: Record, store: Path, ending: str, first: float | None) -> None:
    """Print the tables, and write figures and picture."""
    from rich.console import Console

    from streamgrad.fleet import Summary
    from streamgrad.forecast import JournalError, to_parquet

    fleet, console = record.fleet, Console()
    summary = Summary.of(fleet)
    _table(console, options, record, summary)
    _keys(console, options, summary)
    for line in _remarks(record, summary, first):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    written = ["fleet.png", "predictions.csv", "keys.csv", "metrics.jsonl", "summary.json"]
    try:
        summary.to_csv(record.folder / "keys.csv", fleet)
        _json(options, record, summary, ending)
        if options.predictions == "parquet":
            written.insert(1, to_parquet(record.folder, ["key"]).name)
        title = f"{options.target} of {record.source.name}, by {options.key}"
        summary.plot(fleet, record.folder / "fleet.png", title=title)
    except OSError as error:
        raise JournalError(
            f"the summary could not be written: {error.filename or record.folder} ({os.strerror(error.errno or 0)}); "
            "the store is whole: free some space, then give the same command again."
        ) from None
    print(f"Written to {record.folder}: {', '.join(written)}; states in {store}.")
    if ending != "end":
        print("The same command goes on from here.")


def _heading(summary: Summary) -> str:
    return {"nrmse": "nRMSE", "log_loss": "log loss"}[summary.measure]


def _table(console: Any, options: Options, record: Record, summary: Summary) -> None:
    """Errors over all keys."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    title = f"{options.target} of {record.source.name}, by {options.key}: {len(summary.keys):,} keys"
    table = Table(title=Text(title, style="table.title"), title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("forecaster", no_wrap=True)
    for column in (f"{_heading(summary)}, median over keys", "best at"):
        table.add_column(column, justify="right", no_wrap=True)
    median, won = summary.median(), summary.won()
    least = min((value for value in median.values() if value == value), default=None)
    for method in summary.methods:
        text = _figures(median[method])
        label = f"network ({record.fleet.settings['learner']})" if method == "network" else method
        table.add_row(
            label,
            f"[bold]{text}[/bold]" if median[method] == least else text,
            f"{won[method]:,} key{'s' * (won[method] != 1)}",
        )
    console.print(table)


def _keys(console: Any, options: Options, summary: Summary) -> None:
    """Errors of the best and of the worst keys."""
    import numpy as np
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    order = summary.order.tolist()
    if not order or options.show < 1:
        return
    table = Table(
        title=f"The best and the worst keys: {_heading(summary)} of the second half of their rows",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    few = len(order) <= 2 * options.show
    shown = order if few else [*order[: options.show], None, *order[-options.show :]]
    longest = max(len(str(summary.keys[k])) for k in shown if k is not None)
    table.add_column(options.key, overflow="fold", min_width=min(longest, 16))
    best = {int(np.nanargmin(summary.errors[k])) for k in shown if k is not None}
    methods = [j for j, name in enumerate(summary.methods) if name != "running mean" or j in best]
    for column in ("rows", *(summary.methods[j] for j in methods)):
        table.add_column(column, justify="right")
    for k in shown:
        if k is None:
            table.add_row("...")
            continue
        errors = summary.errors[k, methods].tolist()
        least = min(error for error in errors if error == error)
        cells = [f"[bold]{_figures(e)}[/bold]" if e == least else _figures(e) for e in errors]
        table.add_row(escape(str(summary.keys[k])), f"{summary.figures[k]['rows']:,}", *cells)
    console.print(table)


def _figures(value: float) -> str:
    from streamgrad.cli.summary import figures

    return figures(value)


def _remarks(record: Record, summary: Summary, first: float | None) -> list[str]:
    """How many rows there were, how fast they went, and which keys stand out."""
    fleet, parts = record.fleet, [f"{record.row:,} rows of {len(summary.keys):,} keys"]
    if unscored := len(summary.keys) - len(summary.order):
        parts.append(f"{unscored:,} keys without a scored row")
    if missing := sum(figures["missing"] for figures in summary.figures):
        parts.append(f"{missing:,} targets missing (not learned, not scored)")
    if fleet.late:
        parts.append(f"{fleet.late:,} rows late, and left out")
    parts.append(f"{fleet.bytes:,} bytes a key")
    if first is not None:
        parts.append(f"first forecast {first:.1f} s after the start")
    if record.speed is not None:
        parts.append(f"then {record.speed:,.0f} rows/s")
    lines = [f"{'; '.join(parts)}."]
    changed = [key for key, figures in zip(summary.keys, summary.figures) if figures["changes"]]
    if changed:
        some = ", ".join(map(str, changed[:5])) + (", ..." if len(changed) > 5 else "")
        lines.append(f"{len(changed):,} keys became harder to forecast at some row ({some}): keys.csv counts.")
    warned = [(key, figures["warnings"]) for key, figures in zip(summary.keys, summary.figures) if figures["warnings"]]
    return lines + [f"Warning of key {key}: {warning}" for key, some in warned[:10] for warning in some]


def _json(options: Options, record: Record, summary: Summary, ending: str) -> None:
    from streamgrad.forecast import plain

    named = lambda k: {"key": summary.keys[k], **dict(zip(summary.methods, summary.errors[k].tolist()))}
    order, show = summary.order.tolist(), options.show
    found = {
        "ending": ending,
        "source": record.source.name,
        "key": options.key,
        "target": options.target,
        "rows": record.row,
        "keys": len(summary.keys),
        "scored": len(order),
        "late": record.fleet.late,
        "measure": summary.measure,
        "median": summary.median(),
        "best_at": summary.won(),
        "best": [named(k) for k in order[:show]],
        "worst": [named(k) for k in order[::-1][:show]],
        "config": record.fleet.settings,
    }
    write_whole(record.folder / "summary.json", json.dumps(plain(found), indent=2) + "\n")


def _check(options: Options) -> None:
    """Refuse numbers that cannot be meant, and options that do not go together."""
    stream.check(options, {"slots": 1, "commit_every": 1, "show": 0})
    if options.continues and options.source != "-":
        raise UsageError("--continues says that standard input brings only the rows after the store's: it goes with -.")
    if options.continues and options.overwrite:
        raise UsageError("--continues goes on with a run and --overwrite loses it: give one of them.")
    if options.late == "skip" and options.time is None:
        raise UsageError("--late skip needs times to know a late row by: give --time COLUMN.")


def _columns(options: Options, source: Source) -> None:
    """Refuse a missing key or target by name."""
    for option, value, what in (
        ("--key", options.key, "has the keys"),
        ("--target", options.target, "is to be forecast"),
    ):
        if not value:
            raise stream.which_column(source, option, what)
        source.check([value])
