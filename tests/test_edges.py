"""Sources of one's own, whole files, one pass for forecasters and fleets, and what a newcomer gets wrong."""

import ast
import dataclasses
import hashlib
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import streamgrad as sg
from streamgrad import checkpoint, cli
from streamgrad._base.files import write_whole
from streamgrad.checkpoint import CheckpointError, whole_file
from streamgrad.cli import fleet as fleet_command, learn as learn_command, stream
from streamgrad.data import Source, SourceError, open_source
from streamgrad.fleet import FleetError, Forecasters
from streamgrad.fleet._clocks import Clocks
from streamgrad.forecast import Forecaster, Net, Record, RowError, backtest
from streamgrad.forecast._pass import Pass

PACKAGE = Path(sg.__file__).parent
HOUR, START = 3600, 1_700_000_000
Y = np.sin(np.arange(60) / 3)
TIMES = START + HOUR * np.arange(60)
ROWS = [{"y": float(y), "when": int(t), "shop": "ab"[k % 2]} for k, (y, t) in enumerate(zip(Y, TIMES))]


def light(**options):
    return Forecaster(**{"target": "y", "learner": "light", "levels": (), **options})


def csv(path, rows=ROWS, head="y,when,shop"):
    path.write_text(head + "\n" + "".join(",".join(str(row[name]) for name in head.split(",")) + "\n" for row in rows))
    return path


# Whole files.


def test_a_file_is_replaced_whole_or_stays(tmp_path):
    path, link = tmp_path / "a.txt", tmp_path / "link.txt"
    write_whole(path, "one")
    link.symlink_to(path)
    with pytest.raises(RuntimeError), whole_file(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "one" and temporary.parent == tmp_path and temporary.suffix == ".txt"
        raise RuntimeError
    write_whole(link, b"two")
    assert link.is_symlink() and path.read_text() == "two"
    left = [tmp_path / f".a.txt.{number}.tmp.txt" for number in (1, 2)]
    for each in left:
        each.write_text("of a process that was killed")
    os.utime(left[0], (0, 0))
    write_whole(path, "three")
    assert not left[0].exists() and left[1].exists()  # the second may still be written
    with pytest.raises(OSError) as error:
        write_whole(tmp_path / "no" / "b.txt", "x")
    assert error.value.filename == str(tmp_path / "no" / "b.txt")


def test_what_is_written_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append("fsync"))
    monkeypatch.setattr(os, "replace", lambda old, new: done.append("replace"))
    write_whole(tmp_path / "a", "x")
    assert done == ["fsync", "replace", "fsync"]


def test_there_is_one_place_where_a_file_takes_anothers():
    calls = [
        (path.relative_to(PACKAGE).as_posix(), node.func.attr)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if isinstance(node.func.value, ast.Name) and node.func.value.id in ("os", "shutil")
        if node.func.attr in ("replace", "rename", "renames", "move")
    ]
    assert calls == [("_base/files.py", "replace")]


# Sources.


class Sensor(Source):
    """Rows in batches of any kind."""

    def __init__(self, batches, columns=("y", "when", "shop"), **options):
        super().__init__("the sensor", columns, **options)
        self._given = batches

    def batches(self, columns):
        which = [self.columns.index(name) for name in columns]
        for batch in self._given:
            yield batch[:, which] if isinstance(batch, np.ndarray) else [[row[k] for k in which] for row in batch]


def cells(rows):
    return [[row["y"], row["when"], row["shop"]] for row in rows]


@pytest.mark.parametrize(
    "batches",
    [
        [cells(ROWS[:1]), [], cells(ROWS[1:])],
        [np.array(cells(ROWS), object)],
        [[[repr(y), str(np.datetime64(int(t), "s")), s] for y, t, s in cells(ROWS)]],
    ],
    ids=["lists", "objects", "texts"],
)
def test_a_source_of_ones_own_is_read_as_a_file_is(batches, tmp_path):
    make = lambda: light(time="when", categorical="shop")
    expected = make().run(csv(tmp_path / "rows.csv"))
    said = make().run(Sensor(batches))
    assert len(said) == 60
    np.testing.assert_array_equal(said.value, expected.value)


