"""Experiments: what a hop is, runs that resume to the same bytes, every name at its smallest."""

import dataclasses
import json
import os

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.flatten_util import ravel_pytree

import streamgrad as sg
from streamgrad.cli import main
from streamgrad.lab.experiments import EXPERIMENTS, Experiment, FolderError, RunFolder, copy_memory_modes, digits_stream
from streamgrad.lab.experiments._experiment import Trial
from streamgrad.lab.experiments._hops import alignment, hop_gradient
from streamgrad.lab.experiments._tuning import BEYOND, best_rate, next_rate, tuned
from streamgrad.lab.tasks.copy_memory import CopyMemory

KEY = jax.random.key(0)

# Credit across layers, against its definition: an influence that is cut off above some layer, one step at a time.


def deep(depth):
    return sg.nn.Deep(2, 2, width=4, units=3, depth=depth, key=KEY)


def by_definition(model, xs, ws, hops):
    """The sum over steps of dL_t/dθ with J carried on the states of the layers up to each parameter's limit."""
    depth = len(model.blocks)
    carry = sg.inference(model).init(key=KEY)
    start = [carry[1 + l][1].state for l in range(depth)]
    sizes = [oracles.to_rows(s).size for s in start]
    theta, unravel = ravel_pytree(eqx.filter(model, eqx.is_inexact_array))
    fixed = eqx.partition(model, eqx.is_inexact_array)[1]
    served = lambda theta: sg.inference(eqx.combine(unravel(theta), fixed))

    def split(rows):
        parts = jnp.split(rows, np.cumsum(sizes)[:-1])
        return [oracles.from_rows(part, like) for part, like in zip(parts, start, strict=True)]

    def step(theta, rows, x, w):
        old = list(carry)
        for l, state in enumerate(split(rows)):
            old[1 + l] = tuple(sg.algorithms.Carry(state, ()) if k == 1 else c for k, c in enumerate(carry[1 + l]))
        # The carry as plain backprop sees it: a Frozen layer would hide its parameters.
        plain = [sg.Recurrent(b.recurrent.cell, sg.BPTT()) for b in served(theta).blocks]
        network = eqx.tree_at(lambda m: [b.recurrent for b in m.blocks], served(theta), plain)
        new, y = network(tuple(old), x)
        states = [new[1 + l][1].state for l in range(depth)]
        return jnp.concatenate([oracles.to_rows(s) for s in states]), jnp.sum(w * jnp.sin(y))

    limit = lambda path: _limit(jax.tree_util.keystr(path), hops)
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(model, eqx.is_inexact_array))
    limits = np.concatenate([np.full(leaf.size, limit(path)) for path, leaf in leaves])
    layer = np.repeat(np.arange(depth), sizes)
    kept = layer[:, None] <= limits[None, :]
    jacobians = jax.jit(jax.jacrev(step, argnums=(0, 1)))
    run = jax.jit(step)
    influence, total, rows = np.zeros(kept.shape), 0, jnp.concatenate([oracles.to_rows(s) for s in start])
    for x, w in zip(xs, ws, strict=True):
        (by_theta, by_rows), (loss_theta, loss_rows) = jacobians(theta, rows, x, w)
        total = total + loss_theta + loss_rows @ influence
        influence = kept * (np.asarray(by_theta) + np.asarray(by_rows) @ influence)
        rows = run(theta, rows, x, w)[0]
    return np.asarray(total)


def _limit(name, hops):
    if ".blocks" not in name:
        return hops - 1
    block = int(name.split("[")[1].split("]")[0])
    return block + hops - (".norm" in name)


@pytest.mark.full
def test_credit_over_hops_is_an_influence_cut_off_above_some_layer():
    rng, model, hops = np.random.default_rng(0), deep(3), 1
    xs, ws = jnp.asarray(rng.normal(size=(6, 2))), jnp.asarray(rng.normal(size=(6, 2)))

    def loss(model):
        ys = sg.nn.unroll(model, model.init(key=KEY), xs)[1]
        return jnp.sum(ws * jnp.sin(ys))

    got = ravel_pytree(hop_gradient(loss, model, hops)[1])[0]
    np.testing.assert_allclose(got, by_definition(model, xs, ws, hops), rtol=1e-9, atol=1e-11)


def test_alignment_is_full_at_the_last_layer_and_with_all_hops():
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(9, 2)))
    loss = lambda model: jnp.sum(jnp.sin(sg.nn.unroll(model, model.init(key=KEY), xs)[1]))
    found = eqx.filter_jit(lambda model: alignment(model, loss, (0, 1)))(deep(2))
    assert set(found) == {"encoder", "1", "2"}
    np.testing.assert_allclose(found["2"]["cosine"], 1)
    assert found["1"]["cosine"] < 1 - 1e-6
    for layer in "12":
        np.testing.assert_allclose(found[layer]["cosine_1"], 1)


