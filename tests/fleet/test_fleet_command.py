"""`streamgrad fleet`: what is said of a key is what a forecaster of its rows alone says, whatever happens meanwhile."""

import csv
import importlib.util
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import streamgrad as sg
from streamgrad import cli
from streamgrad.fleet._leaves import Leaves
from streamgrad.forecast import Forecaster, RowError

KEYS = ("a", "b", 'c, "the" third', "4")
OPTIONS = ["--key", "sensor", "--target", "value", "--time", "when", "--light"]


def _rows(n=150, seed=0):
    """Keys, times and values: keys come and go, values are missing here and there."""
    rng = np.random.default_rng(seed)
    keys, rows = [], []
    for t in range(n):
        there = [k for k in range(len(KEYS)) if (k != 1 or t > n // 2) and (k != 2 or t < n // 2)]
        for k in rng.permutation(there)[: rng.integers(1, len(there) + 1)]:
            value = 10 * k + np.sin(t / (3 + k)) + 0.1 * rng.standard_normal()
            keys.append(KEYS[k])
            rows.append([np.nan if rng.random() < 0.05 else value, 1.7e9 + 3600 * t])
    return keys, np.array(rows)


def _csv(path, keys, rows):
    with open(path, "w", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["when", "sensor", "value"])
        text = lambda value: "" if value != value else repr(float(value))
        lines.writerows([int(when), key, text(value)] for key, (value, when) in zip(keys, rows))
    return path


def _forecasters(**options):
    return sg.fleet.Forecasters("value", time="when", learner="light", **options)


def _alone(keys, rows):
    """What forecasters of each key's rows alone say, in the order of the rows."""
    said = {}
    for key in KEYS:
        at = [k for k, name in enumerate(keys) if name == key]
        for name, column in Forecaster("value", time="when", learner="light").run(rows[at]).columns().items():
            said.setdefault(name, np.zeros(len(keys), column.dtype))[at] = column
    said.pop("row")
    return said


@pytest.mark.parametrize(("size", "slots"), [(10_000, None), (7, 2), (64, 1)])
def test_each_key_is_forecast_as_if_it_were_alone(size, slots, tmp_path):
    keys, rows = _rows()
    expected, parts = _alone(keys, rows), []
    with _forecasters(slots=slots, store=tmp_path / "fleet.db") as fleet:
        for at in range(0, len(keys), size):
            parts.append(fleet.learn(keys[at : at + size], rows[at : at + size]))
            if at // size == 3:
                fleet.commit(offset=at)
        assert len(fleet) == 4 and sorted(fleet) == sorted(KEYS)
    assert parts[0].keys() == expected.keys()
    for name, column in expected.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), column, err_msg=name)


def test_a_store_goes_on_from_its_last_commit_and_a_key_can_be_taken_out(tmp_path):
    keys, rows = _rows()
    expected = _alone(keys, rows)
    with _forecasters(store=tmp_path / "fleet.db", slots=2) as fleet:
        fleet.learn(keys[:100], rows[:100])
        fleet.commit(offset=100)
        fleet.learn(keys[100:130], rows[100:130])  # not committed
    with _forecasters(store=tmp_path / "fleet.db") as fleet:
        assert fleet.offset == 100
        said = fleet.learn(keys[100:], rows[100:])
        np.testing.assert_array_equal(said["network"], expected["network"][100:])
        figures, alone = dict(fleet.figures())["a"], fleet["a"]
        found = alone.scores()
        assert figures["rows"] == alone.row == keys.count("a")
        assert figures["nrmse"] == [found["nrmse"][method] for method in fleet.methods]
        fleet.drop("a")
        assert "a" not in fleet and len(fleet) == 3 and "a" not in dict(fleet.figures())
        with pytest.raises(KeyError):
            fleet["a"]
        anew = fleet.learn(keys, rows + np.array([0, 1e6]))  # a dropped key begins anew
        at = [k for k, key in enumerate(keys) if key == "a"]
        assert np.isnan(anew["network"][at[0]]) and not np.isnan(anew["network"][at[1]])


