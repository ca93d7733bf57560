"""What is said and written when a run ends: the table, who wins, the picture, where things lie."""

from __future__ import annotations

import json
import math
import os
import sys
from typing import TYPE_CHECKING, Any

from streamgrad._base.files import write_whole

if TYPE_CHECKING:
    from rich.console import Console

    from streamgrad.forecast import Record


def finish(record: Record, ending: str, predictions: str, first: float | None) -> None:
    """Print the summary of a run and write `summary.json`, the picture and, if asked, Parquet."""
    from rich.console import Console

    from streamgrad.forecast import JournalError

    forecaster, console = record.forecaster, Console()
    found = forecaster.scores()
    each = [found] if forecaster.alone else found
    for name, target, scores in zip(map(str, forecaster.columns.targets), forecaster.targets, each, strict=True):
        _table(console, record, name, target, scores)
        if "steps" in scores:
            _steps(console, scores)
        console.print(scores["verdict"], style="bold", highlight=False, soft_wrap=True)
        for line in _remarks(target, scores):
            console.print(line, highlight=False, soft_wrap=True)
    _changes(console, record)
    console.print(_counts(record, each, first), highlight=False, soft_wrap=True)
    for line in _columns(record):
        print(line, file=sys.stderr)
    try:
        _summary(record, ending, found)
        written = ["forecast.png", "predictions.csv", "metrics.jsonl", "summary.json", "checkpoints/"]
        if predictions == "parquet":
            from streamgrad.forecast import to_parquet

            written.insert(1, to_parquet(record.folder, record.texts).name)
        _picture(record)
    except OSError as error:
        raise JournalError(
            f"the summary could not be written: {error.filename or record.folder} "
            f"({os.strerror(error.errno or 0)}); the checkpoint is there: free some space, then "
            "go on with --resume."
        ) from None
    print(f"Written to {record.folder}: {', '.join(written)}.")
    if ending != "end":
        print("The same command with --resume goes on from here.")


