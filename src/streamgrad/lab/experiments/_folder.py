"""A run folder: what was asked, what came out, and how to go on after a kill."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ... import checkpoint
from ._experiment import Experiment, Trial

SCHEMA = 1


class FolderError(RuntimeError):
    """A run folder cannot be used. The message says why and what to do."""


class RunFolder:
    """`run.json` (what was asked), `results.jsonl` (a row a line), and while a trial runs `state/` (to resume).

    Raises `FolderError` for a folder that holds another run, or cannot be written.
    """

    def __init__(self, path: Path, experiment: Experiment, config: Any, command: str):
        self.path, self.results = path, path / "results.jsonl"
        self._now: dict[str, Any] | None = None
        self._began = time.process_time()
        self.header = _header(experiment, config, command)
        asked = self.header["config"]
        try:
            path.mkdir(parents=True, exist_ok=True)
            if (path / "run.json").exists():
                held = json.loads((path / "run.json").read_text("utf-8"))
                if not isinstance(held, dict):
                    raise ValueError("run.json holds no run")
                begun = held["done"] or self.results.exists()
                if begun and (held["experiment"], held["config"]) != (experiment.name, asked):
                    raise FolderError(
                        f"{path} holds a run of {held['experiment']} with other settings ({_first(held, asked)}): "
                        "give the same ones to resume it, or another --out."
                    )
                if begun:
                    self._resume(held)
            elif any(path.iterdir()):
                raise FolderError(f"{path} is not empty and holds no run: give another --out.")
            self._spent_before = self.header.get("cpu_seconds", 0)
            self._write_header()
        except (OSError, ValueError, KeyError) as error:
            raise FolderError(f"{path} cannot be used as a run folder ({error}): give another --out.") from None
        self.rows = self._read()

    def _resume(self, held: dict[str, Any]) -> None:
        """Keep what was said of the run when it began; note a machine or a version that is another one now."""
        now = {name: self.header[name] for name in ("versions", "machine")}
        self._now = now if now != {name: held[name] for name in now} else None
        self.header = held

    def done(self, trial: Trial) -> bool:
        """Whether all of a trial's results are there."""
        return trial.name in self.header["done"]

    def recorder(self, trial: Trial, show: Callable[[int, int, str], None]) -> _Recorder:
        """The recorder of the trial; rows after its last kept state are dropped."""
        self.header["finished"] = None
        if self._now is not None:
            self.header.setdefault("resumed", []).append({"at": _now(), **self._now})
            self._now = None
        self._write_header()
        return _Recorder(self, trial, show)

    def finish(self, trial: Trial) -> None:
        """Mark a trial as done and forget its state."""
        self.header["done"].append(trial.name)
        self.count()
        shutil.rmtree(self.path / "state", ignore_errors=True)

    def count(self) -> None:
        """Write down the processor time of the run so far: it is the same whatever else the machine does."""
        self.header["cpu_seconds"] = self._spent_before + round(time.process_time() - self._began)
        self._write_header()

    def close(self) -> None:
        """All trials are done."""
        if self.header["finished"] is None:
            self.header["finished"] = _now()
            self._write_header()

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Drop the rows that are not wanted, in one atomic replacement."""
        self.rows[:] = [row for row in self.rows if wanted(row)]  # in place: trials look at them
        with checkpoint.whole_file(self.results) as temporary:
            temporary.write_text("".join(_line(row) for row in self.rows), "utf-8")

    def _append(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        try:
            with open(self.results, "a", encoding="utf-8") as file:
                file.write(_line(row))
        except OSError as error:
            raise FolderError(f"{self.results} cannot be written ({error}): free some space, then resume.") from None

    def _read(self) -> list[dict[str, Any]]:
        if not self.results.exists():
            return []
        rows, lines = [], self.results.read_text("utf-8").splitlines()
        for number, line in enumerate(lines, 1):
            try:
                rows.append(json.loads(line))
            except ValueError:
                if number < len(lines):  # the last one may have been cut off by a kill
                    raise FolderError(
                        f"{self.results}: line {number} is damaged: mend or remove it, or give another --out."
                    ) from None
        return rows

    def _write_header(self) -> None:
        with checkpoint.whole_file(self.path / "run.json") as temporary:
            temporary.write_text(json.dumps(self.header, indent=1) + "\n", "utf-8")


class _Recorder:
    def __init__(self, folder: RunFolder, trial: Trial, show):
        self.folder, self.trial, self.show = folder, trial, show
        self.state, self.name = folder.path / "state", trial.name
        kept = checkpoint.steps(self.state)
        self._drop(after=kept[-1] if kept else -1)

    def _drop(self, after: int) -> None:
        """Forget the trial's rows of later steps."""
        self.folder.keep(lambda row: row["trial"] != self.name or row["step"] <= after)

    def write(self, seed: int, step: int, split: str, *, final: bool = False, **values: Any) -> None:
        metrics = {k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in values.items()}
        also = {k: metrics.pop(k) for k in ("depth", "layer", "credit") if k in metrics}
        variant = {**self.trial.variant, **also}
        row = {"trial": self.name, "variant": variant, "seed": seed, "step": step, "split": split, "final": final}
        self.folder._append(row | metrics)

    def progress(self, done: int, total: int, text: str = "") -> None:
        self.show(done, total, text)

    def save(self, state: Any, step: int) -> None:
        checkpoint.save(self.state, state, step=step, meta={"trial": self.name}, keep=1)
        self.folder.count()

    def load(self, like: Callable[[int], Any]) -> tuple[Any, int] | None:
        kept = checkpoint.steps(self.state)
        try:
            found = checkpoint.load(self.state, like(kept[-1])) if kept else None
        except checkpoint.CheckpointError:
            found = None
        if found is None or found.meta["trial"] != self.name:
            shutil.rmtree(self.state, ignore_errors=True)
            self._drop(after=-1)
            return None
        self._drop(after=found.step)
        return found.tree, found.step


def _header(experiment: Experiment, config: Any, command: str) -> dict[str, Any]:
    import jax

    from streamgrad import __version__

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "schema": SCHEMA,
        "experiment": experiment.name,
        "title": experiment.title,
        "description": experiment.about,
        "command": command,
        "config": json.loads(json.dumps(dataclasses.asdict(config), default=str)),
        "versions": {"streamgrad": __version__, "jax": jax.__version__, "python": platform.python_version()},
        "machine": f"{jax.devices()[0].device_kind}, {_processor()}, {cores} core{'s'[: cores != 1]}",
        "started": _now(),
        "finished": None,
        "done": [],
        "metrics": {name: dict(about) for name, about in experiment.metrics.items()},
        "views": experiment.views(config),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
        return names[0]
    except (OSError, IndexError):
        return platform.machine()


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row) + "\n"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _first(held: dict[str, Any], asked: dict[str, Any]) -> str:
    """The first setting that differs, in words."""

    def differ(a, b, path):
        if isinstance(a, dict) and isinstance(b, dict):
            for key in a | b:
                if (found := differ(a.get(key), b.get(key), [*path, key])) is not None:
                    return found
            return None
        return None if a == b else f"{'.'.join(path)}: {a} there, {b} asked"

    return differ(held["config"], asked, []) or "another experiment"