# The task.


def test_copy_memory_asks_for_its_pattern():
    task = CopyMemory(bits=3, length=4, pause=2)
    xs, pattern = task.draw(5, np.random.default_rng(0))
    assert xs.shape == (5, task.time, 4) == (5, 11, 4) and pattern.shape == (5, 4, 3)
    np.testing.assert_array_equal(xs[:, :4, :3], pattern)
    assert (xs[:, 6] == [0, 0, 0, 1]).all() and not xs[:, 4:6].any() and not xs[:, 7:].any()
    assert CopyMemory().time == 48
    with pytest.raises(ValueError, match="length must be at least 1"):
        CopyMemory(length=0)


# Run folders.


def tiny(**changes):
    settings = EXPERIMENTS["copy-memory-modes"].quick
    training = dataclasses.replace(settings.training, updates=6, evaluations=3, batch=4)
    network = dataclasses.replace(settings.network, depth=1, width=6, units=4)
    changes = dict(modes=("online",), sizes=(20, 8, 8), rates=(1e-3, 1e-2), tuning_updates=2) | changes
    return dataclasses.replace(settings, training=training, network=network, **changes)


def run(path, settings, stop_after=None, experiment=copy_memory_modes.EXPERIMENT):
    """All trials; with `stop_after`, killed when so many rows were written."""
    folder = RunFolder(path, experiment, settings, "a command")
    for trial in experiment.trials(settings, folder.rows):
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
    folder.close()
    return (path / "results.jsonl").read_text()


def test_a_killed_run_goes_on_to_the_same_results(tmp_path):
    whole = run(tmp_path / "whole", tiny())
    rows = [json.loads(line) for line in whole.splitlines()]
    splits = [row["split"] for row in rows if row["final"]]
    assert set(splits[:-4]) == {"tuning"} and splits[-4:] == ["valid"] * 2 + ["test"] * 2
    assert not (tmp_path / "whole" / "state").exists()
    path = tmp_path / "killed"
    for stop in (1, 7):  # before any state was kept, and after
        with pytest.raises(KeyboardInterrupt):
            run(path, tiny(), stop_after=stop)
        with open(path / "results.jsonl", "a") as file:
            file.write('{"half a li')
    assert run(path, tiny()) == whole
    header = json.loads((path / "run.json").read_text())
    assert header["finished"] and header["config"]["training"]["updates"] == 6
    assert isinstance(header["cpu_seconds"], int) and header["cpu_seconds"] >= 0


@pytest.mark.full
def test_a_killed_run_of_a_network_that_grows_goes_on_to_the_same_results(tmp_path):
    """Killed within the second stage: the state that is loaded has grown."""
    experiment = EXPERIMENTS["trace-patterning"]
    small = dict(learners=("ccn-2-1",), seeds=2, steps=300, tuning_steps=200, every=50)
    settings = dataclasses.replace(experiment.quick, **small)
    whole = run(tmp_path / "whole", settings, experiment=experiment)
    rows = [json.loads(line) for line in whole.splitlines()]
    assert [row["variant"]["learner"] for row in rows if row["final"]] == ["predict zero"] * 2 + ["Bayes"] * 2 + [
        "ccn-2-1"
    ] * 2
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", settings, stop_after=len(rows) - 4, experiment=experiment)
    assert run(tmp_path / "killed", settings, experiment=experiment) == whole


def test_learners_have_names():
    settings = EXPERIMENTS["trace-patterning"].quick
    ccn = settings.model("ccn-6-4-init", 3, 1000, KEY)
    assert ccn.layers[0].units == 6 and ccn.layers[0].per_stage == 4
    assert ccn.layers[0].stages[0].layers[1].cell.bias[1].mean() > 2
    raw = settings.model("tbptt-5-2-raw", 3, 1000, KEY)
    assert len(raw.layers) == 2 and raw.layers[0].algorithm.window == 5 and raw.layers[0].cell.units == 2
    for name in ("ccn-6", "lstm-3", "columnar-0", "snap-3-fast", "columnar-3-raw"):
        with pytest.raises(ValueError, match=f"no learner '{name}'"):
            dataclasses.replace(settings, learners=(name,))


def test_a_folder_with_another_run_is_refused(tmp_path):
    run(tmp_path / "a", tiny(rates=(1e-3,)))
    with pytest.raises(FolderError, match=r"seeds: 2 there, 1 asked"):
        RunFolder(tmp_path / "a", copy_memory_modes.EXPERIMENT, tiny(rates=(1e-3,), seeds=1), "")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("keep me")
    with pytest.raises(FolderError, match="is not empty"):
        RunFolder(tmp_path / "b", copy_memory_modes.EXPERIMENT, tiny(), "")
    (tmp_path / "a" / "run.json").write_text("{")
    with pytest.raises(FolderError, match="cannot be used"):
        RunFolder(tmp_path / "a", copy_memory_modes.EXPERIMENT, tiny(), "")


