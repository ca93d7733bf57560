"""Checkpoints: exact, whole or absent, and refused by name when they are not what was written."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import streamgrad as sg
from streamgrad import checkpoint
from streamgrad.checkpoint import CheckpointError


def _tree():
    return {
        "half": jnp.asarray([1.5, -0.1, jnp.nan], jnp.bfloat16),
        "single": jnp.asarray([[0.1, 2.0]], jnp.float32),
        "complex": jnp.asarray([1 + 2j], jnp.complex64),
        "counter": jnp.asarray(7, jnp.int32),
        "flag": jnp.asarray(True),
        "keys": (jax.random.key(3), jax.random.split(jax.random.key(4, impl="rbg"), 2)),
        "host": np.asarray([np.nan, np.inf, 1e-310]),
        "empty": np.zeros((0, 3), np.int8),
        "number": np.float64(0.1),
        "python": [3, 0.1, True, "text", None],
    }


def _same(a, b):
    """The same bits and types."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            assert x.dtype == y.dtype
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert isinstance(y, jax.Array) == isinstance(x, jax.Array)
        if hasattr(x, "dtype"):
            assert (x.dtype, x.shape) == (y.dtype, y.shape)
            assert np.asarray(x).tobytes() == np.asarray(y).tobytes()
        else:
            assert type(x) is type(y) and x == y


def test_round_trip_is_exact(tmp_path):
    tree = _tree()
    path = checkpoint.save(tmp_path, tree, step=12, meta={"rows": [1, 2]})
    saved = checkpoint.load(tmp_path, tree)
    _same(tree, saved.tree)
    assert (saved.step, saved.meta, saved.path) == (12, {"rows": [1, 2]}, path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    _same(tree, checkpoint.load(path, tree).tree)
    before = path.read_bytes()
    checkpoint.save(tmp_path, tree, step=12, meta={"rows": [1, 2]})
    assert path.read_bytes() == before  # equal states give equal files


def test_the_newest_few_are_kept(tmp_path):
    for step in (5, 10, 1000, 20):
        checkpoint.save(tmp_path, {"a": jnp.asarray(step)}, step=step, keep=2)
    assert checkpoint.steps(tmp_path) == [20, 1000]
    assert checkpoint.load(tmp_path, {"a": jnp.asarray(0)}).step == 1000


def test_every_flipped_bit_and_every_cut_is_noticed(tmp_path):
    tree = {"a": jnp.arange(5.0), "key": jax.random.key(0), "b": 3}
    path = checkpoint.save(tmp_path, tree, step=1, meta={"zeros": "0" * 64}, config={"c": 1})
    good, rng = path.read_bytes(), random.Random(0)
    changes = []
    for bit in rng.sample(range(8 * len(good)), 400):
        changed = bytearray(good)
        changed[bit // 8] ^= 1 << bit % 8
        changes.append(bytes(changed))
    changes += [good[:n] for n in (0, 7, 100, len(good) - 1)] + [good + b"\0"]
    for changed in changes:
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match=path.name):
            checkpoint.load(tmp_path, tree, config={"c": 1})


def test_a_damaged_one_is_named_and_the_newest_valid_one_used(tmp_path):
    like = {"a": jnp.asarray(0)}
    paths = [checkpoint.save(tmp_path, {"a": jnp.asarray(n)}, step=n) for n in (1, 2, 3)]
    for path in paths[1:]:
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=r"step-0+[23].safetensors is damaged .* older one"):
        saved = checkpoint.load(tmp_path, like)
    assert (saved.step, int(saved.tree["a"])) == (1, 1)
    assert saved.damaged == (paths[2], paths[1])
    with pytest.raises(CheckpointError, match=paths[2].name):
        checkpoint.load(paths[2], like)


