"""Atari prediction: one recording is the same for everyone, and what is wrong with one is said by name."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import sys
from typing import Any

import numpy as np
import pytest

from streamgrad.data.errors import SourceError
from streamgrad.lab.tasks import atari
from streamgrad.lab.tasks.atari import Meta, Recording, _load, _Policy, _save, _shrink, inputs, load_or_record, record

GAME, STEPS, SEED = "Breakout", 600, 3  # four episodes and a few points
ARRAYS = ("frames", "actions", "rewards", "starts")


@pytest.fixture(scope="module")
def breakout() -> Recording:
    pytest.importorskip("ale_py")
    return record(GAME, STEPS, SEED)


def _made(steps: int = 6, **changes) -> Recording:
    """A recording of noise, which needs no emulator."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "frames": rng.integers(256, size=(steps, 16, 16), dtype=np.uint8),
        "actions": rng.integers(18, size=steps, dtype=np.uint8),
        "rewards": rng.integers(-1, 2, size=steps, dtype=np.int8),
        "starts": np.arange(steps) % 4 == 0,
    }
    versions = {"recording": atari.FORMAT, "ale-py": atari._installed() or "0"}
    arrays["meta"] = Meta("Pong", 0, steps, versions)
    return Recording(**(arrays | changes))


def _same(a: Recording, b: Recording) -> bool:
    return a.meta == b.meta and all(getattr(a, name).tobytes() == getattr(b, name).tobytes() for name in ARRAYS)


# A frame


@pytest.mark.parametrize("height", [210, 214, 250])
def test_a_frame_is_the_mean_over_even_rectangles(height):
    screen = np.random.default_rng(height).integers(256, size=(height, 160), dtype=np.uint8)
    fine = np.kron(screen.astype(np.int64), np.ones((16, 16), np.int64))
    sums = fine.reshape(16, height, 16, 160).sum(axis=(1, 3))
    expected = np.floor(sums / (height * 160) + 0.5)
    np.testing.assert_array_equal(_shrink(screen), expected)


def test_black_and_white_stay_so():
    for grey in (0, 255):
        assert np.all(_shrink(np.full((250, 160), grey, np.uint8)) == grey)


# What a learner sees


def test_inputs_are_the_frame_the_last_action_and_the_reward():
    made = _made()
    xs = inputs(made)
    assert (xs.shape, xs.dtype) == ((6, atari.SIZE), np.float32)
    assert atari.SIZE == 275
    np.testing.assert_allclose(xs[:, :256], made.frames.reshape(6, 256) / 255, rtol=1e-6)
    np.testing.assert_array_equal(xs[:, 256:274], np.eye(18)[made.actions])
    np.testing.assert_array_equal(xs[:, 274], made.rewards)
    np.testing.assert_array_equal(atari.cumulants(made), xs[:, 274])
    np.testing.assert_array_equal(inputs(made, 2, 5), xs[2:5])
    np.testing.assert_array_equal(atari.cumulants(made, 2, 5), xs[2:5, 274])
    assert inputs(made, 3, 3).shape == (0, 275)


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 7)])
def test_steps_that_were_not_recorded(start, stop):
    for function in (inputs, atari.cumulants):
        with pytest.raises(ValueError, match=r"Pong has no steps .* it has 6"):
            function(_made(), start, stop)


@pytest.mark.parametrize(
    "changes",
    [
        {"meta": Meta("Pong", 0, 7, {})},
        {"actions": np.full(6, 18, np.uint8)},
        {"rewards": np.full(6, 2, np.int8)},
        {"starts": np.zeros(6, bool)},
    ],
)
def test_recordings_that_do_not_fit_together(changes):
    with pytest.raises(SourceError, match=r"a recording of .* give"):
        _made(**changes)


# The policy


