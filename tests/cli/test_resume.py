"""A run that is killed and resumed ends as one that was not: the same bits everywhere.

Two kills here; STREAMGRAD_KILLS=100 makes it a hundred (some ten minutes).
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

KILLS = int(os.environ.get("STREAMGRAD_KILLS", "2"))
ROWS = 4000 + 300 * KILLS


def _environment(cache: Path) -> dict[str, str]:
    """Compiled programs are kept between the processes: 2 s instead of 5 to start."""
    cached = {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_ENABLE_X64": "0"}
    least = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return {**os.environ, **cached, **least}


def _command(source: Path, out: Path, *more: str) -> list[str]:
    command = [sys.executable, "-m", "streamgrad.cli", "learn", str(source), "--target", "value"]
    command += ["--features", "other", "--horizon", "3", "--period", "24", "--units", "8"]
    return [*command, "--checkpoint-every", "400", "--log-every", "100", "--out", str(out), *more]


def _write_stream(path: Path) -> None:
    rng = np.random.default_rng(0)
    t = np.arange(ROWS)
    value = np.sin(t / 24 * 2 * np.pi) + 0.1 * rng.standard_normal(ROWS).cumsum() / np.sqrt(1 + t)
    other = rng.standard_normal(ROWS)
    with open(path, "w") as file:
        file.write("value,other\n")
        for v, o, lost in zip(value, other, rng.random((ROWS, 2)) < 0.02):
            file.write(f"{'' if lost[0] else v},{'' if lost[1] else o}\n")


def _files(folder: Path) -> dict[str, bytes]:
    newest = max((folder / "checkpoints").iterdir())
    names = ("predictions.csv", "metrics.jsonl", "summary.json")
    return {name: (folder / name).read_bytes() for name in names} | {newest.name: newest.read_bytes()}


@pytest.mark.full
def test_killed_and_resumed_is_bit_identical(tmp_path):
    source, whole, broken = tmp_path / "s.csv", tmp_path / "whole", tmp_path / "broken"
    environment = _environment(tmp_path / "cache")
    _write_stream(source)
    quiet = {"env": environment, "capture_output": True, "text": True}
    done = subprocess.run(_command(source, whole), **quiet)
    assert done.returncode == 0, done.stderr

    rng, kills, ended = random.Random(0), 0, 0
    for _ in range(5 * KILLS + 5):
        more = ["--resume"] if list(broken.glob("checkpoints/step-*")) else ["--overwrite"]
        process = subprocess.Popen(
            _command(source, broken, *more),
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if kills < KILLS:
            if rng.random() < 0.1:  # now and then while it starts
                time.sleep(rng.uniform(0, 2))
            else:  # mostly while it learns
                _wait_until_it_writes(process, broken / "predictions.csv")
                time.sleep(rng.uniform(0, 0.5))
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
        _, error = process.communicate()
        if process.returncode == -signal.SIGKILL:
            kills += 1
            continue
        assert process.returncode == 0, error
        assert _files(broken) == _files(whole)
        ended += 1
        if kills >= KILLS:
            break
        shutil.rmtree(broken)
    print(f"{kills} kills, {ended} runs ended, {ROWS} rows each")
    assert kills == KILLS and ended


def _wait_until_it_writes(process: subprocess.Popen, path: Path) -> None:
    """Return when the file has grown since the process opened it (and cut it to the checkpoint)."""
    stat = lambda: path.stat() if path.exists() else None
    before, opened = stat(), None
    while process.poll() is None:
        now = stat()
        if opened is not None and now is not None and now.st_size > opened:
            return
        if opened is None and now is not None and (before is None or now.st_mtime_ns != before.st_mtime_ns):
            opened = now.st_size
        time.sleep(0.002)