def _table(console: Console, record: Record, name: str, target: Any, scores: dict[str, Any]) -> None:
    """Errors of all methods; the experts of the network are indented, with their weights."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    forecaster = record.forecaster
    table = Table(
        title=Text(f"{name} of {record.source.name}, {_ahead(forecaster)}", style="table.title"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("forecaster", no_wrap=True)
    for column in (*target.measures.values(), *(["weight"] if target.own else [])):
        table.add_column(column, justify="right", no_wrap=True)
    best = {part: _best(part, scores[part]) for part in target.measures}
    for method in target.methods:
        own = method in target.own
        label = f"  {method}" if own else method
        if method == "network":
            label += f" ({forecaster.learner})"
        cells = []
        for part in target.measures:
            error = scores[part][method]
            text = figures(error)
            cells.append(f"[bold]{text}[/bold]" if error == best[part] else text)
        weight = [figures(scores["weights"][method], 2)] if own else [""] if target.own else []
        table.add_row(label, *cells, *weight)
    console.print(table)


def _ahead(forecaster: Any) -> str:
    """How far ahead, in words."""
    if forecaster.path is not None:
        return f"the first of the next {forecaster.path} rows"
    return f"{forecaster.horizon} row{'s' if forecaster.horizon > 1 else ''} ahead"


def _steps(console: Console, scores: dict[str, Any]) -> None:
    """Errors of the steps of a path."""
    from rich import box
    from rich.table import Table

    table = Table(title="Steps of the path: nRMSE of the second half", title_justify="left", box=box.SIMPLE_HEAD)
    methods = list(next(iter(scores["steps"].values()))["nrmse"])
    for column in ("step", *methods):
        table.add_column(column, justify="right", no_wrap=True)
    for step, found in scores["steps"].items():
        table.add_row(str(step), *(figures(found["nrmse_half"][method]) for method in methods))
    console.print(table)


def _best(part: str, errors: dict[str, float]) -> float:
    """The least of errors, the largest of accuracies."""
    return (max if part.startswith("accuracy") else min)((e for e in errors.values() if e == e), default=math.nan)


def figures(value: float, digits: int = 4) -> str:
    """A number with so many significant digits, or a dash."""
    if value != value:
        return "–"
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    places = digits - 1 - (math.floor(math.log10(abs(value))) if value else 0)
    return f"{value:.{max(0, places)}f}"


def _remarks(target: Any, scores: dict[str, Any]) -> list[str]:
    """On the intervals and on methods that never had a forecast."""
    lines = []
    found = [part for part in scores["intervals"] if part["coverage"] == part["coverage"]]
    if found:
        parts = [f"{100 * part['coverage']:.1f}% of truths in the {100 * part['level']:g}% interval" for part in found]
        lines.append(f"{'; '.join(parts)}.")
    return lines + target.remarks()


def _changes(console: Console, record: Record) -> None:
    """At which rows streams have changed."""
    forecaster = record.forecaster
    for name, history in zip(map(str, forecaster.columns.targets), forecaster.history, strict=True):
        if changes := history.changes:
            newest = ", ".join(f"{row:,}" for row in changes[-5:])
            more = f" ({len(changes)} times, the newest)" if len(changes) > 5 else ""
            console.print(
                f"{name} became harder to forecast around row {newest}{more}: the stream has changed.",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )


def _counts(record: Record, each: list[dict[str, Any]], first: float | None) -> str:
    """How many rows there were, and how fast they went."""
    forecaster, missing = record.forecaster, record.forecaster.missing
    targets = len(forecaster.columns.targets)
    parts = [f"{record.row:,} rows, {each[0]['rows']:,} scored"]
    if each[0]["half"]:
        parts[0] += f" (the second half from scored row {each[0]['half']:,} on)"
    if count := int(missing[:targets].sum()):
        parts.append(f"{count:,} targets missing (not learned, not scored)")
    if count := int(missing[targets : targets + len(forecaster.columns.features)].sum()):
        parts.append(f"{count:,} feature values missing (the last seen is used)")
    if forecaster.columns.time is not None:
        parts += forecaster.clock.remarks()
    if first is not None:
        parts.append(f"first forecast {first:.1f} s after the start")
    if record.speed is not None:
        parts.append(f"then {record.speed:,.0f} rows/s")
    return "; ".join(parts) + "."


def _columns(record: Record) -> list[str]:
    """On columns that tell nothing."""
    columns, targets = record.forecaster.columns, len(record.forecaster.columns.targets)
    varied = record.forecaster.targets[0].varied[targets : targets + len(columns.features)]
    still = [repr(name) for name, moved in zip(columns.features, varied.tolist()) if not moved and record.row > 1]
    notes = record.extremes.notes()
    if not still:
        return notes
    return [*notes, f"Nothing varied in {', '.join(still)}: such a feature tells the forecaster nothing."]


def _summary(record: Record, ending: str, found: Any) -> None:
    from streamgrad.forecast import plain

    forecaster = record.forecaster
    summary: dict[str, Any] = {
        "ending": ending,
        "source": record.source.name,
        "target": list(forecaster.columns.targets) if not forecaster.alone else forecaster.columns.targets[0],
        "rows": record.row,
        "missing": dict(zip(map(str, forecaster.columns.names), forecaster.missing.tolist())),
        "changes": [history.changes for history in forecaster.history],
    }
    if forecaster.alone:
        summary |= {"scored": found["rows"], **{k: v for k, v in found.items() if k != "rows"}}
    else:
        summary["targets"] = dict(zip(map(str, forecaster.columns.targets), found))
    summary["config"] = dict(record.config)
    write_whole(record.folder / "summary.json", json.dumps(plain(summary), indent=2) + "\n")


def _picture(record: Record) -> None:
    forecaster = record.forecaster
    title = f"{forecaster.columns.targets[0]} of {record.source.name}, {_ahead(forecaster)}"
    forecaster.plot(record.folder / "forecast.png", title=title if forecaster.alone else record.source.name)