def test_a_damaged_line_is_named_and_nothing_is_lost(tmp_path):
    run(tmp_path, tiny(rates=(1e-3,)))
    lines = (tmp_path / "results.jsonl").read_text().splitlines(keepends=True)
    damaged = "".join([lines[0], lines[1][:20] + "\n", *lines[2:]])
    (tmp_path / "results.jsonl").write_text(damaged)
    with pytest.raises(FolderError, match="line 2 is damaged"):
        run(tmp_path, tiny(rates=(1e-3,)))
    assert (tmp_path / "results.jsonl").read_text() == damaged


def test_what_was_said_of_a_run_stays_when_it_is_asked_again(tmp_path):
    run(tmp_path, tiny(rates=(1e-3,)))
    header = json.loads((tmp_path / "run.json").read_text()) | {"machine": "another one", "command": "the first"}
    (tmp_path / "run.json").write_text(json.dumps(header))
    run(tmp_path, tiny(rates=(1e-3,)))
    assert json.loads((tmp_path / "run.json").read_text()) == header
    header["done"] = []
    (tmp_path / "run.json").write_text(json.dumps(header))
    run(tmp_path, tiny(rates=(1e-3,)))
    after = json.loads((tmp_path / "run.json").read_text())
    assert after["command"] == "the first" and after["machine"] == "another one"
    assert after["resumed"][0]["machine"] != "another one"


@pytest.mark.parametrize("shifted", [False, True])
def test_the_digits_stream_tells_no_label_before_its_answer(shifted):
    xs, labels, row = digits_stream.stream(40, 4, 0, shifted=shifted)
    assert xs.shape == (640, 4, 2) and labels.shape == row.shape == (640, 4)
    told = np.concatenate([np.full((64, 4), -1), labels[:-64]])
    for s in range(4):
        begins, ends = np.flatnonzero(xs[:, s, 1]), np.flatnonzero(row[:, s] >= 0)
        assert (np.diff(begins) == 64).all() and (np.diff(ends) == 64).all()
        for end in ends:  # while a digit is read, the labels told are those of the one before
            first = end - 63
            assert xs[first, s, 1] == 1 and (labels[first : end + 1, s] == labels[end, s]).all()
            if first >= 64:
                assert (told[first : end + 1, s] == labels[first - 1, s]).all()
    assert (row.max(0) == 9).all() and (row[row >= 0].min() == 0)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("copy-memory-modes", ["--seeds", "0"]),
        ("copy-memory-modes", ["--training.evaluations", "0"]),
        ("copy-memory-modes", ["--rates"]),
        ("copy-memory-modes", ["--rates", "0.1", "0"]),
        ("copy-memory", ["--modes", "onlin"]),
        ("copy-memory-depth", ["--hops", "-1"]),
        ("copy-memory-depth", ["--rates", "0.1", "0.2"]),
        ("digits", ["--training.warmup", "1.5"]),
        ("digits-stream", ["--images", "1"]),
    ],
)
def test_bad_settings_are_refused_by_name(name, options, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["experiment", name, *options, "--out", str(tmp_path / "run")])
    said = capsys.readouterr()
    assert options[0].split(".")[-1].lstrip("-").replace("-", "_") in said.err + said.out
    assert not (tmp_path / "run").exists()


def test_the_best_rate_is_that_of_the_least_tuning_loss():
    row = lambda rate, loss, split="tuning": {"variant": {"mode": "a", "rate": rate}, "split": split, "loss": loss}
    rows = [row(0.1, 3.0), row(0.2, 1.0), row(0.3, None), row(0.1, 0.0, "valid")]
    assert best_rate({"mode": "a"}, (0.1, 0.2, 0.3), rows) == 0.2
    assert best_rate({"mode": "b"}, (0.1, 0.2), rows) == 0.1


@pytest.mark.parametrize(
    "rates, best, further",
    [
        ((0.001, 0.003, 0.01), 0.01, 0.03),
        ((0.01, 0.003, 0.001), 0.001, 0.0003),
        ((0.002, 0.004, 0.008), 0.008, 0.016),
        ((0.002, 0.004), 0.004, 0.008),
        ((0.001, 0.003, 0.01), 0.003, None),
        ((0.1, 0.1), 0.1, None),
    ],
)
def test_a_list_goes_on_beyond_the_edge_in_its_own_steps(rates, best, further):
    assert next_rate(rates, best) == further