def test_a_source_of_ones_own_is_recorded_resumed_and_searched(tmp_path):
    plain = [np.stack([Y, TIMES], 1)[k : k + 7] for k in range(0, 60, 7)]
    source = lambda n: Sensor(plain[:n], ("y", "when"), rows=60)
    for n in (4, 9):
        record = Record(light(time="when"), source(n), str(tmp_path / "run"), log_every=10)
        if n == 9:
            record.resume()
        assert record()
    whole = Record(light(time="when"), source(9), tmp_path / "whole", log_every=10)
    whole()
    assert (tmp_path / "run/predictions.csv").read_bytes() == (tmp_path / "whole/predictions.csv").read_bytes()
    assert backtest(source(9), {"target": "y", "learner": "light"})[0]["nrmse"] > 0


@pytest.mark.parametrize(
    ("batches", "options", "match"),
    [
        ([np.zeros((2, 3, 1))], {}, r"after 0 rows has shape \(2, 1, 1\), and \(rows, 1\) was expected"),
        ([[[1.0, 2, "a"], ["x", 3, "b"]]], {}, "the sensor, data row 2, column 'y': 'x' is not a number"),
        ([[[1e200, 2, "a"]]], {}, "data row 1, column 'y': the value is 1e.200"),
        ([[[-200, 2, "a"]]], {"columns": "y"}, "columns must be a sequence of names"),
        ([[[-200, 2, "a"]]], {"columns": []}, "no columns at all.*super"),
    ],
)
def test_what_a_source_of_ones_own_gets_wrong_is_named(batches, options, match):
    with pytest.raises(SourceError, match=match):
        list(Sensor(batches, **options).read(["y"]))


def test_a_source_without_rows_a_ragged_one_and_one_that_is_read_once():
    class Nothing(Source):
        pass

    class GatheredRows(Sensor):
        def batches(self, columns):
            yield [[1.0, 2.0], [3.0]]

    with pytest.raises(NotImplementedError, match=r"Nothing has no rows: .* defines batches\(self, columns\)"):
        list(Nothing("it", ["y"]).read(["y"]))
    with pytest.raises(SourceError, match=r"after 0 rows has shape .2,., and .rows, 2. was expected"):
        list(GatheredRows([]).read(["y", "when"]))
    once = Sensor([cells(ROWS)], once=True, missing=[-200])
    assert sum(map(len, once.read(["y"]))) == 60
    with pytest.raises(SourceError, match="only once"):
        list(once.read(["y"]))
    again = Sensor([cells(ROWS)])
    assert [sum(map(len, again.read(["y"], start))) for start in (0, 50)] == [60, 10]
    lost = Sensor([[[-200, 0, "a"], [None, 0, "a"], ["NA", 0, "a"], [True, 0, "a"]]], missing=[-200])
    np.testing.assert_array_equal(np.concatenate(list(lost.read(["y"])))[:, 0], [np.nan, np.nan, np.nan, 1])


def test_data_has_no_import_circle():
    folder = PACKAGE / "data"
    graph = {}
    for path in folder.glob("*.py"):
        nodes = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.ImportFrom)]
        names = [node.module.removeprefix("streamgrad.data.") for node in nodes if node.module and not node.level]
        graph[path.stem] = {name for name in names if (folder / f"{name}.py").exists()}
    while leaves := [name for name, used in graph.items() if not used & graph.keys()]:
        for name in leaves:
            del graph[name]
    assert not graph


# Where a row lies.


