"""`streamgrad learn`: learn a forecaster from a stream of rows, in one pass."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from streamgrad.data import SERIES, Source, SourceError, open_source

if TYPE_CHECKING:
    from streamgrad.forecast import Forecaster, Record

HEALTH = 50_000  # rows between two looks at whether anything grows out of bounds


class UsageError(ValueError):
    """An option that cannot be meant. The message says what came and what was expected."""


@dataclass
class Options:
    """Learn to forecast columns of a stream, row by row, and say how well it goes.

    Each row is forecast before it is learned from: a forecast for h rows ahead is scored and
    learned from when that row has arrived, never earlier. Memory does not grow with the stream.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """CSV, TSV, Parquet, Arrow or JSON lines; - for standard input; or a bundled series
    (pedestrians, seattle-temps, sf-temps, seattle-weather, co2, sunspots, elnino)."""
    target: Annotated[tuple[str, ...], tyro.conf.arg(metavar="COLUMN ...")] = ()
    """Columns to forecast. A bundled series knows its own."""
    outcome: Literal["number", "event", "count", "class"] = "number"
    """What the target is: a number, an event (1 or 0), a count (0, 1, 2, ...) or a class (texts or
    numbers, up to 16). Of these probabilities or expected counts are forecast, of one column."""
    features: Annotated[tuple[str, ...], tyro.conf.arg(metavar="COLUMN ...")] = ()
    """Other columns to learn from."""
    known: Annotated[tuple[str, ...], tyro.conf.arg(metavar="COLUMN ...")] = ()
    """Columns that are known in advance, such as a price or a plan: read HORIZON rows ahead."""
    categorical: Annotated[tuple[str, ...], tyro.conf.arg(metavar="COLUMN ...")] = ()
    """Columns of texts or codes."""
    time: Annotated[str | None, tyro.conf.arg(metavar="COLUMN")] = None
    """Column of times (ISO 8601 or seconds): order and gaps are checked, calendar features made."""
    horizon: int = 1
    """Rows ahead to forecast."""
    path: Annotated[int | None, tyro.conf.arg(metavar="ROWS")] = None
    """Instead of one horizon: how many of the next rows are all forecast."""
    period: Annotated[int | None, tyro.conf.arg(metavar="ROWS")] = None
    """Rows in a season (24 for hourly rows). Without it, it is looked for, and no seasonal last
    value stands in the table; 0: likewise for a series that knows its own."""
    levels: Annotated[tuple[float, ...] | None, tyro.conf.arg(metavar="SHARE ...")] = None
    """Of the intervals (.8 .95)."""
    learner: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """mixture (the default), light (without nets), one of the experts alone (rls, reservoir,
    columns, fast-columns), or one net (--cell) under adam, kalman, or frozen."""
    light: bool = False
    """The learner without nets, for streams that are faster: the same as --learner light."""
    beside: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """Learners to run beside it and show in the table, such as frozen adam."""
    cell: str | None = None
    """The net's cell: lstm-columns (the default), lru, gru, lstm, vanilla, leaky, indrnn, mingru or
    rtu. This and the options up to --forgetting choose --learner adam where none is named."""
    units: int | None = None
    """Units of the net (8)."""
    algorithm: str | None = None
    """How the net learns through time: snap-1 (the default), snap-2, ..., rtrl, uoro, rflo, frozen, ..."""
    lags: int | None = None
    """Newest changes of the target that the net's readout sees (32)."""
    learning_rate: float | None = None
    """Of Adam (0.001)."""
    forgetting: float | None = None
    """Of the net's readout (0.9995): a row's weight falls by this factor with each row."""
    missing: Annotated[tuple[str, ...], tyro.conf.arg(metavar="VALUE ...")] = ()
    """Values that mean "missing" in this source, besides the usual ones, such as -200."""
    skip_lines: int = 0
    """Lines before the header."""
    comment: Annotated[tuple[str, ...], tyro.conf.arg(metavar="SIGN ...")] = ()
    """Lines that begin with one of these are no rows."""
    seed: int = 0
    """Seed of the initial weights."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder for predictions, metrics, picture and checkpoints. Default: runs/SOURCE-hHORIZON."""
    resume: bool = False
    """Go on from the newest good checkpoint in the folder."""
    overwrite: bool = False
    """Start anew in a folder that holds a run already, and lose that run."""
    continues: bool = False
    """On resuming from standard input: it brings the rows after the checkpoint, not all again."""
    predictions: Literal["csv", "parquet"] = "csv"
    """Form of the predictions; parquet is made from the CSV when the run ends."""
    log_every: int = 200
    """Rows between two lines of metrics."""
    checkpoint_every: int = 5000
    """Rows between two checkpoints (also after 30 seconds on a slow stream)."""
    keep: int = 3
    """Checkpoints kept."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; the exit status is 0, 1 after bad input, or 130 after Ctrl-C."""
    # The loops of one stream are too small for two threads, which take twice as long.
    os.environ.setdefault("NPROC", "1")
    pairs_off = (tyro.conf.FlagCreatePairsOff,)  # no --no-resume beside --resume
    options = tyro.cli(Options, prog="streamgrad learn", args=list(arguments), config=pairs_off)
    try:
        return learn(options)
    except KeyboardInterrupt:
        print("streamgrad learn: stopped; --resume goes on from the checkpoint.", file=sys.stderr)
        return 130
    except Exception as error:
        if not isinstance(error, (SourceError, UsageError, *_errors())):
            raise
        print(f"streamgrad learn: {error}", file=sys.stderr)
        return 1


