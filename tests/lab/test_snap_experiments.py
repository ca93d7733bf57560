"""Copy with a curriculum, the character model, the bias of SnAp and forecasts: what is asked, and that it runs."""

import dataclasses
import functools
import gzip
import json
import math
import os
from collections import Counter

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import streamgrad as sg
from streamgrad.cli import main
from streamgrad.data import SourceError
from streamgrad.lab.experiments import EXPERIMENTS, RunFolder, forecast, snap_bias, snap_copy
from streamgrad.lab.experiments._minibatches import SeedBatch
from streamgrad.lab.tasks.copy_curriculum import CopyCurriculum
from streamgrad.lab.tasks.text import BYTES, CHARACTERS, CLASSES, Crops, gzip_bits, ngram_bits, read_text

KEY = jax.random.key(0)
int32 = functools.partial(jnp.asarray, dtype=jnp.int32)


# Copy with a curriculum.


@pytest.mark.parametrize("level", [1, 4, 9])
def test_a_string_is_said_again_after_its_delimiter(level):
    task = CopyCurriculum(batch=3)
    lengths = set()
    for seed in range(60):
        key = jax.random.key(seed)
        time = int(task.length(key, int32(level)))
        string = (time - 1) // 2
        lengths.add(string)
        if seed > 3:
            continue
        tokens = jax.vmap(lambda t, key=key: task.at(key, int32(level), t))(int32(range(time)))
        bits = np.asarray(tokens.x[:string]).argmax(-1)
        assert tokens.x.shape == (time, 3, 3) and (np.asarray(tokens.x[:string]).sum(-1) == 1).all()
        assert set(bits.ravel()) <= {0, 1}
        assert (np.asarray(tokens.x[string]) == [0, 0, 1]).all() and not tokens.x[string + 1 :].any()
        np.testing.assert_array_equal(tokens.asked.T, [[False] * (string + 1) + [True] * string] * 3)
        np.testing.assert_array_equal(tokens.target[string + 1 :], bits)
    assert lengths == set(range(max(1, level - 5), level + 1))


def test_strings_of_lengths_of_their_own():
    task, lengths = CopyCurriculum(batch=40, lengths="own"), set()
    for seed in range(3):
        key, level = jax.random.key(seed), int32(9)
        ts = jnp.arange(task.length(key, level), dtype=jnp.int32)
        tokens = jax.vmap(functools.partial(task.at, key, level))(ts)
        at = np.asarray(tokens.x[..., 2]).argmax(0)  # of the delimiter
        lengths |= set(at)
        assert len(tokens.asked) == 2 * at.max() + 1
        for stream, l in enumerate(at):
            x, asked = np.asarray(tokens.x[:, stream]), np.asarray(tokens.asked[:, stream])
            assert (x[:l, :2].sum(-1) == 1).all() and not x[l + 1 :].any() and x[:, 2].sum() == 1
            np.testing.assert_array_equal(np.flatnonzero(asked), np.arange(l + 1, 2 * l + 1))
            np.testing.assert_array_equal(tokens.target[asked, stream], x[:l].argmax(-1))
        assert len({tuple(row) for row in np.asarray(tokens.target.T)}) > 30
    assert lengths == set(range(4, 10))


def test_strings_become_longer_when_they_are_said_well():
    task = CopyCurriculum(most=8)
    after = lambda level, bits: int(task.next(int32(level), jnp.asarray(bits)))
    assert [after(3, 0.14), after(3, 0.15), after(8, 0.0)] == [4, 3, 8]
    assert int(CopyCurriculum(threshold=0.0).next(int32(3), jnp.asarray(0.0))) == 3
    with pytest.raises(ValueError, match="most must be at least 4"):
        CopyCurriculum(first=4, most=3)


# Gradients of a minibatch.


FIXED = CopyCurriculum(batch=2, first=2, most=4, spread=0)
OWN = CopyCurriculum(batch=3, first=4, most=4, spread=3, lengths="own")


def crowd(learning, update, task=FIXED):
    """One whose update is the gradient itself."""
    made = SeedBatch(functools.partial(snap_copy.model, "gru", "sparse-4-2", "own", learning, task), task, update)
    made.optimiser = optax.identity()
    return made


def drawn(state, k, task=FIXED):
    """The tokens of sequence k of seed 0."""
    key, level = jax.random.fold_in(state.key[0], k), int32(task.first)
    return jax.vmap(lambda t: task.at(key, level, t))(jnp.arange(task.length(key, level), dtype=jnp.int32))


def bits(model, cell_state, tokens):
    """The mean bits a character, by a plain loop over cell and readout."""
    recurrent, readout = model.layers
    total, asked = 0.0, np.asarray(tokens.asked)
    time, batch = asked.shape
    states = [cell_state] * batch
    for t in range(time):
        for b in range(batch):
            states[b] = recurrent.cell(states[b], tokens.x[t, b])
            if asked[t, b]:
                logits = readout(recurrent.cell.output(states[b], tokens.x[t, b]))
                total -= jax.nn.log_softmax(logits)[tokens.target[t, b]] / math.log(2)
    return total / int(asked.sum())