def test_late_rows_are_refused_or_counted():
    keys, rows = ["a", "b", "a", "b", "a"], np.array([[1.0, 10], [2, 10], [3, 20], [4, 5], [5, 30]])
    fleet = _forecasters()
    assert fleet.in_order(keys, rows) == 3
    with pytest.raises(RowError, match="key 'b': time goes back at row 3"):
        fleet.learn(keys, rows)
    assert len(fleet) == 0
    skips = _forecasters(late="skip")
    said = skips.learn(keys, rows)
    assert skips.late == 1 and np.isnan(said["truth"][3]) and said["last_value"][4] == 3
    good = [0, 1, 2, 4]
    np.testing.assert_array_equal(said["ahead"][good], fleet.learn([keys[k] for k in good], rows[good])["ahead"])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"outcome": "class"}, "no columns for the classes"),
        ({"known": ("plan",)}, "reads no columns ahead"),
        ({"slots": 0}, "slots must be an integer >= 1"),
        ({"late": "drop"}, "late must be"),
    ],
)
def test_what_a_fleet_has_no_form_for_is_refused(options, match):
    with pytest.raises(ValueError, match=match):
        sg.fleet.Forecasters("value", **{"learner": "light", **options})


def test_stores_are_told_apart(tmp_path):
    keys, rows = _rows(20)
    with _forecasters(store=tmp_path / "fleet.db") as fleet:
        fleet.learn(keys, rows)
        fleet.commit(offset=1)
    for options, match in (
        ({"horizon": 2}, "settings horizon was 1 and is now 2"),
        ({"levels": (0.5,)}, "settings levels was"),
    ):
        with pytest.raises(sg.fleet.FleetError, match=match):
            _forecasters(store=tmp_path / "fleet.db", **options)
    make = lambda key: sg.nn.Sequential([sg.Readout(1, 1, key=key)])
    with pytest.raises(sg.fleet.FleetError, match="holds forecasters"):
        sg.Fleet(make, optax.sgd(0.1), loss=sg.losses.mse, store=tmp_path / "fleet.db")
    x = np.zeros((1, 1))
    with sg.Fleet(make, optax.sgd(0.1), loss=sg.losses.mse, store=tmp_path / "nets.db") as nets:
        nets.update(["a"], x, x)
        nets.commit()
    with pytest.raises(sg.fleet.FleetError, match=r"holds the learners of an sg.Fleet"):
        _forecasters(store=tmp_path / "nets.db")
    with _forecasters(store=tmp_path / "fleet.db", horizon=2, anew=True) as fleet:
        assert len(fleet) == 0 and fleet.offset is None
    with _forecasters(store=tmp_path / "fleet.db") as fleet:  # nothing was committed
        assert len(fleet) == 4
    db = sqlite3.connect(tmp_path / "fleet.db")
    db.execute(
        "UPDATE states SET state = CAST(substr(state, 1, length(state) - 4) || x'00000001' AS BLOB) WHERE key = 'a'"
    )
    db.commit()
    db.close()
    with _forecasters(store=tmp_path / "fleet.db") as fleet, pytest.raises(sg.fleet.FleetError, match="'a' is damaged"):
        fleet.learn(["a"], rows[:1])


def test_a_tree_comes_back_from_its_bytes():
    tree = {
        "key": jax.random.split(jax.random.key(3), 2),
        "half": jnp.arange(3, dtype=jnp.float16),
        "host": np.array([[np.nan, -0.0]]),
        "flag": np.array(True),
        "none": (),
    }
    leaves = Leaves(tree)
    back = leaves.unpack(leaves.pack(tree))
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    assert jnp.array_equal(jax.random.key_data(back["key"]), jax.random.key_data(tree["key"]))
    for name in ("half", "host", "flag"):
        assert type(back[name]) is type(tree[name]) and back[name].dtype == tree[name].dtype
        assert np.asarray(back[name]).tobytes() == np.asarray(tree[name]).tobytes()
    back["host"][0, 0] = 1  # its own memory
    with pytest.raises(ValueError, match=r"'host'.* has changed its size"):
        leaves.pack(tree | {"host": np.zeros((2, 2))})


