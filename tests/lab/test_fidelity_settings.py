"""Settings that the page of the papers' claims needs: every rate for its whole length, and both columns."""

import dataclasses

import jax
import numpy as np
import pytest

from streamgrad.lab.experiments import EXPERIMENTS, columns_gradient, snap_copy

SWEEP = dict(cells=("gru",), networks=("sparse-8-2",), sparse=("BPTT", "SnAp-2"), rates=(1e-3, 1e-2), sweep=True)


def test_a_sweep_runs_every_rate_and_tunes_none():
    settings = snap_copy.Settings(**SWEEP)
    trials = list(EXPERIMENTS["snap-copy"].trials(settings, []))
    assert not any(trial.tuning for trial in trials)
    asked = [(trial.variant["learning"], trial.variant["update"], trial.variant["rate"]) for trial in trials]
    kinds = [("SnAp-2", "token"), ("BPTT", "sequence"), ("SnAp-2", "sequence")]
    assert asked == [(*kind, rate) for kind in kinds for rate in (1e-3, 1e-2)]
    assert {view["split"] for view in EXPERIMENTS["snap-copy"].views(settings)} == {"end"}
    with pytest.raises(ValueError, match="sweep is for several rates"):
        snap_copy.Settings(**SWEEP | {"rates": (1e-3,)})


def test_both_columns_have_the_same_weights_and_other_states():
    settings = columns_gradient.Settings(columns=3, features=2, inputs=4)
    made = {memory: columns_gradient.network(settings, memory, 1.0, 5) for memory in ("integrator", "gated", "none")}
    for cell in made.values():
        for a, b in zip(jax.tree.leaves(cell), jax.tree.leaves(made["gated"]), strict=True):
            np.testing.assert_array_equal(a, b)
    xs = np.random.default_rng(0).normal(size=(5, 4))
    last = {}
    for memory, cell in made.items():
        run = jax.jit(lambda xs, cell=cell: jax.lax.scan(lambda s, x: (cell(s, x),) * 2, cell.init_state(), xs)[1])
        last[memory] = np.asarray(run(jax.numpy.asarray(xs)))
    np.testing.assert_allclose(last["integrator"][0], last["none"][0])  # from nothing
    assert np.abs(last["integrator"][-1] - last["gated"][-1]).max() > 0.01


def test_the_harder_column_comes_first():
    trials = EXPERIMENTS["columns-gradient"].trials(EXPERIMENTS["columns-gradient"].config, [])
    assert [trial.variant["memory"] for trial in trials] == ["integrator"] * 14 + ["gated"] * 14
    with pytest.raises(ValueError, match="memory must name at least one"):
        dataclasses.replace(columns_gradient.Settings(), memory=())