@pytest.mark.parametrize("form", ["csv", "json"])
def test_the_byte_of_every_row_is_found_again(form, tmp_path):
    rng, text, places = np.random.default_rng(0), "k,y\n" if form == "csv" else "", []
    for k in range(3000):
        name = "a" * int(rng.integers(60)) + ('"",\n' if form == "csv" and k % 7 == 0 else "é")
        line = f'"{name}",{k}\n' if form == "csv" else json.dumps({"k": name, "y": k}) + "\n"
        if form == "csv" and k % 11 == 0:
            text += "\n"  # an empty line is no row
        places.append(len(text.encode()))
        text += line
    path = tmp_path / f"rows.{form}"
    path.write_text(text)
    source = open_source(path)
    read = np.concatenate(list(source.read(["y"])))
    assert len(read) == 3000
    for row in (0, 1, 7, 700, 1499, 2999):
        assert source.byte_of(row) == places[row]
    assert open_source(ROWS).byte_of(3) is None


def test_a_late_row_is_named_with_its_place(tmp_path):
    rows = [dict(row) for row in ROWS]
    rows[40]["when"] = START
    path = csv(tmp_path / "late.csv", rows)
    byte = path.read_text().index(f"{rows[40]['y']},{START},")
    place = rf"late\.csv, data row 41: .*goes back.* The row begins at byte {byte}\."
    with pytest.raises(RowError, match=place):
        light(time="when").run(path)
    with pytest.raises(RowError, match=place):
        backtest(path, {"target": "y", "time": "when", "learner": "light"})
    with pytest.raises(RowError, match=place):
        Record(light(time="when"), open_source(path), tmp_path / "run")()
    with Forecasters("y", time="when", learner="light") as fleet, pytest.raises(RowError, match=place):
        sg.fleet.Record(fleet, open_source(path), "shop", tmp_path / "fleet")()
    twice = light(time="when")
    twice.run(ROWS)
    with pytest.raises(
        RowError, match="the rows, data row 1: time goes back: 2023-11-14 22:13:20 comes after 2023-11-17"
    ):
        twice.run(ROWS)
    with pytest.raises(RowError, match=r"^time goes back: "):
        twice.update(ROWS[0])
    with pytest.raises(RowError, match=r"^row 2 of this call: time goes back: .* comes after 2286"):
        twice.learn(np.array([[1, 1e10 - 1], [2, 1e10 - 1], [3, 1e9]]))


# One mechanism for both.


def test_learn_and_fleet_share_their_options_and_their_pass():
    shared = {field.name for field in dataclasses.fields(stream.Options)}
    for command in (learn_command, fleet_command):
        assert issubclass(command.Options, stream.Options)
        assert not {"run_command", "errors", "UsageError"} & {
            node.name for node in ast.parse(Path(command.__file__).read_text()).body if hasattr(node, "name")
        }
    own = [{f.name for f in dataclasses.fields(c.Options)} - shared for c in (learn_command, fleet_command)]
    assert not own[0] & own[1]
    assert issubclass(Record, Pass) and issubclass(sg.fleet.Record, Pass)


def test_fingerprints_are_those_of_stores_and_checkpoints_of_before(tmp_path):
    """The formula that older folders were written by, on its own."""
    rows = np.stack([Y, TIMES], 1)
    rows[3, 0], rows[5, 0] = np.nan, -0.0
    plain = rows.copy()
    plain[5, 0] = 0.0
    alone = keyed = hashlib.sha256(b"rows").digest()
    for k, row in enumerate(plain.astype("<f8")):
        alone = hashlib.sha256(alone + row.tobytes()).digest()
        keyed = hashlib.sha256(keyed + "ab"[k % 2].encode() + b"\0" + row.tobytes()).digest()
    table = {"y": rows[:, 0], "when": rows[:, 1], "shop": [row["shop"] for row in ROWS]}
    record = Record(light(time="when"), open_source(table), tmp_path / "run")
    record()
    saved = checkpoint.load(tmp_path / "run/checkpoints", record._state(), config=record.config)
    assert saved.tree["fingerprint"].tobytes() == alone
    with Forecasters("y", time="when", learner="light") as fleet:
        sg.fleet.Record(fleet, open_source(table), "shop", tmp_path / "fleet")()
        assert fleet.offset["fingerprint"] == keyed.hex() and fleet.offset["rows"] == 60


