"""What is said and written when a run ends: the table, who wins, the picture, where things lie."""

from __future__ import annotations

import json
import math
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamgrad.cli.stream import Run

TIE = 0.002  # a smaller relative difference is called a tie


def finish(run: Run, ending: str, predictions: str) -> None:
    """Print the summary of a run and write `summary.json`, the picture and, if asked, Parquet."""
    nrmse, mae = run.scores.nrmse(), run.scores.mae()
    words = verdict(nrmse)
    _table(run, nrmse, mae, words)
    constant = [column for column in run.constant_columns() if column != run.columns[0]]
    if constant:
        names = ", ".join(repr(column) for column in constant)
        print(f"Nothing varied in {names}: such a feature tells the forecaster nothing.", file=sys.stderr)
    summary: dict[str, Any] = {
        "ending": ending,
        "source": run.source.name,
        "target": run.columns[0],
        "rows": run.row,
        "scored": run.scores.rows,
        "missing": dict(zip(run.columns, run.missing.tolist())),
        "skipped_updates": run.forecaster.skipped,
        "nrmse": {k: v if math.isfinite(v) else None for k, v in nrmse.items()},
        "mae": {k: v if math.isfinite(v) else None for k, v in mae.items()},
        "verdict": words,
        "config": dict(run.config),
    }
    try:
        path = run.folder / "summary.json"
        temporary = path.with_suffix(".json.tmp")
        temporary.write_text(json.dumps(summary, indent=2) + "\n")
        os.replace(temporary, path)
        written = ["predictions.csv", "metrics.jsonl", "summary.json", "checkpoints/"]
        if predictions == "parquet":
            from streamgrad.cli.journal import to_parquet

            written.insert(0, to_parquet(run.folder).name)
        if run.row:
            from streamgrad.report.forecast import plot_run

            title = f"{run.columns[0]} of {run.source.name}, forecast {run.encoder.horizon} ahead"
            written.insert(0, plot_run(run.folder, title=title).name)
    except OSError as error:
        from streamgrad.cli.journal import JournalError

        raise JournalError(
            f"the summary could not be written to {run.folder} "
            f"({os.strerror(error.errno or 0)}); the checkpoint is there: free some space, then "
            "go on with --resume."
        ) from None
    print(f"Written to {run.folder}: {', '.join(written)}.")
    if ending != "end":
        print("The same command with --resume goes on from here.")


def verdict(nrmse: dict[str, float]) -> str:
    """Who wins, in a sentence; `nrmse` has the network first and then what it has to beat."""
    network, *_ = nrmse
    if not all(math.isfinite(error) for error in nrmse.values()):
        return "No row could be scored yet by all methods, so nobody wins."
    floors = {name: error for name, error in nrmse.items() if name != network}
    best = min(floors, key=lambda name: floors[name])
    mine, theirs = nrmse[network], floors[best]
    if theirs == mine == 0:
        return "Every forecast was perfect: a tie."
    difference = abs(theirs - mine) / max(theirs, mine)
    amount = f"{100 * difference:.1f}%"
    if difference < TIE:
        return f"A tie: the {network} and {best} differ by {amount} in nRMSE."
    if mine < theirs:
        names = list(floors)
        every = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
        least = f"its nRMSE is {amount} below the best of them, {best}"
        return f"The {network} wins over {every}: {least}."
    losers = [name for name, error in floors.items() if error > mine]
    rest = f" The {network} does beat {' and '.join(losers)}." if losers else ""
    return f"{best[0].upper() + best[1:]} wins: its nRMSE is {amount} below the {network}'s.{rest}"


def _table(run: Run, nrmse: dict[str, float], mae: dict[str, float], words: str) -> None:
    from rich.console import Console
    from rich.table import Table

    config = run.config
    name = f"{config['cell'].upper()} {config['units']}, {config['algorithm']}, RLS readout"
    ahead = f"{run.encoder.horizon} row{'s' if run.encoder.horizon > 1 else ''} ahead"
    table = Table(title=f"{run.columns[0]} of {run.source.name}, {ahead}", title_justify="left")
    table.add_column("forecaster")
    table.add_column("nRMSE", justify="right")
    table.add_column("MAE", justify="right")
    lowest = min(nrmse.values(), default=math.nan)
    for method, error in nrmse.items():
        label = f"network ({name})" if method == "network" else method
        if method == "RLS on lags":
            label += f" ({config['lags']}, forgetting {run.floors.forgetting})"
        style = "bold" if error == lowest else ""
        table.add_row(label, f"{error:.5f}", f"{mae[method]:.5g}", style=style)
    console = Console()
    console.print(table)
    console.print(words, style="bold", highlight=False, soft_wrap=True)
    missing = int(run.missing[0])
    parts = [f"{run.row:,} rows, {run.scores.rows:,} scored"]
    if missing:
        parts.append(f"{missing:,} targets missing (not learned, not scored)")
    if features := int(run.missing[1:].sum()):
        parts.append(f"{features:,} feature values missing (the last seen is used)")
    if run.forecaster.skipped:
        parts.append(f"{run.forecaster.skipped:,} updates skipped, as they were not finite")
    if run.first_forecast is not None:
        parts.append(f"first forecast {run.first_forecast:.1f} s after the start")
    if run.speed is not None:
        parts.append(f"then {run.speed:,.0f} rows/s")
    console.print("; ".join(parts) + ".", highlight=False, soft_wrap=True)