def test_the_policy_keeps_an_action_for_a_while():
    policy = _Policy([0, 1, 3, 4], seed=0)
    actions = np.array([policy(False) for _ in range(20_000)])
    counts = np.bincount(actions)
    assert counts[2] == 0
    assert counts[[0, 1, 3, 4]] == pytest.approx(np.full(4, 5000), rel=0.15)
    draws = np.sum(actions[1:] != actions[:-1]) * 4 / 3  # one draw in four is of the same action
    assert len(actions) / draws == pytest.approx(atari.HOLD, rel=0.1)


def test_a_life_begins_with_fire_where_the_game_knows_it():
    assert _Policy([0, 1, 3, 4], seed=0)(True) == atari.FIRE
    assert {_Policy([0, 2, 5], seed)(True) for seed in range(20)} == {0, 2, 5}


# A game


def test_a_game_is_recorded(breakout):
    assert len(breakout) == STEPS
    assert breakout.meta.versions == {"recording": atari.FORMAT, "ale-py": atari._installed()}
    (starts,) = np.nonzero(breakout.starts)
    assert len(starts) > 2
    assert np.all(breakout.actions[starts] == atari.NOOP)
    assert np.all(breakout.rewards[starts] == 0)
    assert np.all(breakout.actions[starts + 1] == atari.FIRE)
    assert set(breakout.actions) == {0, 1, 3, 4}  # the paddle goes to the left and right
    assert set(breakout.rewards) == {0, 1}
    assert all(np.array_equal(breakout.frames[at], breakout.frames[0]) for at in starts)  # the wall is whole again
    assert np.mean(np.any(breakout.frames[1:] != breakout.frames[:-1], axis=(1, 2))) > 0.5


def test_a_recording_depends_on_its_arguments_alone(breakout):
    assert _same(record(GAME, STEPS, SEED), breakout)
    shorter, other = record(GAME, 200, SEED), record(GAME, 200, SEED + 1)
    assert np.array_equal(shorter.frames, breakout.frames[:200])
    assert not np.array_equal(other.frames, shorter.frames)


def test_progress_is_told_and_nothing_is_printed(capfd):
    pytest.importorskip("ale_py")
    told = []
    record("Pong", 1200, 0, progress=lambda done, steps: told.append((done, steps)))
    assert told == [(1000, 1200), (1200, 1200)]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("game", "hint"),
    [
        ("pong", "did you mean Pong\\?"),
        ("ALE/MsPacman-v5", "did you mean MsPacman\\?"),
        ("space_invaders", "did you mean SpaceInvaders\\?"),
        ("Brakeout", "did you mean Breakout"),
        ("Warlords", "such as Pong"),  # only two can play it
        ("../Pong", "such as Pong"),
    ],
)
def test_games_that_there_are_not(game, hint, tmp_path):
    pytest.importorskip("ale_py")
    with pytest.raises(ValueError, match=f"no Atari game '{game}': .*{hint}"):
        load_or_record(tmp_path / "new", game, 10, 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("steps", "seed", "name"), [(0, 0, "steps"), (-1, 0, "steps"), (10, -1, "seed")])
def test_numbers_that_cannot_be(steps, seed, name, tmp_path):
    for call in (record, lambda *arguments: load_or_record(tmp_path, *arguments)):
        with pytest.raises(ValueError, match=f"Atari: {name} must be at least"):
            call("Pong", steps, seed)


def test_without_the_emulator_a_recording_can_still_be_read(monkeypatch, tmp_path):
    made = _made()
    _save(tmp_path / "atari-Pong-6-0.npz", made)
    monkeypatch.setitem(sys.modules, "ale_py", None)
    monkeypatch.setattr(atari, "_installed", lambda: None)
    assert _same(load_or_record(tmp_path, "Pong", 6, 0), made)
    with pytest.raises(SourceError, match=r"pip install 'streamgrad\[atari\]'"):
        load_or_record(tmp_path, "Pong", 7, 0)


# The file