def test_another_model_or_version_is_refused_in_one_sentence(tmp_path, monkeypatch):
    tree = {"weight": jnp.zeros((2, 3)), "n": 1}
    checkpoint.save(tmp_path, tree, step=1, config={"cell": "gru", "sizes": (1, 2)})
    config = {"cell": "gru", "sizes": (1, 2)}
    checkpoint.load(tmp_path, tree, config=config)

    def refused(match, like=tree, **changes):
        with pytest.raises(CheckpointError, match=match):
            checkpoint.load(tmp_path, like, config={**config, **changes})

    refused("cell was 'gru' and is now 'lru'", cell="lru")
    refused("units was None and is now 3", units=3)
    shape = r"\['weight'\] was array float64 \[2, 3\] and is now array float64 \[2, 4\]"
    refused(shape, {**tree, "weight": jnp.zeros((2, 4))})
    refused("and is now array float32", {**tree, "weight": jnp.zeros((2, 3), jnp.float32)})
    refused(r"\['more'\] was absent", {**tree, "more": jnp.zeros(1)})
    refused(r"\['n'\] was scalar int and is now absent", {"weight": tree["weight"]})
    monkeypatch.setattr(checkpoint, "SCHEMA", 2)
    refused("has format 1 and this version of streamgrad reads format 2")


def test_nothing_to_load(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "step-1.safetensors"):
        with pytest.raises(CheckpointError, match="there is no checkpoint"):
            checkpoint.load(path, {})


def test_what_cannot_be_saved(tmp_path):
    with pytest.raises(CheckpointError, match=r"\['f'\] is a function"):
        checkpoint.save(tmp_path, {"f": _same}, step=1)
    with pytest.raises(CheckpointError, match="Python objects"):
        checkpoint.save(tmp_path, {"f": np.asarray([None])}, step=1)
    with pytest.raises(CheckpointError, match="keep=0"):
        checkpoint.save(tmp_path, {}, step=1, keep=0)


@pytest.mark.parametrize("where", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_older_ones(tmp_path, monkeypatch, where):
    like = {"a": jnp.asarray(0)}
    checkpoint.save(tmp_path, {"a": jnp.asarray(1)}, step=1)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if where == "write":
        monkeypatch.setattr(Path, "write_bytes", full)
    else:
        monkeypatch.setattr(os, where, full)
    with pytest.raises(CheckpointError, match=r"No space left.*last good one is of step 1"):
        checkpoint.save(tmp_path, {"a": jnp.asarray(2)}, step=2)
    assert checkpoint.load(tmp_path, like).step == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_process_left_is_not_used_and_goes_away(tmp_path):
    left = tmp_path / ".step-000000000009.safetensors.1.tmp"
    left.write_bytes(b"half a checkpoint")
    checkpoint.save(tmp_path, {"a": jnp.asarray(1)}, step=1)
    assert checkpoint.steps(tmp_path) == [1] and not left.exists()


def test_a_learner_goes_on_bit_for_bit(tmp_path):
    """Weights, influence, optimiser, counters, keys and the inputs that wait for their targets."""
    key = jax.random.key(0)
    layer = sg.Recurrent(sg.cells.GRU(2, 5, key=key), sg.SnAp(n=1))
    model = sg.nn.Sequential([layer, eqx.nn.Linear(5, 1, key=key)])
    learner = sg.Learner(model, optax.adam(1e-2), loss=sg.losses.mse, delay=3)
    xs = jax.random.normal(key, (30, 2))
    targets = jnp.sin(xs.sum(axis=1, keepdims=True))
    st = learner.init(key=key, like=(xs[0], targets[0]))
    st, _ = learner.run(st, xs[:11], targets[:11])
    checkpoint.save(tmp_path, {"learner": st}, step=11)
    st, outs = learner.run(st, xs[11:], targets[11:])

    other = sg.Learner(model, optax.adam(1e-2), loss=sg.losses.mse, delay=3)
    like = {"learner": other.init(key=jax.random.key(9), like=(xs[0], targets[0]))}
    again, outs2 = other.run(checkpoint.load(tmp_path, like).tree["learner"], xs[11:], targets[11:])
    _same(outs, outs2)
    _same(st.memory, again.memory)

    bigger = sg.Recurrent(sg.cells.GRU(2, 6, key=key), sg.SnAp(n=1))
    model = sg.nn.Sequential([bigger, eqx.nn.Linear(6, 1, key=key)])
    learner = sg.Learner(model, optax.adam(1e-2), loss=sg.losses.mse, delay=3)
    like = {"learner": learner.init(key=key, like=(xs[0], targets[0]))}
    with pytest.raises(CheckpointError, match=r"another model: \['learner'\]\.\w+"):
        checkpoint.load(tmp_path, like)