def _errors() -> tuple[type[Exception], ...]:
    """Errors whose message is a sentence for the user. Imported late: a mistyped option needs no JAX."""
    from streamgrad.checkpoint import CheckpointError
    from streamgrad.forecast import JournalError, RowError

    return CheckpointError, JournalError, RowError


def learn(options: Options) -> int:
    """Do what the options ask. Raises the errors that `main` turns into sentences."""
    _check(options)
    source = open_source(
        options.source, missing=options.missing, skip_lines=options.skip_lines, comment=options.comment or None
    )
    targets = _targets(options, source)
    series = SERIES.get(options.source)
    period = options.period if options.period is not None else series.period if series else None
    stem = "stdin" if options.source == "-" else Path(options.source).name.partition(".")[0]
    folder = options.out or Path("runs") / f"{stem}-h{options.horizon}"
    if not options.resume and not options.overwrite and any((folder / "checkpoints").glob("step-*")):
        raise UsageError(
            f"{folder} holds a run already: --resume goes on with it, --overwrite starts anew and "
            "loses it, and --out names another folder."
        )
    record = _record(options, source, targets, period or None, folder)
    if options.resume:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said below
            saved = record.resume()
        for path in saved.damaged:
            print(f"The checkpoint {path} is damaged and is not used.", file=sys.stderr)
        print(f"Going on from row {record.row:,} ({saved.path}).", file=sys.stderr)
    elif options.overwrite:
        _clear(record.checkpoints)
    return _run(options, record)


def _record(options: Options, source: Source, targets: tuple[str, ...], period: int | None, folder: Path) -> Record:
    """The forecaster and its files."""
    from streamgrad.forecast import Forecaster, Net, Record

    names = "cell units algorithm lags learning_rate forgetting"
    own = {name: getattr(options, name) for name in names.split() if getattr(options, name) is not None}
    learner = options.learner or ("light" if options.light else "adam" if own else "mixture")
    try:
        forecaster = Forecaster(
            targets[0] if len(targets) == 1 else targets,
            outcome=options.outcome,
            features=tuple(f for f in dict.fromkeys(options.features) if f not in targets),
            known=options.known,
            categorical=options.categorical,
            time=options.time,
            horizon=options.horizon,
            path=options.path,
            period=period,
            levels=options.levels,
            learner=learner,
            beside=options.beside,
            net=Net(**own) if own else None,
            seed=options.seed,
        )
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from None
    every = {name: getattr(options, name) for name in ("log_every", "checkpoint_every", "keep")}
    return Record(forecaster, source, folder, **every)