@pytest.mark.cross
@pytest.mark.parametrize("task", [FIXED, OWN], ids=["one length", "own lengths"])
@pytest.mark.parametrize("learning", ["BPTT", "RTRL"])
def test_the_gradient_of_a_sequence_is_that_through_time(learning, task):
    made = crowd(learning, "sequence", task)
    state = made.start(jnp.arange(2, dtype=jnp.uint32))
    before = jax.tree.map(lambda leaf: jnp.array(leaf[0], copy=True), state.parameters)
    tokens = drawn(state, 0, task)
    time = len(tokens.asked)
    assert (tokens.asked.sum(0).min() < (time - 1) // 2) == (task is OWN)
    plain = lambda parameters: bits(made.model(parameters), jnp.zeros((1, 4)), tokens)
    loss, gradient = jax.jit(jax.value_and_grad(plain))(before)
    state, said = made.run(state, 1.0, time)
    moved = jax.tree.map(lambda old, new: old - new[0], before, state.parameters)
    np.testing.assert_allclose(said[0], loss, rtol=1e-6)
    np.testing.assert_allclose(ravel_pytree(moved)[0], ravel_pytree(gradient)[0], atol=1e-10)
    assert state.count[0] == 1 and state.seen[0] == time and not state.skipped.any()


def test_updates_at_every_token_are_those_of_the_learner():
    made = crowd("SnAp-1", "token")
    state = made.start(jnp.arange(1, dtype=jnp.uint32))
    model = made.model(jax.tree.map(lambda leaf: jnp.array(leaf[0], copy=True), state.parameters))
    tokens = drawn(state, 0)
    state, _ = made.run(state, 0.5, 5)
    learner = sg.Learner(
        model, optax.sgd(0.5), loss=lambda y, c: sg.losses.cross_entropy(y, c) / math.log(2), streams=2
    )
    targets = jnp.where(tokens.asked, tokens.target, -1)
    st, _ = learner.run(learner.init(key=KEY), tokens.x, targets)
    flat = lambda tree: ravel_pytree(eqx.filter(tree, eqx.is_inexact_array))[0]
    got, want = flat(jax.tree.map(lambda leaf: leaf[0], state.parameters)), flat(learner.model(st))
    np.testing.assert_allclose(got, want, atol=1e-10)
    with pytest.raises(ValueError, match="BPTT needs all of a sequence"):
        crowd("BPTT", "token")


# Text.


def test_marks_on_a_tiny_text():
    train, text = (CHARACTERS[np.frombuffer(t, np.uint8)] for t in (b"abcabcabdabc", b"abcabdxbcab"))
    assert gzip_bits(text) == 8 * len(gzip.compress(b"abcabdxbcab", 9)) / 11

    def plain(order):
        before, total = train.tolist(), 0.0

        def p(context, c):
            shorter = p(context[1:], c) if context else 1 / CLASSES
            n = len(context)
            after = Counter(before[k + n] for k in range(len(before) - n) if before[k : k + n] == context)
            all_ = sum(after.values())
            return (after[c] + len(after) * shorter) / (all_ + len(after)) if after else shorter

        for k in range(order - 1, len(text)):
            total -= math.log2(p(text[k - order + 1 : k].tolist(), text[k]))
        return total / (len(text) - order + 1)

    for order in (1, 3, 5):
        np.testing.assert_allclose(ngram_bits(train, text, order), plain(order))


def test_text_of_files_and_folders(tmp_path):
    assert CLASSES == 97 and CHARACTERS[ord("\n")] == 0 and CHARACTERS[ord("~")] == 95 and CHARACTERS[200] == 96
    one = tmp_path / "one.txt"
    one.write_text("ab\n" * 20 + "é")
    text = read_text(one, share=0.5)
    assert bytes(BYTES[c] for c in np.concatenate([text.train, text.valid])) == b"ab\n" * 20 + b"\0\0"
    assert len(text.train) == len(text.valid) == 31
    for k in range(9):
        (tmp_path / f"{k}.txt").write_text(str(k) * 10)
    text = read_text(tmp_path, share=0.05)
    assert len(text.valid) in (10, 62) and not set(text.valid) & set(text.train)
    for part in ("train", "valid"):
        (tmp_path / f"wiki.{part}.tokens").write_text(part)
    text = read_text(tmp_path)
    assert (len(text.train), len(text.valid)) == (5, 5)
    with pytest.raises(SourceError, match="has no text"):
        read_text(tmp_path / "none")


def test_a_crop_asks_for_the_next_character():
    text = np.arange(97, dtype=np.uint8)
    task = Crops(text, batch=5, crop=10)
    tokens = jax.vmap(lambda t: task.at(KEY, int32(1), t))(jnp.arange(10, dtype=jnp.int32))
    np.testing.assert_array_equal(tokens.target, tokens.x + 1)
    np.testing.assert_array_equal(np.diff(tokens.x, axis=0), 1)
    assert len(set(tokens.x[0].tolist())) > 1 and tokens.asked.all()
    with pytest.raises(ValueError, match="crop=97 characters and one more"):
        Crops(text, crop=97)


# The influence.


def test_the_influence_is_the_derivative_of_the_state():
    cell = snap_copy.model("lstm", "sparse-4-1", "own", "BPTT", FIXED, KEY).layers[0].cell
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
    parameters, fixed = eqx.partition(cell, eqx.is_inexact_array)
    theta, unravel = ravel_pytree(parameters)

    def last(theta):
        made = eqx.combine(unravel(theta), fixed)
        return functools.reduce(made, xs, made.init_state()).ravel()

    j = np.asarray(jax.jit(snap_bias.influence)(cell, xs)[-1])
    np.testing.assert_allclose(j, jax.jit(jax.jacrev(last))(theta), atol=1e-12)
    structure = cell.core().structure
    for n in (1, 2):
        assert snap_bias.pattern(cell, n).sum() == structure.kept(n)
    assert not j[~snap_bias.pattern(cell, 4)].any() and j[snap_bias.pattern(cell, 1)].any()
    found = snap_bias.sizes_of_entries(cell, xs[None], 4)
    assert found["dropped"] == 0 and found["share"] == 1


# Forecasts.


def test_the_error_of_a_forecast_is_that_of_the_rows_that_came_due():
    encoded, _ = forecast._encoded("sunspots", 2, 3)
    settings = dataclasses.replace(EXPERIMENTS["forecast"].quick, horizon=2)
    truth, n = encoded.truth, len(encoded.truth)
    whole, late = (
        forecast._nrmse(settings, encoded, np.zeros((n, 2)), begin, n) for begin in (0, n // 2)
    )  # the last value
    error = truth[2:] - truth[:-2]
    np.testing.assert_allclose(whole, [np.sqrt(np.mean(error**2)) / truth[2:].std()] * 2)
    np.testing.assert_allclose(late, [np.sqrt(np.mean(error[n // 2 - 2 :] ** 2)) / truth[2:].std()] * 2)


# Runs.


def run(path, name, settings, stop_after=None):
    """All trials; with `stop_after`, killed when so many rows were written."""
    folder = RunFolder(path, EXPERIMENTS[name], settings, "a command")
    for trial in EXPERIMENTS[name].trials(settings, folder.rows):
        if folder.done(trial):
            continue
        recorder = folder.recorder(trial, lambda *_: None)
        if stop_after is not None:
            write = recorder.write

            def killed(*args, write=write, **values):
                if len(folder.rows) >= stop_after:
                    raise KeyboardInterrupt
                write(*args, **values)

            recorder.write = killed
        trial.run(recorder)
        folder.finish(trial)
    return (path / "results.jsonl").read_text()


TINY = {
    "snap-copy": dict(
        updates=("token",), sparse=("SnAp-2",), rates=(1e-3, 1e-2), tokens=48, tuning_tokens=16, every=16
    ),
    "forecast": dict(algorithms=("SnAp-1",), rates=(1e-3,)),
}


@pytest.mark.full
@pytest.mark.parametrize("name", TINY)
def test_a_killed_run_goes_on_to_the_same_results(name, tmp_path):
    settings = dataclasses.replace(EXPERIMENTS[name].quick, **TINY[name])
    whole = run(tmp_path / "whole", name, settings)
    rows = [json.loads(line) for line in whole.splitlines()]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", name, settings, stop_after=len(rows) - 3)
    assert run(tmp_path / "killed", name, settings) == whole
    assert not (tmp_path / "killed" / "state").exists()


OPTIONS = {
    "snap-copy": ["--updates", "sequence", "--sparse", "BPTT", "--tokens", "100", "--every", "100"],
    "snap-charlm": ["--learners", "sparse-8-2 SnAp-2", "--characters", "128", "--every", "64"],
    "snap-bias": ["--tokens", "40", "--every", "40"],
    "forecast": ["--algorithms", "BPTT"],
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_experiment_runs_and_is_reported(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
    options = [*OPTIONS[name]]
    if name == "snap-charlm":
        (tmp_path / "text.txt").write_text("to be or not to be, that is the question " * 600)
        options += ["--text", str(tmp_path / "text.txt")]
    out = tmp_path / "run"
    assert main(["experiment", name, "--quick", *options, "--out", str(out)]) == 0, capsys.readouterr().err
    assert main(["report", str(out)]) == 0
    page = (out / "report" / "report.html").read_text()
    assert EXPERIMENTS[name].title in page and "No final row" not in page.replace("on split tuning", "")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("snap-copy", ["--networks", "dense-0"]),
        ("snap-copy", ["--dense", "SnAp"]),
        ("snap-charlm", ["--learners", "dense-8 LSTM"]),
        ("forecast", ["--series", "nile"]),
    ],
)
def test_bad_settings_are_refused_by_name(name, options, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["experiment", name, *options, "--out", str(tmp_path / "run")])
    said = capsys.readouterr()
    assert repr(options[1].split()[-1]) in said.err + said.out
    assert not (tmp_path / "run").exists()
