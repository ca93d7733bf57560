"""`streamgrad learn`: learn a forecaster from a stream of rows, in one pass."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from streamgrad.data import SERIES, Source, SourceError, open_source
from streamgrad.data.errors import unknown_column


class UsageError(ValueError):
    """An option that cannot be meant. The message says what came and what was expected."""


@dataclass
class Options:
    """Learn to forecast a column of a stream, row by row, and say how well it goes.

    Each row is forecast before it is learned from: a forecast for h rows ahead is scored and
    learned from when that row has arrived, never earlier. Memory does not grow with the stream.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """CSV, TSV, Parquet, Arrow or JSON lines; - for standard input; or a bundled series
    (seattle-temps, sf-temps, seattle-weather, co2, sunspots, elnino)."""
    target: Annotated[str | None, tyro.conf.arg(metavar="COLUMN")] = None
    """Column to forecast. A bundled series knows its own."""
    features: Annotated[tuple[str, ...], tyro.conf.arg(metavar="COLUMN ...")] = ()
    """Other columns to learn from."""
    horizon: int = 1
    """Rows ahead to forecast."""
    period: Annotated[int | None, tyro.conf.arg(metavar="ROWS")] = None
    """Rows in a season (24 for hourly rows), for the seasonal last value; 0 leaves it out."""
    cell: str = "lru"
    """The recurrent cell, in any spelling: lru, gru, lstm, vanilla, leaky, indrnn, mingru, rtu."""
    units: int = 32
    """Units of the cell."""
    algorithm: str = "snap-1"
    """How the cell learns through time: snap-1, snap-2, ..., rtrl, uoro, ok-2, rflo, eprop, tbptt-8, frozen, ..."""
    lags: int = 32
    """Newest values of the target that the readout (and RLS on lags) sees directly."""
    learning_rate: float = 1e-3
    """Of Adam, for the recurrent part; the readout is fitted by recursive least squares."""
    forgetting: float = 0.999
    """Of the readout: a row's weight in the fit falls by this factor with each row."""
    seed: int = 0
    """Of the initial weights."""
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
    pairs_off = (tyro.conf.FlagCreatePairsOff,)  # no --no-resume beside --resume
    options = tyro.cli(Options, prog="streamgrad learn", args=list(arguments), config=pairs_off)
    from streamgrad.checkpoint import CheckpointError
    from streamgrad.cli.journal import JournalError

    try:
        return learn(options)
    except (SourceError, UsageError, CheckpointError, JournalError) as error:
        print(f"streamgrad learn: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("streamgrad learn: stopped; --resume goes on from the checkpoint.", file=sys.stderr)
        return 130


def learn(options: Options) -> int:
    """Do what the options ask. Raises the errors that `main` turns into sentences."""
    _check(options)
    source = open_source(options.source)
    columns = _columns(options, source)
    series = SERIES.get(options.source)
    period = options.period if options.period is not None else series.period if series else None
    stem = "stdin" if options.source == "-" else Path(options.source).name.partition(".")[0]
    folder = options.out or Path("runs") / f"{stem}-h{options.horizon}"
    if not options.resume and not options.overwrite and any((folder / "checkpoints").glob("step-*")):
        raise UsageError(
            f"{folder} holds a run already: --resume goes on with it, --overwrite starts anew and "
            "loses it, and --out names another folder."
        )

    from streamgrad.cli.stream import Run
    from streamgrad.cli.summary import finish
    from streamgrad.tasks.encoding import Encoder
    from streamgrad.tasks.floors import Floors
    from streamgrad.tasks.forecast import Forecaster, cell_name

    encoder = Encoder(len(columns), options.lags, options.horizon)
    names = "horizon cell units algorithm lags learning_rate forgetting seed log_every"
    config: dict[str, Any] = {name: getattr(options, name) for name in names.split()}
    try:
        config["cell"] = cell_name(options.cell)
        forecaster = Forecaster(
            encoder.size,
            encoder.recurrent_size,
            horizon=options.horizon,
            cell=config["cell"],
            units=options.units,
            algorithm=options.algorithm,
            learning_rate=options.learning_rate,
            forgetting=options.forgetting,
            seed=options.seed,
        )
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from None
    run = Run(
        source,
        columns,
        forecaster=forecaster,
        encoder=encoder,
        floors=Floors(encoder.size, options.horizon, period or None),
        folder=folder,
        config={**config, "columns": list(columns), "period": period or None},
        log_every=options.log_every,
        checkpoint_every=options.checkpoint_every,
        keep=options.keep,
    )
    if options.resume:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said below
            saved = run.resume()
        for path in saved.damaged:
            print(f"The checkpoint {path} is damaged and is not used.", file=sys.stderr)
        print(f"Going on from row {run.row:,} ({saved.path}).", file=sys.stderr)
    elif options.overwrite:
        _clear(run.checkpoints)
    replay = not (options.continues and options.source == "-")
    ending, error = "end", None
    try:
        ending = run(replay)
    except SourceError as bad:  # what came before it is learned and saved
        ending, error = "bad input", bad
    if run.row:
        finish(run, ending, options.predictions)
    if error is not None:
        raise error
    if run.row == 0 and ending == "end":
        raise SourceError(f"{source.name} has a header but no rows: there is nothing to learn from.")
    if ending == "end":
        _nothing_to_forecast(run, columns[0])
    return 130 if ending == "stopped" else 0


def _check(options: Options) -> None:
    """Refuse numbers that cannot be meant."""
    least = {"horizon": 1, "units": 1, "lags": 2, "log_every": 1, "checkpoint_every": 1, "keep": 1}
    for name, low in least.items():
        value, option = getattr(options, name), f"--{name.replace('_', '-')}"
        if value < low:
            raise UsageError(f"{option} {value}: it has to be a whole number of at least {low}.")
    if options.period is not None and options.period < 0:
        raise UsageError(f"--period {options.period}: it has to be at least 1 row, or 0 for none.")
    if not 0 < options.forgetting <= 1:
        raise UsageError(f"--forgetting {options.forgetting}: it has to be above 0 and at most 1.")
    if not 0 <= options.learning_rate < float("inf"):
        raise UsageError(f"--learning-rate {options.learning_rate}: it has to be at least 0.")
    if options.resume and options.overwrite:
        raise UsageError("--resume goes on with a run and --overwrite loses it: give one of them.")


def _columns(options: Options, source: Source) -> tuple[str, ...]:
    """The target and the features, all of them there and none twice."""
    target = options.target
    if target is None and options.source in SERIES:
        target = SERIES[options.source].target
    if target is None:
        names = ", ".join(source.columns[:20])
        raise UsageError(f"which column is to be forecast? Say --target COLUMN; {source.name} has {names}.")
    columns = (target, *(f for f in dict.fromkeys(options.features) if f != target))
    for column in columns:
        if column not in source.columns:
            raise unknown_column(column, source.columns, source.name)
    return columns


def _clear(checkpoints: Path) -> None:
    """Remove the checkpoints of the run that is overwritten, so that none is resumed by mistake."""
    for path in checkpoints.glob("step-*.safetensors"):
        path.unlink()


def _nothing_to_forecast(run: Any, target: str) -> None:
    if run.missing[0] == run.row:
        raise SourceError(
            f"{run.source.name}: column {target!r} has no value in any of the {run.row} rows; choose another --target."
        )
    if target in run.constant_columns():
        value = run.encoder.state["last"][0]
        raise SourceError(
            f"{run.source.name}: column {target!r} is {value:g} in every row, so there is nothing "
            "to forecast; choose another --target."
        )