def test_the_first_time_of_a_key_may_be_any():
    lowest = np.iinfo(np.int64).min
    on_time, newest = Clocks("refuse", 0).look(["a", "a"], np.array([lowest, lowest + 1]), lambda keys: {})
    assert on_time.all() and newest == {"a": lowest + 1}
    with pytest.raises(ValueError, match=r"is out of order: its time 3 is not after 3.*Do this"):
        Clocks("refuse", 0, "Do this.").look(["a"], np.array([3]), lambda keys: {"a": 3})


# What a newcomer gets wrong.


HEADLESS = "its columns are a, 1.5. Its first line looks like data"
REFUSED = [
    (lambda: light(horizon=0), ValueError, r"^horizon must be a whole number of rows from 1 to 100,000, got 0\.$"),
    (lambda: Forecaster(target=None), ValueError, "target must be a name"),
    (lambda: Forecaster(target=""), ValueError, "target: the name of a column was expected"),
    (lambda: light(levels=["a"]), ValueError, "levels must be shares"),
    (lambda: light().learn(np.array([["a"]])), ValueError, "rows must be numbers"),
    (lambda: light().learn(np.array([[1.0], [np.inf]])), RowError, "row 1 of this call, column 'y': inf is infinite"),
    (
        lambda: light(known="x").learn(np.zeros((3, 2)), np.zeros((2, 1))),
        ValueError,
        r"ahead must have .* got \(2, 1\)",
    ),
    (lambda: light().run({1.0, 2.0}), SourceError, "the set has no order"),
    (lambda: backtest(ROWS, {}), ValueError, "a setting has no target, got {}"),
    (lambda: backtest(ROWS, None), ValueError, "grid must be a mapping"),
    (lambda: backtest(ROWS, "y"), ValueError, "grid must be a mapping"),
    (lambda: backtest(ROWS, ["y"]), ValueError, "grid must be a mapping"),
    (lambda: backtest(ROWS, {"target": "y", "horizon": []}), ValueError, "grid.'horizon'. is an empty list"),
    (lambda: backtest(ROWS, {"target": "y", "horizn": 1}), ValueError, "no setting 'horizn': did you mean 'horizon'"),
    (lambda: backtest({"y": []}, {"target": "y", "learner": "light"}), SourceError, "has no rows"),
    (lambda: Record(light(), "demand.csv", "f"), TypeError, "open it, as streamgrad.data.open_source"),
    (lambda: Record(light(), open_source(ROWS), "f", log_every=0), ValueError, "log_every must be at least 1"),
    (lambda: Record(light(), open_source(ROWS), "f", checkpoint_every=0), ValueError, "checkpoint_every must be"),
    (lambda: Record(light(), open_source(ROWS), "f", keep=1.5), ValueError, "keep must be a whole number"),
    (lambda: sg.fleet.Record(fleet(), open_source(ROWS), 3, "f"), TypeError, "key must be the name of a column"),
    (lambda: sg.fleet.Record(fleet(), open_source(ROWS), "shop", "f", commit_every=0), ValueError, "commit_every must"),
    (lambda: fleet(store="."), FleetError, "is a folder, and a file was expected"),
    (lambda: fleet(store="nowhere/fleet.db"), FleetError, "there is no folder nowhere"),
    (lambda: fleet().commit(offset={1}), TypeError, "offset must be what JSON can hold"),
    (lambda: fleet().learn(["a"], [["x"]]), ValueError, "rows must be numbers"),
    (lambda: fleet().learn(["a"], [[np.inf]]), RowError, "inf is infinite"),
    (lambda: closed().offset, FleetError, "is closed"),
    (lambda: checkpoint.save("c", {"a": 1}, step=-1), CheckpointError, "step=-1: a whole number"),
    (lambda: checkpoint.save("c", {"a": 1}, step=1.5), CheckpointError, "step=1.5"),
    (lambda: checkpoint.save("c", {"a": 1}, step="x"), CheckpointError, "step='x'"),
    (lambda: checkpoint.save("c", {"a": 1}, step=10**12), CheckpointError, "up to 12 digits"),
    (lambda: checkpoint.save("c", {"a": 1}, step=np.zeros(0, int)), CheckpointError, "a whole number"),
    (lambda: checkpoint.save("c", {"a": 1}, step=1, keep=1.5), CheckpointError, "keep=1.5"),
    (lambda: checkpoint.save("c", {"a": 1}, step=1, meta={"s": {1}}), CheckpointError, "meta must hold what JSON"),
    (lambda: checkpoint.save("c", {"a": 1}, step=1, config=[1]), CheckpointError, "config must be a mapping"),
    (lambda: checkpoint.save(__file__, {"a": 1}, step=1), CheckpointError, "is a file, and a folder"),
    (lambda: open_source(np.zeros((2, 2)), columns="ab"), SourceError, "columns must be a sequence of names"),
    (lambda: open_source(np.zeros((2, 2)), columns=[1, 2]), SourceError, "names are texts, got 1"),
    (lambda: open_source(np.zeros((2, 0))), SourceError, "at least one column"),
    (lambda: open_source({}), SourceError, "the dict is empty"),
    (lambda: open_source(ROWS, skip_lines="3"), SourceError, "skip_lines '3'"),
    (lambda: open_source(ROWS, skip_lines=1.5), SourceError, "skip_lines 1.5"),
    (lambda: open_source(ROWS, delimiter=1), SourceError, "delimiter 1"),
    (lambda: open_source(ROWS, comment=3), SourceError, "comment 3"),
    (lambda: list(open_source(ROWS).read("y")), SourceError, "got 'y'"),
    (lambda: list(open_source(ROWS).read([])), SourceError, "at least one column"),
    (lambda: list(open_source(ROWS).read(["y"], -1)), SourceError, "start must be"),
    (lambda: list(open_source(ROWS).read(["y"], 99)), SourceError, "it has 60 rows"),
    (lambda: list(open_source(ROWS).read(["y"], place="x")), SourceError, "place must be a pair"),
]


