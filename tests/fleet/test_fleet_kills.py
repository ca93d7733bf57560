"""A fleet that is killed in mid-course, twice, and goes on: every byte as if nothing had happened."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import streamgrad as sg

PACKAGE = Path(sg.__file__).parent.parent
COMMAND = PACKAGE.parent / "benchmarks" / "fleet" / "kills.py"


@pytest.mark.full
def test_kills_change_no_byte(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(PACKAGE)}
    command = [sys.executable, str(COMMAND), "--kills", "2", "--rows", "6000", "--out", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    *kills, result = map(json.loads, (tmp_path / "kills.jsonl").read_text().splitlines())
    assert result["same"] and result["kills"] == len(kills) == 2
    assert any(kill["rows_written"] for kill in kills)
