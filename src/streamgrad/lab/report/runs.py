"""Read the folders that `streamgrad experiment` writes: what was run, and its rows of results."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .schema import SCHEMA, Metric, Row, Selection, View, get, read_metric, read_row, read_selection, read_view


class RunError(ValueError):
    """A folder that cannot be reported. The message says which one, what is wrong, and what to do."""


@dataclass(frozen=True)
class Origin:
    """The origin of rows: a folder, and what was run there, when, and with what."""

    folder: Path
    command: str
    started: str
    finished: str | None
    machine: str
    versions: Mapping[str, Any]
    cpu_seconds: int | None = None
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Run:
    """An experiment, of one folder or, merged, of several that differ in their seeds.

    `notices` are sentences that a reader of the results has to know.
    """

    origins: tuple[Origin, ...]
    experiment: str
    title: str
    description: str
    config: Mapping[str, Any]
    metrics: Mapping[str, Metric]
    views: tuple[View, ...]
    select: Selection | None
    rows: tuple[Row, ...]
    notices: tuple[str, ...] = ()


def read_runs(folders: Sequence[str | os.PathLike[str]]) -> list[Run]:
    """Read run folders in the order given; those whose experiment and config are equal but for the seeds are
    merged. Raises `RunError` as `read_run` does."""
    found: dict[str, list[Run]] = {}
    once: dict[Path, str | os.PathLike[str]] = {}
    for folder in folders:
        once.setdefault(Path(folder).resolve(), folder)
    for folder in once.values():
        run = read_run(folder)
        same = [run.experiment, _without_seeds(run.config), repr((run.metrics, run.views, run.select))]
        found.setdefault(json.dumps(same, sort_keys=True), []).append(run)
    return [merge(runs) if len(runs) > 1 else runs[0] for runs in found.values()]


def read_run(folder: str | os.PathLike[str]) -> Run:
    """Read and check one run folder. Raises `RunError` if it is not one, or is damaged.

    A last line of `results.jsonl` that was not written to its end is left out, with a notice. Any other line that
    cannot be read is refused with its number: means over what is left would pass for those of the whole run.
    """
    folder = Path(folder)
    data = _read_json(folder)
    file = folder / "run.json"
    try:
        metrics = {name: read_metric(name, value) for name, value in get(data, "metrics", dict).items()}
        select = read_selection(get(data, "select", dict, None), metrics)
        views = tuple(read_view(i, value, metrics, select) for i, value in enumerate(get(data, "views", list), 1))
        origin = Origin(
            folder=folder.resolve(),
            command=get(data, "command", str),
            started=get(data, "started", str, ""),
            finished=get(data, "finished", str, None),
            machine=get(data, "machine", str, ""),
            versions=get(data, "versions", dict, {}),
            cpu_seconds=get(data, "cpu_seconds", int, None),
        )
        run = Run(
            origins=(origin,),
            experiment=get(data, "experiment", str),
            title=get(data, "title", str, "") or get(data, "experiment", str),
            description=get(data, "description", str, ""),
            config=get(data, "config", dict, {}),
            metrics=metrics,
            views=views,
            select=select,
            rows=(),
        )
    except ValueError as error:
        raise RunError(f"{file}: {error}. Put the file back as it was written, or run the experiment again.") from None
    rows, notices = read_rows(folder / "results.jsonl", metrics)
    if origin.finished is None:
        notices.insert(0, "This run is not finished: what it has written so far is shown.")
    elif not rows:
        notices.append("results.jsonl has no rows.")
    origin = replace(origin, seeds=tuple(sorted({row.seed for row in rows})))
    return replace(run, origins=(origin,), rows=tuple(rows), notices=tuple(notices))


def read_rows(path: Path, metrics: Mapping[str, Metric]) -> tuple[list[Row], list[str]]:
    """The rows of a `results.jsonl`, and notices. Raises `RunError` as `read_run` does.

    Numbers of a row that belongs to the same variant, seed, step and split as one before it are added to that one.
    """
    try:
        *lines, last = path.read_bytes().split(b"\n")
    except OSError as error:
        what = f"{path} cannot be read ({os.strerror(error.errno or 0)})"
        raise RunError(f"{what}: put it back, or run the experiment again.") from None
    rows: dict[tuple, Row] = {}
    notices: list[str] = []
    again = 0
    for number, line in enumerate([*lines, last], 1):
        if not line.strip():
            continue
        try:
            row = read_row(json.loads(line), metrics)
        except ValueError as error:
            cut_off = isinstance(error, json.JSONDecodeError | UnicodeDecodeError)
            if cut_off and number > len(lines):
                notices.append(f"Line {number} of results.jsonl, the last one, was cut off and is left out.")
                continue
            raise RunError(
                f"{path}, line {number} cannot be read: {'it is not JSON' if cut_off else error}. Put the file back as "
                "it was written, or take the line out, if the results may do without it."
            ) from None
        where = (row.key, row.seed, row.step, row.split, row.final)
        if where in rows:
            again += any(name in row.metrics for name in rows[where].metrics)
            row = replace(row, metrics={**rows[where].metrics, **row.metrics})
        rows[where] = row
    if again:
        what = "1 row of results.jsonl is" if again == 1 else f"{again} rows of results.jsonl are"
        notices.append(f"{what} there twice: the later {'one counts' if again == 1 else 'ones count'}.")
    return list(rows.values()), notices


def merge(runs: Sequence[Run]) -> Run:
    """One run with the rows of all. A variant and seed that several hold is taken from where it has most rows."""
    best: dict[tuple, list[Row]] = {}
    twice = False
    for run in runs:
        parts: dict[tuple, list[Row]] = {}
        for row in run.rows:
            parts.setdefault((row.key, row.seed), []).append(row)
        for key, rows in parts.items():
            twice |= key in best
            if len(rows) > len(best.get(key, ())):
                best[key] = rows
    named = len({run.origins[0].folder.name for run in runs}) == len(runs)
    notices = [
        f"{run.origins[0].folder.name if named else f'Folder {k}'}: {text}"
        for k, run in enumerate(runs, 1)
        for text in run.notices
    ]
    if twice:
        notices.append("Several of the merged folders hold the same variant and seed: it is counted once.")
    if len({repr(sorted(run.origins[0].versions.items())) for run in runs}) > 1:
        notices.append("The merged folders were written with different versions of the software, named below.")
    origins = tuple(origin for run in runs for origin in run.origins)
    rows = tuple(row for part in best.values() for row in part)
    return replace(runs[0], origins=origins, rows=rows, notices=tuple(notices))


def _without_seeds(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_seeds(v) for k, v in value.items() if k not in ("seed", "seeds")}
    return [_without_seeds(v) for v in value] if isinstance(value, list) else value


def _read_json(folder: Path) -> dict[str, Any]:
    path = folder / "run.json"
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "is not there"
        raise RunError(f"{folder} {what}: give a folder that `streamgrad experiment` wrote.")
    if not path.is_file():
        inner = sorted(file.parent for file in folder.glob("*/run.json"))[:3]
        hint = f" Did you mean {' '.join(map(str, inner))}?" if inner else ""
        what = f"{folder} is not a run folder, as it has no run.json"
        raise RunError(f"{what}: give a folder that `streamgrad experiment` wrote.{hint}")
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise RunError(f"{path} cannot be read ({os.strerror(error.errno or 0)}).") from None
    except ValueError:
        raise RunError(f"{path} is damaged, it is not JSON: put it back, or run the experiment again.") from None
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise RunError(
            f"{path} has schema {schema!r}, and this version of streamgrad reads schema {SCHEMA}: use the version that "
            "wrote it, or run the experiment again."
        )
    return data
