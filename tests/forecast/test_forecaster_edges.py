"""What a newcomer does to a forecaster and its command: odd arguments, odd rows, files that grow, runs that stop."""

from __future__ import annotations

import collections
import copy
import decimal
import os
import pickle
import re
import signal
import threading

import jaxtyping
import numpy as np
import pytest

from streamgrad import cli
from streamgrad.data import SourceError, open_source
from streamgrad.forecast import Forecaster, Net, RowError


@pytest.fixture(autouse=True)
def as_a_user_runs_it(monkeypatch):
    """Without the checks of types that the other tests have: the forecaster itself must say what is wrong."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


RNG = np.random.default_rng(0)
Y = 20 + np.sin(np.arange(300) / 3) + 0.1 * RNG.standard_normal(300)
X = RNG.standard_normal(300)


def light(target="y", **more):
    return Forecaster(target, **{"learner": "light", **more})


def _csv(path, head, *columns, end=None):
    lines = [",".join(v if isinstance(v, str) else repr(float(v)) for v in row) for row in zip(*columns)]
    path.write_text(head + "\n" + "\n".join(lines[:end]) + "\n")
    return path


def _learn(*arguments):
    return cli.main(["learn", *map(str, arguments), "--light"])


# What is asked for.


@pytest.mark.parametrize(
    "options, words",
    [
        ({"horizon": True}, "horizon must be a whole number"),
        ({"horizon": 10**9}, "would take [0-9,]+ bytes"),
        ({"period": 24.5}, "period must be a whole number"),
        ({"period": "24"}, "period must be a whole number"),
        ({"seed": None}, "seed must be a whole number"),
        ({"seed": 10**25}, "seed must be"),
        ({"levels": 0.8}, "levels must be a sequence"),
        ({"levels": (0.8, 0.8)}, "levels must differ"),
        ({"levels": (0.99999999, 0.999999999)}, "levels must differ"),
        ({"features": None}, "features must be a name"),
        ({"target": None}, "target must be a name"),
        ({"target": True}, "named by texts"),
        ({"target": 0, "features": ("0",)}, "named twice"),
        ({"learner": None}, "learner must be a name"),
        ({"net": {"units": 3}}, "net must be a Net"),
        ({"net": Net(units=3)}, "net: learner='light'"),
        ({"learner": "adam", "net": Net(lags=10**6)}, "would take 4,000,[0-9,]+ bytes"),
        ({"learner": "frozen", "net": Net(units=10**30)}, "bytes"),
    ],
)
def test_arguments_that_cannot_be_meant(options, words):
    with pytest.raises(ValueError, match=words):
        light(**{"target": "y", **options})


def test_whole_numbers_of_numpy_and_one_name_for_several():
    f = light(horizon=np.int64(2), period=np.int32(24), seed=np.uint8(3), beside="rls")
    assert f.settings["horizon"] == 2 and f.settings["beside"] == ["rls"]
    assert all(type(f.settings[name]) is int for name in ("horizon", "period", "seed"))


# Rows.


@pytest.mark.parametrize(
    "row",
    [
        {"y": np.float32(1), "x": np.int8(7)},
        {"y": " 1 ", "x": decimal.Decimal(7)},
        {"y": True, "x": np.array(7.0)},
        [1.0, 7.0],
        collections.namedtuple("Row", "Index x y")(0, 7.0, 1.0),
        np.array([(7.0, 1.0)], dtype=[("x", float), ("y", float)])[0],
        pytest.param("series", id="row of a data frame"),
    ],
)
def test_rows_with_names_go_by_their_names(row):
    if isinstance(row, str):
        row = pytest.importorskip("pandas").Series({"x": 7.0, "y": 1.0})
    assert light(features=("x",)).columns.row(row) == [1.0, 7.0]


def test_numbers_of_columns_pick_from_a_row_as_from_an_array():
    columns = light(1, features=(0,)).columns
    assert columns.row([7.0, 1.0]) == [1.0, 7.0] == columns.row({0: 7.0, 1: 1.0})


@pytest.mark.parametrize("row", [1j, "x", b"x", {"y"}, [1, 2], np.ones((1, 2)), object(), np.timedelta64(1, "s")])
def test_rows_that_are_none(row):
    with pytest.raises(RowError):
        light().columns.row(row)


@pytest.mark.parametrize(
    "known, ahead, words",
    [(("k",), {"kk": 1}, "lacks 'k'"), (("k",), 3.0, "a mapping"), ((), {"k": 1}, "no column is known")],
)
def test_what_is_known_ahead_is_checked(known, ahead, words):
    with pytest.raises(RowError, match=words):
        light(known=known).columns.ahead(ahead)


@pytest.mark.parametrize(
    "target, rows",
    [
        ("y", lambda: Y.tolist()),
        ("y", lambda: iter(Y.tolist())),
        ("y", lambda: list(Y)),
        ("y", lambda: [[v] for v in Y]),
        (0, lambda: Y),
        (0, lambda: Y.tolist()),
        (0, lambda: [[v] for v in Y]),
        (0, lambda: Y.astype(object)),
        (1, lambda: np.stack([X, Y], axis=1)),
        ("y", lambda: pytest.importorskip("pandas").Series(Y)),
        (5, lambda: pytest.importorskip("pandas").DataFrame({4: X, 5: Y})),
        ("y", lambda: (row for _, row in pytest.importorskip("pandas").DataFrame({"x": X, "y": Y}).iterrows())),
        ("y", lambda: pytest.importorskip("pyarrow").array(Y)),
    ],
)
def test_streams_without_names(target, rows):
    forecaster = light(target)
    from streamgrad.forecast._feed import portions

    found = np.concatenate([part for part, _ in portions(forecaster, rows())])
    np.testing.assert_array_equal(found[:, 0], Y)


def test_streams_without_names_of_another_width():
    with pytest.raises(RowError, match="the rows have 2 columns without names, and 1 were expected"):
        light().run([[1.0, 2.0]])


def test_an_index_is_no_column():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"y": Y[:5]}, index=pandas.date_range("2024", periods=5, name="when"))
    with pytest.raises(SourceError, match="reset_index"):
        light(time="when").run(frame)


# Times.


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("2024-05-01T12:30:00Z", 1714566600),
        ("20240501", 1714521600),
        (20240501, 1714521600),
        ("1714566600", 1714566600),
        (1714566600.5, 1714566600.5),
        ("10000101", 10000101),
        ("17145666000", 17145666000),  # eleven digits, which the standard library takes for a day and an hour
    ],
)
def test_times(text, seconds):
    assert light(time="t").columns.row({"y": 1, "t": text})[1] == seconds


@pytest.mark.parametrize("value", ["05/01/2024 12:30", 1.7e12, "1700010800000", 17 * 10**17, float("inf"), "12:30"])
def test_what_is_no_time_says_what_is_one(value):
    with pytest.raises(RowError, match=r"is no time: ISO 8601.*milliseconds"):
        light(time="t").columns.row({"y": 1, "t": value})
    with pytest.raises(SourceError, match=r"data row 2, column 't'.*is no time: ISO 8601"):
        rows = open_source([{"y": 1, "t": 0}, {"y": 1, "t": value}])
        light(time="t").run(rows)


def test_rows_before_one_that_goes_back_in_time_are_learned_and_saved(tmp_path, capsys):
    times = np.arange(300) * 60.0
    good = _csv(tmp_path / "good.csv", "y,t", Y, times)
    wrong = times.copy()
    wrong[250] = 0
    bad = _csv(tmp_path / "bad.csv", "y,t", Y, wrong)
    options = ("--target", "y", "--time", "t")
    assert _learn(good, *options, "--out", tmp_path / "once") == 0
    assert _learn(bad, *options, "--out", tmp_path / "twice") == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert "bad.csv, data row 251: time goes back" in told and told.endswith("The row begins at byte 6462.")
    assert len((tmp_path / "twice" / "predictions.csv").read_text().splitlines()) == 251
    assert _learn(good, *options, "--out", tmp_path / "twice", "--resume") == 0
    same = [(tmp_path / name / "predictions.csv").read_bytes() for name in ("once", "twice")]
    assert same[0] == same[1]
    forecaster = light(time="t")
    with pytest.raises(RowError, match="goes back"):
        forecaster.run(np.stack([Y, wrong], axis=1))
    assert forecaster.row == 250


# Runs.


def test_a_copy_shares_nothing_and_goes_on_alike():
    forecaster = light()
    forecaster.run(Y[:40])
    others = copy.copy(forecaster), copy.deepcopy(forecaster), pickle.loads(pickle.dumps(forecaster))  # noqa: S301
    assert len({float(other.update(5.0).value) for other in others}) == 1 and forecaster.row == 40
    again = copy.copy(forecaster)
    np.testing.assert_array_equal(forecaster.run(Y[40:]).value, again.run(Y[40:]).value)


def test_threads_take_turns():
    forecaster, errors = light(), []

    def go():
        try:
            for value in Y[:40]:
                forecaster.update(value)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=go) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and forecaster.row == 120 == forecaster.targets[0].encoder.state["rows"][0]


def test_ctrl_c_leaves_a_forecaster_whole():
    forecaster, whole, learned = light(("y", "x")), light(("y", "x")), 0
    rows = np.stack([Y, X], axis=1)
    first, inner = forecaster.targets[0], forecaster.targets[0].__class__.__call__

    def interrupted(self, part):
        nonlocal learned
        if self is first and len(part) and (learned := learned + 1) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return inner(self, part)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(first.__class__, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            forecaster.run(rows)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert 0 < forecaster.row < 300
    whole.run(rows[: forecaster.row])
    np.testing.assert_array_equal(forecaster.run(rows[:40]).value, whole.run(rows[:40]).value)


def test_what_was_saved_last_is_loaded(tmp_path):
    old, new = light(), light()
    old.run(Y)
    old.save(tmp_path)
    new.run(Y[:10])
    new.save(tmp_path)
    assert Forecaster.load(tmp_path).row == 10
    new.restart()
    new.update(1.0)
    new.save(tmp_path, keep=1)
    assert Forecaster.load(tmp_path).row == 1


def test_numbers_of_rows_are_checked():
    with pytest.raises(ValueError, match=r"shape \(rows, 1\)"):
        light().learn(np.ones((2, 3)))


# The command.


def test_python_writes_the_bytes_of_the_command_and_loads_its_folder(tmp_path):
    file = _csv(tmp_path / "s.csv", "y,x,t", Y, X, np.arange(300) * 3600.0)
    assert _learn(file, "--target", "y", "x", "--time", "t", "--horizon", 3, "--out", tmp_path / "run") == 0
    forecaster = light(("y", "x"), time="t", horizon=3)
    forecaster.run(file).to_csv(tmp_path / "own.csv")
    assert (tmp_path / "own.csv").read_bytes() == (tmp_path / "run" / "predictions.csv").read_bytes()
    row = {"y": 20.0, "x": 0.0, "t": 300 * 3600.0}
    expected = forecaster.update(row).value
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoints"):
        loaded = Forecaster.load(folder)
        assert loaded.row == 300
        np.testing.assert_array_equal(loaded.update(row).value, expected)


@pytest.mark.parametrize("end", ["", "-2"], ids=["whole", "cut within a number"])
def test_a_file_with_known_columns_grows(tmp_path, end):
    whole = _csv(tmp_path / "whole.csv", "y,k", Y, X)
    part, options = tmp_path / "part.csv", ("--target", "y", "--known", "k", "--horizon", 5)
    _csv(part, "y,k", Y, X, end=200)
    if end:
        part.write_text(part.read_text()[: int(end) - 1])
    assert _learn(whole, *options, "--out", tmp_path / "once") == 0
    assert _learn(part, *options, "--out", tmp_path / "twice") == 0
    assert len((tmp_path / "twice" / "predictions.csv").read_text().splitlines()) == 201
    part.write_bytes(whole.read_bytes())
    assert _learn(part, *options, "--out", tmp_path / "twice", "--resume") == 0
    assert (tmp_path / "once" / "predictions.csv").read_bytes() == (tmp_path / "twice" / "predictions.csv").read_bytes()


def test_names_that_need_quotation_marks(tmp_path):
    file = tmp_path / "s.csv"
    file.write_text('"a,b","[/bold]\n""c"\n' + "".join(f"{a},{b}\n" for a, b in zip(Y[:30], X[:30])))
    names = "a,b", '[/bold]\n"c'
    assert _learn(file, "--target", *names, "--predictions", "parquet", "--out", tmp_path / "run") == 0
    found = open_source(tmp_path / "run" / "predictions.csv").columns
    assert found == open_source(tmp_path / "run" / "predictions.parquet").columns
    assert {f"truth_{name}" for name in names} <= set(found) and len(found) == 37
    light(names).run(file).to_csv(tmp_path / "own.csv")
    assert (tmp_path / "own.csv").read_bytes() == (tmp_path / "run" / "predictions.csv").read_bytes()


@pytest.mark.parametrize(
    "options, words",
    [
        ("--horizon 1000000000", "would take [0-9,]+ bytes"),
        ("--lags 1000000", "would take [0-9,]+ bytes"),
        ("--units 1000000", "would take [0-9,]+ bytes"),
        ("--seed 99999999999999999999", "seed must be"),
        ("--learner rls --cell gru", "net: learner='rls'"),
        ("--continues", "goes with - and --resume"),
        ("--levels .8 .8", "levels must differ"),
    ],
)
def test_the_command_refuses_in_a_sentence(tmp_path, capsys, options, words):
    file = _csv(tmp_path / "s.csv", "y", Y[:20])
    assert cli.main(["learn", str(file), "--target", "y", "--out", str(tmp_path / "run"), *options.split()]) == 1
    assert re.search(words, capsys.readouterr().err.splitlines()[-1])
    assert not (tmp_path / "run").exists()


def test_a_set_of_names_has_no_order():
    with pytest.raises(ValueError, match="a set"):
        Forecaster("y", features={"a", "b"})