def test_a_recording_is_made_once(breakout, tmp_path, monkeypatch):
    first = load_or_record(tmp_path / "a" / "b", GAME, STEPS, SEED)
    (file,) = (tmp_path / "a" / "b").iterdir()
    assert file.name == f"atari-{GAME}-{STEPS}-{SEED}.npz"
    monkeypatch.setattr(atari, "record", None)  # whoever records again fails
    assert _same(load_or_record(tmp_path / "a" / "b", GAME, STEPS, SEED), first)
    assert _same(first, breakout)
    _save(tmp_path / "again.npz", breakout)
    assert (tmp_path / "again.npz").read_bytes() == file.read_bytes()


def _damage(kind: str, data: bytes) -> bytes:
    if kind == "flipped":
        at = len(data) // 2
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    out = io.BytesIO()
    with np.load(io.BytesIO(data)) as file:
        arrays: dict[str, Any] = dict(file)
    if kind == "pickled":
        arrays["meta"] = np.array([{}], dtype=object)
    elif kind == "incomplete":
        del arrays["meta"]
    elif kind == "shorter":
        arrays["frames"] = arrays["frames"][1:]
    elif kind == "another meta":
        arrays["meta"] = np.array(json.dumps({"game": "Pong"}))
    if kind == "one array":
        np.save(out, arrays["frames"])
    else:
        np.savez(out, **arrays)
    return {"empty": b"", "cut": data[:-100], "text": b"frames"}.get(kind, out.getvalue())


@pytest.mark.parametrize(
    "kind", ["empty", "cut", "flipped", "text", "pickled", "incomplete", "shorter", "another meta", "one array"]
)
def test_a_damaged_file_is_refused(kind, tmp_path):
    path = tmp_path / "atari-Pong-6-0.npz"
    _save(path, _made())
    path.write_bytes(_damage(kind, path.read_bytes()))
    with pytest.raises(SourceError, match=r"atari-Pong-6-0\.npz is not a whole recording .* delete it"):
        load_or_record(tmp_path, "Pong", 6, 0)


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "atari-Pong-6-1.npz"
    _save(path, _made())
    with pytest.raises(SourceError, match=r"holds 6 steps of Pong with seed 0, and 6 of Pong with seed 1 .* delete"):
        load_or_record(tmp_path, "Pong", 6, 1)


@pytest.mark.parametrize("change", [{"ale-py": "0.0.1"}, {"recording": "0"}, {"more": "1"}])
def test_a_file_of_other_versions_is_refused(change, tmp_path, monkeypatch):
    monkeypatch.setattr(atari, "_installed", lambda: "0")
    made = _made()
    other = dataclasses.replace(made.meta, versions=made.meta.versions | change)
    _save(tmp_path / "atari-Pong-6-0.npz", dataclasses.replace(made, meta=other))
    ((name, version),) = change.items()
    with pytest.raises(SourceError, match=f"was made by .*{name} {version}.* and here is .* delete"):
        load_or_record(tmp_path, "Pong", 6, 0)


def test_a_file_that_cannot_be_read_or_written(tmp_path, monkeypatch):
    (tmp_path / "atari-Pong-6-0.npz").mkdir()
    with pytest.raises(SourceError, match="cannot be read"):
        load_or_record(tmp_path, "Pong", 6, 0)

    def refuse(*_):
        raise OSError(28, "no space")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(SourceError, match=r"new\.npz cannot be written \(No space"):
        _save(tmp_path / "new.npz", _made())
    assert [path.name for path in tmp_path.iterdir()] == ["atari-Pong-6-0.npz"]


def test_a_folder_that_cannot_be_made(tmp_path):
    pytest.importorskip("ale_py")
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceError, match="cannot be written"):
        load_or_record(tmp_path / "file", "Pong", 6, 0)


def test_what_is_written_is_read(tmp_path):
    made = _made(50)
    _save(tmp_path / "made.npz", made)
    assert _same(_load(tmp_path / "made.npz", "Pong", 50, 0), made)
