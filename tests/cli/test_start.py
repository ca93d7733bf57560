"""How the command line starts: the compilation cache, one registry of cells, and the rows that a run goes on with."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import streamgrad as sg
from streamgrad import checkpoint, cli
from streamgrad.cli import cache, explain

RNG = np.random.default_rng(0)
OPTIONS = ["--target", "value", "--horizon", "2", "--units", "2", "--lags", "3"]


def _csv(path, values):
    path.write_text("value\n" + "".join(f"{value!r}\n" for value in np.asarray(values).tolist()))
    return path


def _learn(*arguments):
    return cli.main(["learn", *map(str, arguments)])


# The rows of a run.


VALUES = 20 + np.sin(np.arange(120) / 3) + 0.1 * RNG.standard_normal(120)


def test_resuming_with_another_file_is_refused(tmp_path, capsys):
    out, part = tmp_path / "run", _csv(tmp_path / "a.csv", VALUES[:80])
    assert _learn(part, "--out", out, *OPTIONS) == 0
    before = (out / "predictions.csv").read_bytes()
    other = VALUES.copy()
    other[40] += 1e-9
    assert _learn(_csv(tmp_path / "b.csv", other), "--out", out, *OPTIONS, "--resume") == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "the first 80 rows of" in said and "--resume --continues" in said
    assert _learn(_csv(tmp_path / "c.csv", VALUES[:50]), "--out", out, *OPTIONS, "--resume") == 1
    assert "ends before data row 80" in capsys.readouterr().err.splitlines()[-1]
    assert (out / "predictions.csv").read_bytes() == before
    # The same rows and more of them: as if never stopped.
    assert _learn(_csv(tmp_path / "d.csv", VALUES), "--out", out, *OPTIONS, "--resume") == 0
    assert _learn(tmp_path / "d.csv", "--out", tmp_path / "whole", *OPTIONS) == 0
    assert (out / "predictions.csv").read_bytes() == (tmp_path / "whole" / "predictions.csv").read_bytes()


def test_a_checkpoint_of_another_version_is_refused(tmp_path, capsys):
    """One of version 0.1 has other settings: they are named, and nothing is lost."""
    out = tmp_path / "run"
    path = _csv(tmp_path / "a.csv", VALUES[:80])
    config = {"horizon": 2, "cell": "lru", "units": 2, "algorithm": "snap-1", "columns": ["value"], "period": None}
    checkpoint.save(out / "checkpoints", {"row": np.ones(1)}, step=80, config=config)
    assert _learn(path, "--out", out, *OPTIONS, "--resume") == 1
    assert "is of another model: algorithm was 'snap-1' and is now None" in capsys.readouterr().err


# Cells by name.


@pytest.mark.parametrize("name", ["gru", "GRU", "Gru", "leaky", "LeakyRNN", "leaky-rnn", "indrnn", "IndRNN", "min_gru"])
def test_a_cell_is_known_in_any_spelling(name):
    assert sg.cells.cell(name) in (sg.cells.GRU, sg.cells.LeakyRNN, sg.cells.IndRNN, sg.cells.MinGRU)


@pytest.mark.parametrize("name", sg.cells.NAMED)
def test_explain_honours_or_refuses_a_density(name, capsys):
    assert explain.main(["--cell", name.lower(), "--units", "4", "--in-size", "2"]) == 0
    whole = capsys.readouterr().out
    status = explain.main(["--cell", name.lower(), "--units", "4", "--in-size", "2", "--density", "0.5"])
    said = capsys.readouterr()
    if sg.cells.has_links(sg.cells.NAMED[name]):
        assert status == 0 and said.out != whole
    else:
        assert status == 2 and f"{name} has no links between its units" in said.err


def test_a_wiring_of_units_without_links_is_refused():
    for kind in (sg.cells.IndRNN, sg.cells.MinGRU):
        with pytest.raises(TypeError, match=f"{kind.__name__} has no links between its units"):
            kind(2, 4, wiring=sg.wiring.Sparse(density=0.5), key=jax.random.key(0))


def test_every_command_spells_cells_alike(tmp_path, capsys):
    path = _csv(tmp_path / "a.csv", VALUES[:30])
    assert _learn(path, "--out", tmp_path / "run", *OPTIONS, "--cell", "GRU") == 0
    assert _learn(path, "--out", tmp_path / "run", *OPTIONS, "--cell", "gru", "--resume") == 0
    capsys.readouterr()
    assert _learn(path, "--out", tmp_path / "new", *OPTIONS, "--cell", "gruu") == 1
    assert "there is no cell 'gruu'" in capsys.readouterr().err
    assert _learn(path, "--out", tmp_path / "new", *OPTIONS, "--cell", "LIF") == 1
    assert "the forecaster has no cell 'LIF'" in capsys.readouterr().err
    assert explain.main(["--cell", "gruu"]) == 2
    assert cli.main(["bench", "algorithms", str(path), "--cell", "gruu"]) == 2


# The compilation cache.


def _start(path, out, *more, **environment):
    command = [sys.executable, "-m", "streamgrad.cli", "learn", str(path), "--out", str(out), *OPTIONS, *more]
    names = ("JAX_COMPILATION_CACHE_DIR", cache.VARIABLE)
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(command, env={**inherited, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "cache" not in done.stderr.lower()
    return (out / "predictions.csv").read_bytes()


def _files(folder):
    """The programs in it (Matplotlib, too, has a cache there)."""
    return sum("atime" not in path.name for path in folder.rglob("*-cache"))


@pytest.mark.full
def test_a_warm_start_gives_the_same_bytes(tmp_path):
    """The programs lie among the user's caches, unless JAX's own variable says otherwise."""
    path, user, own = _csv(tmp_path / "a.csv", VALUES), tmp_path / "user", tmp_path / "own"
    where = {"XDG_CACHE_HOME": str(user), "HOME": str(user), "LOCALAPPDATA": str(user)}  # of Linux, macOS, Windows
    cold = _start(path, tmp_path / "cold", **where)
    files = _files(user)
    assert files > 2
    assert _start(path, tmp_path / "warm", **where) == cold
    assert _files(user) == files  # everything was there already
    own.mkdir()
    elsewhere = {"JAX_COMPILATION_CACHE_DIR": str(own), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    assert _start(path, tmp_path / "own run", **elsewhere, **where) == cold
    assert _files(user) == files and _files(own) > 2


@pytest.fixture
def settings():
    """JAX's settings as they were, afterwards."""
    names = ("enable_compilation_cache", "compilation_cache_dir", "compilation_cache_max_size")
    names += ("persistent_cache_min_compile_time_secs", "persistent_cache_min_entry_size_bytes")
    before = {f"jax_{name}": getattr(jax.config, f"jax_{name}") for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_a_folder_is_named_by_option_or_variable_or_switched_off(tmp_path, monkeypatch, settings):
    cache.switch_on(str(tmp_path / "option"))
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "option")
    assert jax.config.jax_compilation_cache_max_size == cache.LARGEST
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "variable"))
    cache.switch_on(None)
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "variable")
    cache.switch_on("off")
    assert not jax.config.jax_enable_compilation_cache


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path, monkeypatch, settings):
    blocked = tmp_path / "file"
    blocked.write_text("")
    before = jax.config.jax_compilation_cache_dir
    cache.switch_on(str(blocked / "within"))
    monkeypatch.setenv(cache.VARIABLE, str(blocked / "within"))
    cache.switch_on(None)
    monkeypatch.delenv(cache.VARIABLE)
    cache.switch_on(None)  # a program that uses the command line has chosen one already
    assert jax.config.jax_compilation_cache_dir == before


def test_the_option_stands_anywhere(capsys):
    assert cache.split(["learn", "a", "--compilation-cache", "b", "--units", "4"]) == (
        ["learn", "a", "--units", "4"],
        "b",
    )
    assert cache.split(["--compilation-cache=off", "learn"]) == (["learn"], "off")
    assert cli.main(["learn", "--compilation-cache"]) == 2
    assert "needs a folder, or off" in capsys.readouterr().err