def _run(options: Options, record: Record) -> int:
    """Learn until the source ends, with progress, and say how it went."""
    from streamgrad.cli.progress import Progress, seconds_since_start
    from streamgrad.cli.stop import Stop
    from streamgrad.cli.summary import finish

    forecaster, source = record.forecaster, record.source
    replay = not (options.continues and options.source == "-")
    said: set[str] = set()
    first: list[float] = []
    before = record.row

    def seen(record: Record) -> None:
        nonlocal before
        if not first and record.first is not None:
            first.append(seconds_since_start())
        if record.row // HEALTH > before // HEALTH:
            for warning in forecaster.warnings():
                if warning not in said:
                    said.add(warning)
                    progress.say(f"Warning at row {record.row:,}: {warning}")
        before = record.row
        progress.update(record.row, source.fraction(), _newest(forecaster))

    ended, error = True, None
    with Stop() as stop, Progress(source.name, record.row) as progress:
        try:
            ended = record(replay=replay, seen=seen, stop=lambda: stop.asked)
        except (SourceError, *_errors()) as bad:  # what came before it is learned and saved
            ended, error = False, bad
    ending = "end" if ended else "bad input" if error is not None else "stopped"
    if record.row and not (error is not None and type(error).__name__ == "JournalError"):
        finish(record, ending, options.predictions, first[0] if first else None)
    if error is not None:
        raise error
    if record.row == 0 and ended:
        raise SourceError(f"{source.name} has a header but no rows: there is nothing to learn from.")
    if ended:
        _nothing_to_forecast(record)
    return 0 if ended else 130


def _newest(forecaster: Forecaster) -> dict[str, float]:
    """Errors for the progress bar: those so far of the network and of the best floor, of the first target."""
    target = forecaster.targets[0]
    measure, heading = next(iter(target.measures.items()))
    errors = {name: error for name, error in getattr(target.scores, measure)().items() if name not in target.own}
    network = errors.pop("network")
    best = min(errors, key=lambda name: errors[name])
    return {heading: network, best: errors[best]}


def _check(options: Options) -> None:
    """Refuse numbers that cannot be meant."""
    least = {"horizon": 1, "units": 1, "lags": 1, "log_every": 1, "checkpoint_every": 1, "keep": 1, "skip_lines": 0}
    for name, low in least.items():
        value, option = getattr(options, name), f"--{name.replace('_', '-')}"
        if value is not None and value < low:
            raise UsageError(f"{option} {value}: it has to be a whole number of at least {low}.")
    if options.period is not None and (options.period < 0 or options.period == 1):
        raise UsageError(f"--period {options.period}: it has to be at least 2 rows, or 0 for none.")
    if options.forgetting is not None and not 0 < options.forgetting <= 1:
        raise UsageError(f"--forgetting {options.forgetting}: it has to be above 0 and at most 1.")
    if options.learning_rate is not None and not 0 <= options.learning_rate < float("inf"):
        raise UsageError(f"--learning-rate {options.learning_rate}: it has to be at least 0.")
    if options.resume and options.overwrite:
        raise UsageError("--resume goes on with a run and --overwrite loses it: give one of them.")
    if options.continues and (options.source != "-" or not options.resume):
        raise UsageError(
            "--continues says that standard input brings only the rows after the checkpoint: it goes with - and "
            "--resume."
        )
    if options.continues and options.known:
        raise UsageError("--continues brings rows after the checkpoint, and --known needs those before it: give one.")
    if options.light and options.learner not in (None, "light"):
        raise UsageError(f"--light is --learner light, and --learner {options.learner} was given: give one of them.")
    if options.known and options.source == "-":
        raise UsageError(
            "--known columns are read ahead, and standard input brings no row before its time: use a file."
        )


def _targets(options: Options, source: Source) -> tuple[str, ...]:
    """The targets; a bundled series knows its own."""
    if options.target:
        return tuple(dict.fromkeys(options.target))
    if options.source in SERIES:
        return (SERIES[options.source].target,)
    names = ", ".join(source.columns[:20])
    raise UsageError(f"which column is to be forecast? Say --target COLUMN; {source.name} has {names}.")


def _clear(checkpoints: Path) -> None:
    """Remove the checkpoints of the run that is overwritten, so that none is resumed by mistake."""
    for path in checkpoints.glob("step-*.safetensors"):
        path.unlink()


def _nothing_to_forecast(record: Any) -> None:
    """Refuse targets without a value, or without a change."""
    forecaster, name = record.forecaster, record.source.name
    for target, learned, missing in zip(forecaster.columns.targets, forecaster.targets, forecaster.missing):
        if missing == record.row:
            raise SourceError(
                f"{name}: column {target!r} has no value in any of the {record.row} rows; choose another --target."
            )
        if record.row > 1 and (value := learned.constant) is not None:
            shown = value if isinstance(value, str) else f"{value:g}"
            raise SourceError(
                f"{name}: column {target!r} is {shown} in every row, so there is nothing "
                "to forecast; choose another --target."
            )
