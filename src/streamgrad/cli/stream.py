"""What the commands that learn from a stream share: options, what is refused, one pass, the exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from streamgrad.data import Source, SourceError, open_source

#: What runs write into their folder, beside states.
FILES = ("predictions.csv", "predictions.parquet", "metrics.jsonl", "summary.json", "keys.csv")


class UsageError(ValueError):
    """An option that cannot be meant. The message says what came and what was expected."""


@dataclass(kw_only=True)
class Options:
    """Options of every command that forecasts columns of a stream."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """CSV, TSV, Parquet, Arrow or JSON lines; - for standard input."""
    target: Any = ""
    """Columns to forecast."""
    outcome: Any = "number"
    """What the target is."""
    features: Annotated[tuple[str, ...], tyro.conf.arg(metavar="COLUMN ...")] = ()
    """Other columns to learn from."""
    categorical: Annotated[tuple[str, ...], tyro.conf.arg(metavar="COLUMN ...")] = ()
    """Columns of texts or codes."""
    time: Annotated[str | None, tyro.conf.arg(metavar="COLUMN")] = None
    """Column of times (ISO 8601 or seconds): order and gaps are checked, calendar features made."""
    horizon: int = 1
    """Rows ahead to forecast."""
    path: Annotated[int | None, tyro.conf.arg(metavar="ROWS")] = None
    """Instead of one horizon: how many of the next rows are all forecast."""
    period: Annotated[int | None, tyro.conf.arg(metavar="ROWS")] = None
    """Rows in a season (24 for hourly rows). Without it, it is looked for."""
    levels: Annotated[tuple[float, ...] | None, tyro.conf.arg(metavar="SHARE ...")] = None
    """Of the intervals (.8 .95)."""
    learner: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """mixture (the default), light (without nets), rls, reservoir, columns, fast-columns, adam, kalman
    or frozen."""
    light: bool = False
    """The learner without nets: the same as --learner light."""
    beside: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """Learners to run beside it and show in the table, such as frozen adam."""
    missing: Annotated[tuple[str, ...], tyro.conf.arg(metavar="VALUE ...")] = ()
    """Values that mean "missing" in this source, besides the usual ones, such as -200."""
    skip_lines: int = 0
    """Lines before the header."""
    comment: Annotated[tuple[str, ...], tyro.conf.arg(metavar="SIGN ...")] = ()
    """Lines that begin with one of these are no rows."""
    seed: int = 0
    """Seed of the initial weights."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder of the run."""
    resume: bool = False
    """Go on with the run that is there."""
    overwrite: bool = False
    """Start anew in a folder that holds a run already, and lose that run."""
    continues: bool = False
    """On going on from standard input: it brings the rows after those that were learned, not all again."""
    predictions: Literal["csv", "parquet"] = "csv"
    """Form of the predictions; parquet is made from the CSV when the run ends."""


def run_command(name: str, kind: Any, do: Callable[[Any], int], arguments: Sequence[str], stopped: str) -> int:
    """Run a command; the exit status is 0, 1 after bad input, or 130 after Ctrl-C, when `stopped` is said."""
    # The loops of one stream are too small for two threads, which take twice as long.
    os.environ.setdefault("NPROC", "1")
    pairs_off = (tyro.conf.FlagCreatePairsOff,)  # no --no-resume beside --resume
    options = tyro.cli(kind, prog=f"streamgrad {name}", args=list(arguments), config=pairs_off)
    try:
        return do(options)
    except KeyboardInterrupt:
        print(f"streamgrad {name}: stopped; {stopped}", file=sys.stderr)
        return 130
    except Exception as error:
        if not isinstance(error, (SourceError, UsageError, *errors())):
            raise
        print(f"streamgrad {name}: {error}", file=sys.stderr)
        return 1


def errors() -> tuple[type[Exception], ...]:
    """Errors whose message is a sentence for the user. Imported late: a mistyped option needs no JAX."""
    from streamgrad.checkpoint import CheckpointError
    from streamgrad.fleet import FleetError
    from streamgrad.forecast import JournalError, RowError

    return CheckpointError, FleetError, JournalError, RowError


def check(options: Options, least: Mapping[str, int]) -> None:
    """Refuse numbers that cannot be meant, and options that do not go together. `least`: of further numbers."""
    for name, low in {"horizon": 1, "path": 1, "skip_lines": 0, **least}.items():
        value, option = getattr(options, name), f"--{name.replace('_', '-')}"
        if value is not None and value < low:
            raise UsageError(f"{option} {value}: it has to be a whole number of at least {low}.")
    if options.period is not None and (options.period < 0 or options.period == 1):
        raise UsageError(f"--period {options.period}: it has to be at least 2 rows, or 0 for none.")
    if options.resume and options.overwrite:
        raise UsageError("--resume goes on with a run and --overwrite loses it: give one of them.")
    if options.light and options.learner not in (None, "light"):
        raise UsageError(f"--light is --learner light, and --learner {options.learner} was given: give one of them.")


