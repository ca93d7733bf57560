"""`streamgrad learn`: no look-ahead, the same bits however rows arrive, clear errors, nothing lost."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from quick_flags import FLAGS

from streamgrad import cli
from streamgrad.forecast import JournalError
from streamgrad.forecast._journal import Journal
from streamgrad.forecast._verdict import words as verdict

RNG = np.random.default_rng(0)


def _rows(n=120, lost=0.1):
    """A target and a feature, with values missing here and there, at the start too."""
    rows = np.stack([50 + np.sin(np.arange(n) / 3), RNG.standard_normal(n)], axis=1)
    rows += 0.1 * RNG.standard_normal((n, 2))
    rows[RNG.random((n, 2)) < lost] = np.nan
    rows[:2, 0] = np.nan
    return rows


@pytest.mark.parametrize(
    "errors, words",
    [
        ({"network": 0.9, "last value": 1.0}, "network wins over last value: .* 10.0% below"),
        ({"network": 0.9, "last value": 2.0, "RLS": 0.5}, "^RLS wins: .* does beat last value"),
        ({"network": 0.8, "last value": 0.4}, "^Last value wins: .* 50.0% below the network's.$"),
        ({"network": 0.8, "last value": 0.8005}, "^A tie"),
        ({"network": 0.8, "last value": 1.2, "seasonal": float("nan")}, "network wins over last value:"),
        ({"network": 1.1, "last value": 1.2}, "^Nobody wins"),
        ({"network": 1.1, "last value": 1.2, "running mean": 1.01}, "^Running mean wins"),
        ({"network": float("nan"), "last value": 1.0}, "nobody wins"),
        ({"network": 0.0, "last value": 0.0}, "a tie"),
    ],
)
def test_the_verdict_says_plainly_who_wins(errors, words):
    assert re.search(words, verdict(errors))


# The command.


def _csv(path, rows):
    lines = [",".join("" if v != v else repr(float(v)) for v in row) for row in rows]
    path.write_text("value,other\n" + "\n".join(lines) + "\n")
    return path


def _learn(*arguments):
    return cli.main(["learn", *map(str, arguments)])


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    return _csv(tmp_path_factory.mktemp("stream") / "s.csv", _rows(700, 0.03))


OPTIONS = "--target value --features other --horizon 4 --period 6 --units 3 --lags 4 --log-every 50"


def _run(stream, out, *more):
    return _learn(stream, "--out", out, *OPTIONS.split(), *more)


def _table(out):
    return np.genfromtxt(out / "predictions.csv", delimiter=",", names=True)


def test_learn_writes_everything(stream, tmp_path, capsys):
    out = tmp_path / "run"
    assert _run(stream, out, "--predictions", "parquet") == 0
    said = " ".join(capsys.readouterr().out.split())
    for text in ("RLS on lags", "seasonal last value", "nRMSE", "MAE", "700 rows", "missing"):
        assert text in said
    assert " wins" in said or "A tie" in said
    names = {"predictions.csv", "predictions.parquet", "metrics.jsonl", "summary.json"}
    assert {p.name for p in out.iterdir()} == names | {"forecast.png", "checkpoints"}
    table = _table(out)
    truth = np.genfromtxt(stream, delimiter=",", names=True)["value"]
    np.testing.assert_allclose(table["truth"], truth, rtol=1e-8)
    np.testing.assert_array_equal(table["network"][4:], table["ahead"][:-4])
    summary = json.loads((out / "summary.json").read_text())
    scored = np.isfinite(table["truth"]) & np.isfinite(table["seasonal_last_value"])
    assert summary["rows"] == 700 and summary["scored"] == scored.sum()
    assert summary["missing"]["value"] == np.isnan(truth).sum()
    error = (table["network"] - truth)[scored]
    nrmse = np.sqrt((error**2).mean()) / truth[scored].std()
    np.testing.assert_allclose(summary["nrmse"]["network"], nrmse, rtol=1e-6)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == list(range(50, 701, 50))
    import pyarrow.parquet as pq

    parquet = pq.read_table(out / "predictions.parquet")
    np.testing.assert_array_equal(parquet["network"].to_numpy(), table["network"])
    assert (out / "forecast.png").read_bytes().startswith(b"\x89PNG")


def test_no_forecast_sees_what_comes_after_it(tmp_path):
    rows = _rows(300, 0.0)
    later = rows.copy()
    later[200:] += 100.0
    for name, values in (("a", rows), ("b", later)):
        assert _run(_csv(tmp_path / f"{name}.csv", values), tmp_path / name) == 0
    a, b = _table(tmp_path / "a"), _table(tmp_path / "b")
    np.testing.assert_array_equal(a["ahead"][:200], b["ahead"][:200])
    for method in ("network", "last_value", "seasonal_last_value", "RLS_on_lags"):
        np.testing.assert_array_equal(a[method][:204], b[method][:204])


def test_stopped_and_resumed_is_bit_identical(stream, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert _run(stream, whole) == 0
    lines = stream.read_text().splitlines(keepends=True)
    part = tmp_path / "s.csv"
    for i, end in enumerate((301, 302, len(lines))):  # the file grows
        part.write_text("".join(lines[:end]))
        assert _run(part, broken, *(["--resume"] if i else [])) == 0
    for name in ("predictions.csv", "metrics.jsonl"):
        assert (whole / name).read_bytes() == (broken / name).read_bytes()
    summary = [json.loads((out / "summary.json").read_text()) for out in (whole, broken)]
    assert summary[0]["nrmse"] == summary[1]["nrmse"]
    assert _run(part, broken, "--resume") == 0  # nothing new: nothing changes
    assert (whole / "predictions.csv").read_bytes() == (broken / "predictions.csv").read_bytes()


def test_resuming_what_does_not_fit(stream, tmp_path, capsys):
    out = tmp_path / "run"
    assert _run(stream, out, "--checkpoint-every", 300) == 0
    newest = max((out / "checkpoints").iterdir())

    def refused(match, *more):
        capsys.readouterr()
        assert _run(stream, out, *more) == 1
        said = capsys.readouterr().err
        assert match in said.splitlines()[-1] and "Traceback" not in said

    refused("holds a run already")
    refused("net was", "--resume", "--units", 5)
    refused("net was", "--resume", "--cell", "gru")
    refused("give one of them", "--resume", "--overwrite")
    newest.write_bytes(newest.read_bytes()[:-1])
    before = (out / "predictions.csv").read_bytes()
    assert _run(stream, out, "--resume") == 0
    assert f"{newest} is damaged" in capsys.readouterr().err
    assert (out / "predictions.csv").read_bytes() == before
    (out / "predictions.csv").write_text("")
    refused("the checkpoint needs its first", "--resume")
    assert _run(stream, out, "--overwrite") == 0
    assert (out / "predictions.csv").read_bytes() == before


BAD_FILES = {
    "text": ("value\n" + "1\n2\n" * 20 + "x7\n", "data row 41, column 'value': 'x7'"),
    "infinite": ("value\n" + "1\n2\n" * 20 + "inf\n", "data row 41, column 'value': the value is"),
    "cut": ("value,b\n" + "1,2\n2,2\n" * 20 + "1", "cut in the middle of a row"),
    "constant": ("value\n" + "5\n" * 40, "is 5 in every row"),
    "no values": ("value,b\n" + ",1\n" * 40, "has no value in any of the 40 rows"),
    "no rows": ("value,b\n", "a header but no rows"),
    "empty": ("", "is empty"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_get_one_sentence_and_nothing_is_lost(tmp_path, capsys, name):
    text, message = BAD_FILES[name]
    path, out = tmp_path / "s.csv", tmp_path / "run"
    path.write_text(text)
    assert _learn(path, "--target", "value", "--out", out, "--units", 2, "--lags", 3) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert message in last and last.startswith("streamgrad learn: ")
    if name in ("text", "infinite", "cut"):
        assert len(_table(out)) == 40  # the rows before it, and a checkpoint to go on from
        assert [p.name for p in (out / "checkpoints").iterdir()] == ["step-000000000040.safetensors"]


BAD_OPTIONS = {
    "--horizon -1": "--horizon -1: it has to be a whole number of at least 1",
    "--units 0": "--units 0",
    "--lags 0": "--lags 0: it has to be a whole number of at least 1",
    "--period -3": "--period -3",
    "--forgetting 0": "--forgetting 0",
    "--learning-rate nan": "--learning-rate nan",
    "--algorithm snapp-1": "there is no algorithm 'snapp-1'",
    "--target valeu": "did you mean 'value'",
    "--features othr": "did you mean 'other'",
    "--resume": "there is no checkpoint",
}


@pytest.mark.parametrize("option", BAD_OPTIONS)
def test_options_that_cannot_be_meant(stream, tmp_path, capsys, option):
    target = [] if "--target" in option else ["--target", "value"]
    assert _learn(stream, *target, "--out", tmp_path / "run", *option.split()) == 1
    said = capsys.readouterr().err
    assert BAD_OPTIONS[option] in said and said.count("\n") == 1
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_which_column(stream, tmp_path, capsys):
    assert _learn(stream, "--out", tmp_path / "run") == 1
    assert "which column" in capsys.readouterr().err


def test_a_full_disk_gets_one_sentence(stream, tmp_path, capsys, monkeypatch):
    out, rows = tmp_path / "run", []

    def full(self, name, text):
        rows.append(text)
        if len(rows) > 10:
            raise self._error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        self._files[name].write(text.encode())

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_write", full)
        assert _run(stream, out, "--checkpoint-every", 100) == 1
    said = capsys.readouterr().err
    assert "No space left on device" in said and said.count("\n") == 1
    assert _run(stream, out, "--resume") == 0
    assert _run(stream, tmp_path / "whole") == 0
    assert (out / "predictions.csv").read_bytes() == (tmp_path / "whole/predictions.csv").read_bytes()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="could not be written"):
        Journal(tmp_path / "file" / "run", ["a"])


def test_commands_that_are_not_there(capsys):
    assert cli.main(["lern"]) == 2
    assert "no command 'lern'" in capsys.readouterr().err
    assert cli.main([]) == 0 and "learn" in capsys.readouterr().out
    assert cli.main(["--version"]) == 0


def test_a_reader_that_leaves_early_is_no_error():
    code = (
        "import sys, types, streamgrad.cli as cli;"
        "sys.modules['streamgrad.cli.bench'] = types.SimpleNamespace(main=lambda _: print('row ' * 100_000));"
        "sys.exit(cli.main(['bench']))"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        process.stdout.close()  # as `| head` does
        assert (process.stderr.read(), process.wait()) == ("", 1)


# As a user runs it: its own process, in single precision.


def _process(*arguments, **options):
    command = [sys.executable, "-m", "streamgrad.cli", "learn", *map(str, arguments)]
    cache = {"JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir}
    cache |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return subprocess.Popen(command, text=True, env={**os.environ, **cache, "XLA_FLAGS": FLAGS}, **options)


def test_live_rows_are_learned_from_as_they_arrive(tmp_path):
    out = tmp_path / "run"
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = _process("-", "--target", "value", "--units", 4, "--out", out, **pipe)
    process.stdin.write("value\n")
    try:
        for n in range(1, 6):  # the next row is sent when the last one was forecast from
            process.stdin.write(f"{n % 3}\n")
            process.stdin.flush()
            wait = time.monotonic() + 180
            while time.monotonic() < wait and process.poll() is None:
                path = out / "predictions.csv"
                if path.exists() and path.read_text().count("\n") == n + 1:
                    break
                time.sleep(0.02)
            else:
                pytest.fail(f"row {n} was not learned from: {process.communicate()}")
        process.send_signal(signal.SIGINT)
        said, error = process.communicate(timeout=180)
    finally:
        process.kill()
    assert process.returncode == 130, error
    assert "5 rows" in said and "--resume goes on from here" in said
    assert list((out / "checkpoints").glob("step-000000000005.*"))
    # It goes on with a stream that continues, and with one that begins again.
    arguments = process.args[4:]
    for more, rows in ((["--continues"], [2, 0]), ([], [1, 2, 0, 1, 2, 2, 0, 2])):
        process = _process(*arguments, "--resume", *more, **pipe)
        _, error = process.communicate("value\n" + "".join(f"{row}\n" for row in rows))
        assert process.returncode == 0, error
    np.testing.assert_array_equal(_table(out)["truth"], [1, 2, 0, 1, 2, 2, 0, 2])


@pytest.mark.full
def test_a_first_run_beats_the_floors_on_hourly_temperatures(tmp_path):
    out = tmp_path / "run"
    process = _process("sf-temps", "--horizon", 1, "--out", out, stdout=subprocess.PIPE)
    said, _ = process.communicate()
    summary = json.loads((out / "summary.json").read_text())
    half = summary["nrmse_half"]
    assert process.returncode == 0 and "The network wins" in said
    for floor in ("last value", "running mean", "seasonal last value", "RLS on lags"):
        assert half["network"] < half[floor]
    assert summary["nrmse"]["RLS on lags"] < 0.0136  # the floor is not easier than the one that forecast-series has
    for found in summary["intervals"]:
        assert abs(found["coverage"] - found["level"]) < 0.02 and found["finite"] > 0.99


def test_nothing_heavy_is_imported_before_it_is_used():
    code = (
        "import sys, streamgrad, streamgrad.cli, streamgrad.checkpoint;"
        "print([m for m in ('pyarrow', 'matplotlib', 'rich', 'tyro', 'safetensors', 'pandas')"
        " if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