@pytest.mark.skipif(importlib.util.find_spec("pyspark") is not None, reason="Spark is here")
def test_spark_is_an_extra():
    with pytest.raises(ImportError, match=r"pip install 'streamgrad\[spark\]'"):
        sg.fleet.spark  # noqa: B018


# The command.


def _fleet(*arguments):
    return cli.main(["fleet", *map(str, arguments), "--compilation-cache", "off"])


def _predictions(folder):
    with open(folder / "predictions.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_command_says_of_each_key_what_learn_says(tmp_path, capsys):
    keys, rows = _rows()
    file = _csv(tmp_path / "rows.csv", keys, rows)
    assert _fleet(file, *OPTIONS, "--out", tmp_path / "out", "--slots", 2, "--commit-every", 50) == 0
    shown = capsys.readouterr()
    assert "4 keys" in shown.out and "best at" in shown.out and "bytes a key" in shown.out
    said = _predictions(tmp_path / "out")
    assert [row["key"] for row in said] == keys and [row["row"] for row in said] == [*map(str, range(len(keys)))]
    at = [k for k, key in enumerate(keys) if key == KEYS[2]]
    alone = _csv(tmp_path / "alone.csv", [KEYS[2]] * len(at), rows[at])
    arguments = [str(alone), "--target", "value", "--time", "when", "--light", "--out", str(tmp_path / "learn")]
    assert cli.main(["learn", *arguments, "--compilation-cache", "off"]) == 0
    for one, other in zip(_predictions(tmp_path / "learn"), (said[k] for k in at), strict=True):
        assert {**one, "row": 0} == {name: value for name, value in other.items() if name != "key"} | {"row": 0}
    with open(tmp_path / "out" / "keys.csv", newline="") as lines:
        figures = {line["key"]: line for line in csv.DictReader(lines)}
    learned = json.loads((tmp_path / "learn" / "summary.json").read_text())
    assert float(figures[KEYS[2]]["nrmse_half_network"]) == learned["nrmse_half"]["network"]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["keys"] == 4 and summary["rows"] == len(keys) and sum(summary["best_at"].values()) == 4
    assert (tmp_path / "out" / "fleet.png").read_bytes()[:4] == b"\x89PNG"


def test_the_command_goes_on_and_new_rows_come_by_the_pipe(tmp_path, capsys):
    keys, rows = _rows()
    whole = _csv(tmp_path / "whole.csv", keys, rows)
    assert _fleet(whole, *OPTIONS, "--out", tmp_path / "whole") == 0
    store = ["--store", tmp_path / "fleet.db", "--out", tmp_path / "parts"]
    growing = _csv(tmp_path / "growing.csv", keys[:100], rows[:100])
    growing.write_bytes(growing.read_bytes()[:-3])  # the last line is being written
    assert _fleet(growing, *OPTIONS, *store) == 0
    assert len(_predictions(tmp_path / "parts")) == 100
    _csv(growing, keys[:200], rows[:200])
    assert _fleet(growing, *OPTIONS, *store, "--resume") == 0
    assert "Going on from row 99 with 3 keys" in capsys.readouterr().err
    with open(_csv(tmp_path / "rest.csv", keys[200:], rows[200:])) as rest:
        before = os.dup(0)
        os.dup2(rest.fileno(), 0)
        assert _fleet("-", *OPTIONS, "--continues", *store) == 0
        os.dup2(before, 0)
    same = [(tmp_path / name / "predictions.csv").read_bytes() for name in ("whole", "parts")]
    assert same[0] == same[1]
    assert _fleet(whole, *OPTIONS, *store) == 0  # nothing new


def _environment():
    package = str(Path(sg.__file__).parent.parent)
    return os.environ | {"PYTHONPATH": package, "STREAMGRAD_COMPILATION_CACHE": "off"}


def test_the_command_refuses_by_name(tmp_path, capsys):
    keys, rows = _rows(60)
    file, out = _csv(tmp_path / "rows.csv", keys, rows), ["--out", tmp_path / "out"]

    def refused(*arguments, status=1):
        assert _fleet(*arguments) == status
        return capsys.readouterr().err

    assert "which column has the keys? Say --key COLUMN" in refused(file, "--target", "value")
    assert "no column 'senser': did you mean 'sensor'" in refused(file, "--key", "senser", "--target", "value")
    assert "'value' is a target" in refused(file, "--key", "value", "--target", "value", *out)
    assert "--late skip needs times" in refused(file, *OPTIONS[:4], "--late", "skip")
    assert "there is no" in refused(file, *OPTIONS, *out, "--store", tmp_path / "none.db", "--resume")
    refused(file, *OPTIONS, *out, status=0)
    assert "horizon was 1 and is now 3" in refused(file, *OPTIONS, *out, "--horizon", "3")
    assert "holds a run already" in refused(file, *OPTIONS, *out, "--store", tmp_path / "other.db")
    changed = rows.copy()
    changed[np.flatnonzero(np.isfinite(rows[:, 0]))[3], 0] += 1
    _csv(file, keys, changed)
    assert "are not those that the store was made from" in refused(file, *OPTIONS, *out)
    _csv(file, keys[:20], rows[:20])
    assert "ends before data row" in refused(file, *OPTIONS, *out)
    other = [keys[k] if k != 5 else "z" for k in range(len(keys))]
    _csv(file, other, rows)
    assert "are not those" in refused(file, *OPTIONS, *out)
    (tmp_path / "out" / "predictions.csv").unlink()
    _csv(file, keys, rows)
    assert "start anew with --overwrite" in refused(file, *OPTIONS, *out)
    late = [*rows[:30], [1.0, 1.0], *rows[30:]]
    _csv(file, [*keys[:30], keys[0], *keys[30:]], late)
    told = refused(file, *OPTIONS, *out, "--overwrite")
    assert "data row 31" in told and f"key {keys[0]!r} goes back" in told
    assert len(_predictions(tmp_path / "out")) == 30
    refused(file, *OPTIONS, *out, "--overwrite", "--late", "skip", status=0)
    _csv(file, [*keys[:30], "", *keys[31:]], rows)
    assert "the key is missing" in refused(file, *OPTIONS, *out, "--overwrite")
    assert len(_predictions(tmp_path / "out")) == 30


@pytest.mark.full
def test_a_killed_command_goes_on_to_the_same_bytes(tmp_path):
    keys, rows = _rows(700)
    file = _csv(tmp_path / "rows.csv", keys, rows)
    rng, environment = np.random.default_rng(1), _environment()
    environment["STREAMGRAD_COMPILATION_CACHE"] = str(tmp_path / "cache")

    def start(name):
        command = [sys.executable, "-m", "streamgrad.cli", "fleet", str(file), *OPTIONS, "--commit-every", "100"]
        command += ["--slots", "2", "--out", str(tmp_path / name)]
        return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    assert start("whole").wait() == 0
    predictions, killed = tmp_path / "killed" / "predictions.csv", 0
    for _ in range(3):
        process, before = start("killed"), predictions.stat().st_size if predictions.exists() else 0
        while process.poll() is None and (not predictions.exists() or predictions.stat().st_size <= before):
            time.sleep(0.002)
        time.sleep(0.05 * rng.random())
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
    assert killed and start("killed").wait() == 0
    assert predictions.read_bytes() == (tmp_path / "whole" / "predictions.csv").read_bytes()
