"""A fleet on Spark, killed in mid-batch and rescaled: every byte as if nothing had happened. `make test-spark`.

Spark is large, so these tests stand apart: they need `pip install 'streamgrad[spark]'` and Java 17, and take minutes.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import streamgrad as sg

PACKAGE = Path(sg.__file__).parent.parent
COMMAND = PACKAGE.parent / "benchmarks" / "fleet" / "spark_kills.py"
LACKING = [name for name in ("pyspark", "pandas", "grpc") if importlib.util.find_spec(name) is None]
LACKING += [] if shutil.which("java") or os.environ.get("JAVA_HOME") else ["Java"]

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(bool(LACKING), reason=f"{' and '.join(LACKING)} not here: Spark is tested by make test-spark"),
]


def _run(script, tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(PACKAGE), str(COMMAND.parent)]), "NPROC": "1"}
    return subprocess.run([sys.executable, *script], env=environment, capture_output=True, text=True, cwd=tmp_path)


def test_kills_and_a_rescaling_change_no_byte(tmp_path):
    sizes = ["--kills", "2", "--files", "4", "--rows", "400", "--keys", "60", "--shards", "4"]
    done = _run([str(COMMAND), *sizes, "--out", str(tmp_path)], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    *lines, result = map(json.loads, (tmp_path / "kills.jsonl").read_text().splitlines())
    assert result["same"] and result["same_as_embedded"] and result["rows"] == 1600
    kills = [line for line in lines if "kill" in line]
    assert len(kills) == 2 and all(kill["batch"] > kill["committed"] for kill in kills)
    assert [line["rescaled"] for line in lines if "rescaled" in line] == ["1 -> 3"]


REFUSALS = """
import spark_kills
from streamgrad.fleet import spark

driver = spark_kills.session(1)
rows = driver.readStream.schema(spark_kills.SCHEMA).json(".")
given = {"key": "sensor", "order": "n", "inputs": ["x"], "targets": ["y"]}
for change in ({"key": "senser"}, {"inputs": ["y"]}, {"key": "x", "inputs": []}, {"order": "x", "inputs": []},
               {"late": "drop"}, {"shards": 0}):
    try:
        spark.learn(rows, spark_kills.kernel, **{**given, **change})
    except ValueError as error:
        print(error)
processor = spark.Shard(None, "", (), False)
try:
    processor._late(["a", "a"], __import__("numpy").array([3, 3]), {})
except RuntimeError as error:
    print(error)
print(spark.Shard(None, "", (), True)._late(["a", "a", "b"], __import__("numpy").array([3, 4, 1]), {"a": 3}))
"""


SHARD = """
import numpy as np
import pyarrow as pa
import spark_kills
import streamgrad as sg
from streamgrad.fleet import _tables, spark


class State:
    value = None

    def get(self):
        return self.value

    def update(self, value):
        self.value = value


def told(shard, keys, order, x):
    columns = [pa.array([0] * len(keys), pa.int32()), pa.array(keys), pa.array(order, pa.int64())]
    columns += [pa.array(np.float32(x)), pa.array(np.float32(x) / 2)]
    rows = pa.record_batch(columns, ["_shard", "sensor", "n", "x", "y"])
    parts = [part.to_pandas() for part in _tables.dealt([rows[:1], rows[1:]])]
    (said,) = shard.handleInputRows((0,), iter(parts), None)
    return said


shard = spark.Shard(spark_kills.kernel, "token", ("sensor", "n", ("x",), ("y",)), True)
shard._states = State()
first = told(shard, ["b", "a", "b"], [2, 7, 1], [0.2, 0.7, 0.1])
again = told(shard, ["a", "a", "b"], [7, 9, 1], [0.5, 0.9, 0.3])
all_late = told(shard, ["a"], [9], [0.9])
fleet = sg.Fleet.of(spark_kills.kernel())
x = np.float32([[0.1], [0.2], [0.7], [0.9]])
out = fleet.update(["b", "b", "a", "a"], x, x / 2)
said = [*first.prediction, again.prediction[2]]
assert first.sensor.tolist() == ["b", "b", "a"] and np.array_equal(np.stack(said), out.prediction)
assert again.late.tolist() == [True, True, False] and again.prediction[0] is None and all_late.late.tolist() == [True]
kept = {key: fleet.state(key) for key in ("a", "b")}
assert _tables.states_read(shard._states.value[0]) == (kept, {"a": 9, "b": 2})
for keys, order in ((["a", None], [10, 11]), (["a"], [None])):
    try:
        told(shard, keys, order, [0.5] * len(keys))
    except RuntimeError as error:
        assert "has no 'sensor' or no 'n'" in str(error)
    else:
        raise AssertionError
print("done")
"""


def test_a_shard_learns_what_a_fleet_learns(tmp_path):
    done = _run(["-c", SHARD], tmp_path)
    assert done.stdout.endswith("done\n"), done.stderr[-3000:]


def test_what_cannot_be_meant_is_refused(tmp_path):
    (tmp_path / "rows.json").write_text("{}\n")
    done = _run(["-c", REFUSALS], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout.strip().splitlines()
    expected = ("no column 'senser'", "one of these only", "must be a text", "whole numbers or times", "late must be")
    for line, words in zip(said, (*expected, "shards must be", "is out of order"), strict=False):
        assert words in line
    assert said[-1] == "[ True False False]"