def opened(options: Options) -> Source:
    """The source that the options name."""
    return open_source(
        options.source, missing=options.missing, skip_lines=options.skip_lines, comment=options.comment or None
    )


def which_column(source: Source, option: str, what: str) -> UsageError:
    """The error for a column that was not named, with those that there are."""
    names = ", ".join(source.columns[:20])
    note = f" {source.note}" if source.note else ""
    return UsageError(f"which column {what}? Say {option} COLUMN; {source.name} has {names}.{note}")


def folder_of(options: Options, ending: str) -> Path:
    """The folder of the run. Raises `UsageError` where there can be none."""
    name = "stdin" if options.source == "-" else Path(options.source).name.lstrip(".").partition(".")[0]
    folder = options.out or Path("runs") / f"{name}-{ending}"
    refuse_file(folder, "--out")
    if options.source != "-" and (written := _written(Path(options.source), folder)):
        raise UsageError(
            f"{options.source} is {written} of the folder {folder}, which this run would write: name another --out."
        )
    return folder


def _written(path: Path, folder: Path) -> str | None:
    """The name of a file of the run that the path leads to."""
    return next((name for name in FILES if path.absolute().resolve() == (folder / name).absolute().resolve()), None)


def store_of(store: Path | None, folder: Path, source: str) -> Path:
    """The store of a fleet. Raises `UsageError` where there can be none."""
    store = store or folder / "fleet.db"
    refuse_file(store.parent, "--store")
    if store.is_dir():
        raise UsageError(f"--store {store} is a folder, and a file was expected: name one, as {store / 'fleet.db'}.")
    if _written(store, folder) or (source != "-" and store.exists() and os.path.samefile(store, source)):
        raise UsageError(f"--store {store} is the source, or a file that the run writes: name another.")
    return store


def refuse_file(folder: Path, option: str) -> None:
    """Raise `UsageError` where a file stands where the folder, or one around it, has to be."""
    for file in (folder, *folder.parents):
        if file.exists() and not file.is_dir():
            raise UsageError(
                f"{option} {folder}: {file} is a file, and a folder is needed there: name another with {option}."
            )


def make_forecaster(make: Callable[..., Any], options: Options, targets: Sequence[str], **settings: Any) -> Any:
    """What forecasts as the options ask: `make` with their settings, and those given."""
    features = tuple(dict.fromkeys(options.features))
    if both := [name for name in features if name in targets]:
        print(
            f"Left out of --features: {', '.join(both)}. A target is read anyway: its values so far are what it is "
            "forecast from.",
            file=sys.stderr,
        )
    given: dict[str, Any] = {
        "features": tuple(name for name in features if name not in targets),
        "learner": options.learner or ("light" if options.light else "mixture"),
    }
    for name in ["outcome", "categorical", "time", "horizon", "path", "levels", "beside", "seed"]:
        given[name] = getattr(options, name)
    try:
        return make(targets[0] if len(targets) == 1 else tuple(targets), **given | settings)
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from None


def run(
    options: Options,
    record: Any,
    *,
    newest: Callable[[], dict[str, float]],
    finish: Callable[[str, float | None], None],
    notes: Callable[[], Sequence[str]] = tuple,
) -> int:
    """Learn until the source ends, with progress, say how it went, and return the exit status.

    - `record`: the pass over a source; `newest`: errors for the bar; `notes`: lines to say now;
    - `finish`: what is said and written at the end, from how it ended and when the first forecast was made."""
    from streamgrad.cli.progress import Progress, seconds_since_start
    from streamgrad.cli.stop import Stop

    source, before, first = record.source, record.row, []

    def seen(record: Any) -> None:
        if not first and record.first is not None:
            first.append(seconds_since_start())
        for line in notes():
            progress.say(line)
        progress.update(record.row, source.fraction(), newest())

    ended, error = True, None
    with Stop() as stop, Progress(source.name, before) as progress:
        try:
            replay = not (options.continues and options.source == "-")
            ended = record(replay=replay, seen=seen, stop=lambda: stop.asked)
        except (SourceError, *errors()) as bad:  # what came before it is learned and saved
            ended, error = False, bad
    learned = record.row > before or (record.row and error is None)  # nothing, where the source was refused
    if learned and type(error).__name__ not in ("JournalError", "FleetError"):
        finish("end" if ended else "stopped" if error is None else "bad input", first[0] if first else None)
    if error is not None:
        raise error
    if record.row == 0 and ended:
        raise SourceError(f"{source.name} has a header but no rows: there is nothing to learn from.")
    return 0 if ended else 130