def fleet(**options):
    return Forecasters("y", learner="light", **options)


def closed():
    found = fleet()
    found.close()
    return found


def refuse_all():
    """Each case in a process without the type checks of the other tests, as a user has it."""
    for k, (do, kind, match) in enumerate(REFUSED):
        try:
            do()
        except Exception as error:
            if type(error) is kind and re.search(match, str(error)):
                continue
            print(f"case {k}: {type(error).__name__}: {error}")
        else:
            print(f"case {k}: not refused")
    print(*os.listdir())


def test_bad_input_is_refused_by_name(tmp_path):
    paths = os.pathsep.join(map(str, (PACKAGE.parent, Path(__file__).parent)))
    script = [sys.executable, "-c", "import test_edges; test_edges.refuse_all()"]
    done = subprocess.run(script, cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True)
    assert not done.stdout.strip(), done.stdout  # no file was begun, either
    assert done.returncode == 0, done.stderr


def test_a_number_may_mean_missing_and_nan_in_a_config_is_itself(tmp_path):
    source = open_source([{"y": -200}, {"y": 1}], missing=[-200])
    np.testing.assert_array_equal(np.concatenate(list(source.read(["y"])))[:, 0], [np.nan, 1])
    checkpoint.save(tmp_path, {"a": 1}, step=np.array([2, 2]), config={"rate": float("nan")})
    assert checkpoint.load(tmp_path, {"a": 0}, config={"rate": float("nan")}).step == 2
    assert light(net=Net()).horizon == 1


def command(capsys, *arguments, status=1):
    assert cli.main([*map(str, arguments), "--light"]) == status
    told = capsys.readouterr()
    return told.err if status else told.err + told.out


