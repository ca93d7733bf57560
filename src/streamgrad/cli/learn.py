"""`streamgrad learn`: learn a forecaster from a stream of rows, in one pass."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from streamgrad.cli import stream
from streamgrad.cli.stream import UsageError
from streamgrad.data import SERIES, Source, SourceError

if TYPE_CHECKING:
    from streamgrad.forecast import Forecaster, Record

HEALTH = 50_000  # rows between two looks at whether anything grows out of bounds


@dataclass(kw_only=True)
class Options(stream.Options):
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
    known: Annotated[tuple[str, ...], tyro.conf.arg(metavar="COLUMN ...")] = ()
    """Columns that are known in advance, such as a price or a plan: read HORIZON rows ahead."""
    period: Annotated[int | None, tyro.conf.arg(metavar="ROWS")] = None
    """Rows in a season (24 for hourly rows). Without it, it is looked for, and no seasonal last
    value stands in the table; 0: likewise for a series that knows its own."""
    learner: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """mixture (the default), light (without nets), one of the experts alone (rls, reservoir,
    columns, fast-columns), or one net (--cell) under adam, kalman, or frozen."""
    light: bool = False
    """The learner without nets, for streams that are faster: the same as --learner light."""
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
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder for predictions, metrics, picture and checkpoints. Default: runs/SOURCE-hHORIZON."""
    resume: bool = False
    """Go on from the newest good checkpoint in the folder."""
    log_every: int = 200
    """Rows between two lines of metrics."""
    checkpoint_every: int = 5000
    """Rows between two checkpoints (also after 30 seconds on a slow stream)."""
    keep: int = 3
    """Checkpoints kept."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; the exit status is 0, 1 after bad input, or 130 after Ctrl-C."""
    return stream.run_command("learn", Options, learn, arguments, "--resume goes on from the checkpoint.")


def learn(options: Options) -> int:
    """Do what the options ask. Raises the errors that `main` turns into sentences."""
    _check(options)
    source = stream.opened(options)
    targets = _targets(options, source)
    series = SERIES.get(options.source)
    period = options.period if options.period is not None else series.period if series else None
    folder = stream.folder_of(options, f"h{options.horizon}")
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
    settings: dict[str, Any] = {"known": options.known, "period": period}
    if own and not options.learner and not options.light:
        settings["learner"] = "adam"
    make = lambda *target, **settings: Forecaster(*target, net=Net(**own) if own else None, **settings)
    forecaster = stream.make_forecaster(make, options, targets, **settings)
    every = {name: getattr(options, name) for name in ("log_every", "checkpoint_every", "keep")}
    return Record(forecaster, source, folder, **every)


def _run(options: Options, record: Record) -> int:
    """Learn until the source ends, with progress, and say how it went."""
    from streamgrad.cli.summary import finish

    status = stream.run(
        options,
        record,
        newest=partial(_newest, record.forecaster),
        notes=partial(next, _warnings(record)),
        finish=lambda ending, first: finish(record, ending, options.predictions, first),
    )
    if status == 0:
        _nothing_to_forecast(record)
    return status


def _warnings(record: Record) -> Iterator[list[str]]:
    """What is growing out of bounds, each said once; looked for now and then."""
    said: set[str] = set()
    before = record.row
    while True:
        new = record.forecaster.warnings() if record.row // HEALTH > before // HEALTH else []
        before = record.row
        yield [f"Warning at row {record.row:,}: {warning}" for warning in new if warning not in said]
        said |= {*new}


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
    stream.check(options, {"units": 1, "lags": 1, "log_every": 1, "checkpoint_every": 1, "keep": 1})
    if options.forgetting is not None and not 0 < options.forgetting <= 1:
        raise UsageError(f"--forgetting {options.forgetting}: it has to be above 0 and at most 1.")
    if options.learning_rate is not None and not 0 <= options.learning_rate < float("inf"):
        raise UsageError(f"--learning-rate {options.learning_rate}: it has to be at least 0.")
    if options.continues and (options.source != "-" or not options.resume):
        raise UsageError(
            "--continues says that standard input brings only the rows after the checkpoint: it goes with - and "
            "--resume."
        )
    if options.continues and options.known:
        raise UsageError("--continues brings rows after the checkpoint, and --known needs those before it: give one.")
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
    raise stream.which_column(source, "--target", "is to be forecast")


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