@pytest.mark.parametrize("best, last", [(0.03, 0.03), (1e-4, 1e-4), (100.0, 0.3)])
def test_tuning_goes_on_until_the_best_rate_is_no_edge(best, last):
    rows, rates = [], (1e-3, 3e-3, 1e-2)
    asked = []
    trial = lambda variant, tuning: Trial(variant, lambda _: None, tuning)
    for found in tuned([{"mode": "a"}], rates, rows, trial):
        asked.append(found)
        loss = abs(np.log(found.variant["rate"] / best))
        rows.append({"variant": found.variant, "split": "tuning", "loss": loss})
    tried = [found.variant["rate"] for found in asked if found.tuning]
    assert [found.tuning for found in asked] == [True] * len(tried) + [False]
    assert asked[-1].variant["rate"] == last
    assert len(tried) <= len(rates) + BEYOND and (best == 100.0 or min(tried) < last < max(tried))


# The command.


def made_cifar(folder):
    rng = np.random.default_rng(0)
    folder.mkdir()
    for name in [*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]:
        records = rng.integers(256, size=(10, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(10)
        (folder / name).write_bytes(records.tobytes())
    return ["--images", "10", "--valid", "10", "--grey"]


def made_reviews(folder):
    for part in ("train", "test"):
        for kind in ("pos", "neg"):
            (folder / part / kind).mkdir(parents=True)
            for k in range(6):
                (folder / part / kind / f"{k}_7.txt").write_text(f"a {kind} film, number {k} in {part}")
    return ["--reviews", "6", "--valid", "4", "--time", "20"]


SMALL = ["--quick", "--seeds", "1", "--network.width", "6", "--network.units", "4", "--network.depth", "1"]
TRAINING = ["--modes", "online", "--training.updates", "2", "--training.batch", "4", "--training.evaluations", "1"]
SHALLOW = [word for net in ("lru", "linear", "gru") for word in (f"--{net}.depth", "1")]
OPTIONS = {
    "copy-memory": ["--quick", "--seeds", "1", *SHALLOW, "--training.updates", "2", "--modes", "online"],
    "copy-memory-depth": ["--quick", "--seeds", "1", "--training.updates", "2", "--depths", "2"],
    "digits-stream": ["--quick", "--images", "8", "--every", "4", "--modes", "online"],
    "listops": [*SMALL, "--modes", "bptt", *TRAINING[2:], "--expressions", "60"],
    "scifar": [*SMALL, *TRAINING],
    "imdb": [*SMALL, *TRAINING],
    "columns-gradient": ["--quick", "--seeds", "1"],
    "trace-conditioning": ["--quick", "--learners", "tbptt-3-2-raw", "--steps", "400", "--every", "200"],
}


LONG = {"copy-memory-depth"}  # what it measures is in the tests above


# One of those that share their code, and that by mode in the tests above, stand for the others.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.full) if name in LONG else name for name in OPTIONS]
)
def test_an_experiment_runs_and_is_reported(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))  # the command may add to it
    options = list(OPTIONS.get(name, [*SMALL, *TRAINING]))
    makers = {"scifar": made_cifar, "imdb": made_reviews}
    if name in makers:
        options += [*makers[name](tmp_path / "data"), "--folder", str(tmp_path / "data")]
    out = tmp_path / "run"
    assert main(["experiment", name, *options, "--out", str(out)]) == 0, capsys.readouterr().err
    assert main(["report", str(out)]) == 0
    page = (out / "report" / "report.html").read_text()
    assert EXPERIMENTS[name].title in page and "No final row" not in page.replace("on split tuning", "")
    capsys.readouterr()
    assert main(["experiment", name, *options, "--out", str(out)]) == 0
    assert "done before" in capsys.readouterr().err


def test_the_command_names_what_is_wrong(tmp_path, capsys):
    assert main(["experiment", "copy"]) == 2
    assert "copy-memory-modes" in capsys.readouterr().err
    assert main(["experiment", "scifar", "--folder", str(tmp_path / "none"), "--out", str(tmp_path / "o")]) == 1
    assert "there is no folder" in capsys.readouterr().err
    assert main(["experiment", "--help"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed and experiment.duration in listed for name, experiment in EXPERIMENTS.items())


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_says_what_a_reader_needs(name):
    experiment = EXPERIMENTS[name]
    assert isinstance(experiment, Experiment) and experiment.about and experiment.duration
    for settings in (experiment.config, experiment.quick):
        json.dumps(dataclasses.asdict(settings), default=str)
        for view in experiment.views(settings):
            named = view.get("metrics", [view.get("metric")])
            assert set(named) <= set(experiment.metrics), view