def test_the_commands_refuse_by_name(tmp_path, capsys):
    rows, file = csv(tmp_path / "rows.csv"), tmp_path / "file"
    file.write_text("x")
    (tmp_path / "headless.csv").write_text("a,1.5\nbb,2.0\nccc,2.25\n")
    headless, keyed = tmp_path / "headless.csv", ("fleet", rows, "--key", "shop", "--target", "y")
    assert HEADLESS in command(capsys, "learn", headless, "--target", "y")
    assert HEADLESS in command(capsys, "fleet", headless, "--key", "k", "--target", "y")
    assert "Its first line looks like data" in command(capsys, "learn", headless)
    assert "Its first line" not in command(capsys, "learn", rows, "--target", "z")
    for out in (file, file / "sub"):
        needed = f"{file} is a file, and a folder is needed"
        assert needed in command(capsys, *keyed, "--out", out)
        assert f"{file} is a file, and a folder is needed" in command(
            capsys, "learn", rows, "--target", "y", "--out", out
        )
    assert "is a folder, and a file was expected" in command(capsys, *keyed, "--store", tmp_path)
    assert f"{file} is a file" in command(capsys, *keyed, "--store", file / "fleet.db")
    out = tmp_path / "out"
    assert "a file that the run writes" in command(capsys, *keyed, "--out", out, "--store", out / "predictions.csv")
    assert "is the source" in command(capsys, *keyed, "--out", out, "--store", rows)
    taken = csv(tmp_path / "keys.csv")
    assert "which this run would write" in command(capsys, "learn", taken, "--target", "y", "--out", tmp_path)
    assert not out.exists() and taken.read_text() == rows.read_text()


def test_the_commands_say_what_they_leave_out_and_write_nothing_after_a_refusal(tmp_path, capsys):
    rows, out = csv(tmp_path / "rows.csv"), tmp_path / "out"
    keyed = ("fleet", rows, "--key", "shop", "--target", "y", "--out", out)
    alone = ("learn", rows, "--target", "y", "--out", tmp_path / "alone")
    for one in (keyed, alone):
        assert "Left out of --features: y." in command(capsys, *one, "--features", "y", status=0)
    csv(rows, [ROWS[1], *ROWS[1:]])
    for one in (keyed, (*alone, "--resume")):
        assert cli.main([*map(str, one), "--light"]) == 1
        told = capsys.readouterr()
        assert "so nothing was learned" in told.err and not told.out
    (tmp_path / "none.csv").write_text("y,shop\n" + "\n".join(f",{name}" for name in "abab"))
    none = ("fleet", tmp_path / "none.csv", "--key", "shop", "--target", "y", "--out", tmp_path / "none")
    assert "'y' has no value in any of the 4 rows" in command(capsys, *none)


def test_the_picture_of_a_fleet_speaks_of_a_forecaster():
    with Forecasters("y", learner="light") as fleet:
        fleet.learn([row["shop"] for row in ROWS], Y[:, None])
        figure = sg.fleet.Summary.of(fleet).plot(fleet, title="y")
    labels = [
        text.get_text() for axes in figure.axes for text in (axes.get_legend().get_texts() if axes.get_legend() else ())
    ]
    assert "forecaster" in labels and "network" not in labels


def test_the_table_of_algorithms_has_empty_cells_for_what_was_not_measured(monkeypatch, capsys):
    monkeypatch.syspath_prepend(PACKAGE.parent.parent / "docs")
    algorithms = importlib.import_module("_algorithms")
    assert algorithms.noise_of("SnAp-1", {"SnAp-1": 0.0}) == "none" and algorithms.noise_of("UORO", {"UORO": 2.5})
    assert algorithms.noise_of("New", {}) == ""
    assert re.search("spread.json has no row for New: .*--measure", capsys.readouterr().err)
    monkeypatch.setattr(algorithms, "traits", lambda cell, name: None)
    assert algorithms.power("New", "flops") == algorithms.gradient("New") == ""
    sys.modules.pop("_algorithms")
