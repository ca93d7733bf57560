"""`streamgrad experiment NAME`: run an experiment into a folder, resumably."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import tyro

#: Lets XLA's CPU compiler make one function of each loop, whatever its size. Only the environment can ask for it.
WHOLE_LOOPS = "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=1000000000"


@dataclasses.dataclass(frozen=True)
class Where:
    """The folder of the results."""

    out: Path | None = None
    """Run folder; `runs/NAME`, or `runs/NAME-quick`, when not given. One that holds the same run is resumed."""
    quick: bool = False
    """Small settings that finish in a minute or two: whether it runs, not what comes out."""


def main(arguments: Sequence[str]) -> int:
    """Run all trials that are not done yet, and name the folder of the results."""
    from ..lab.experiments import EXPERIMENTS, FolderError, RunFolder

    name = arguments[0] if arguments else "--help"
    if name not in EXPERIMENTS:
        return _list(name, EXPERIMENTS)
    experiment = EXPERIMENTS[name]
    default = experiment.quick if "--quick" in arguments else experiment.config
    where, rest = tyro.cli(Where, args=list(arguments[1:]), return_unknown_args=True, add_help=False)
    settings = tyro.cli(
        type(default),
        args=rest,
        default=default,
        prog=f"streamgrad experiment {name} [--out FOLDER] [--quick]",
        description=f"{experiment.title}. {experiment.about} On two cores: {experiment.duration}. "
        f"--out FOLDER: where the results go, runs/{name} if not given; a folder that holds the same run is resumed. "
        f"--quick: small settings that finish in a minute or two, into runs/{name}-quick.",
    )
    if experiment.small:  # before JAX first compiles
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {WHOLE_LOOPS}".strip()
    path = where.out or Path("runs") / (f"{name}-quick" if where.quick else name)
    try:
        folder = RunFolder(path, experiment, settings, shlex.join(["streamgrad", "experiment", *arguments]))
        return _run(experiment, settings, folder)
    except (FolderError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"stopped; the same command with --out {path} goes on", file=sys.stderr)
        return 130


def _run(experiment, settings, folder) -> int:
    began, trials = time.monotonic(), 0
    for trial in experiment.trials(settings, folder.rows):
        name = trial.name
        if folder.done(trial):
            print(f"{name}: done before", file=sys.stderr)
            continue
        trials += 1
        with _Bar(name) as bar:
            trial.run(folder.recorder(trial, bar))
        folder.finish(trial)
        print(", ".join(filter(None, (f"{name}: {bar.seconds:,.0f} s", _last(folder, trial)))), file=sys.stderr)
    folder.close()
    print(f"{trials} trials in {time.monotonic() - began:,.0f} s; results in {folder.results}")
    print(f"streamgrad report {folder.path} draws them")
    return 0


def _last(folder, trial) -> str:
    """The mean of the last results, in a few words."""
    splits = ("tuning",) if trial.tuning else ("test", "end")
    rows = [row for row in folder.rows if row["final"] and row["split"] in splits and row["trial"] == trial.name]
    names = [key for key in (rows[0] if rows else {}) if key in ("loss", "accuracy", "first", "late", "error")]
    mean = lambda name: sum(row[name] if row[name] is not None else float("nan") for row in rows) / len(rows)
    return ", ".join(f"{name} {mean(name):.4f}" for name in names)


class _Bar:
    """A bar on a terminal, a line every half minute elsewhere."""

    def __init__(self, title: str):
        self.title, self.seconds = title, 0.0
        self._terminal = sys.stderr.isatty()
        self._bar = None

    def __enter__(self):
        self._began = self._shown = time.monotonic()
        if self._terminal:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}")
            self._bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(self.title, total=None, text="compiling")
            self._bar.start()
        return self

    def __exit__(self, *_):
        self.seconds = time.monotonic() - self._began
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int, text: str) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, text=text)
        elif time.monotonic() - self._shown > 30:
            self._shown = time.monotonic()
            print(f"{self.title}: {done:,} of {total:,}  {text}", file=sys.stderr, flush=True)


def _list(name: str, experiments) -> int:
    wrong = name not in ("--help", "-h")
    if wrong:
        print(f"streamgrad has no experiment {name!r}; it has {', '.join(experiments)}.", file=sys.stderr)
        return 2
    print("usage: streamgrad experiment NAME [--out FOLDER] [--quick] [--any.setting value]\n")
    for experiment in experiments.values():
        print(f"  {experiment.name:20} {experiment.title}\n{'':23}on two cores: {experiment.duration}")
    print("\nstreamgrad experiment NAME --help shows every setting with its default.")
    return 0
