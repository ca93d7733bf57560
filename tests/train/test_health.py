"""A learner warns, with the cause, before a run is lost."""

import jax
import numpy as np
import optax

import streamgrad as sg

KEY = jax.random.key(0)


def run(cell, steps, rate=0.0, targets=1.0):
    model = sg.nn.Sequential([sg.Recurrent(cell, sg.SnAp(1)), sg.Readout(cell.out_size, 1, key=KEY)])
    learner = sg.Learner(model, optax.sgd(rate), loss=sg.losses.mse)
    state, _ = learner.run(learner.init(key=KEY), np.ones((steps, 1)), np.full((steps, 1), targets))
    return learner.warnings(state)


def test_a_healthy_run_has_no_warnings():
    assert run(sg.cells.GRU(1, 4, key=KEY), 50, rate=0.01) == []


def test_an_expanding_recurrence_is_named_while_all_is_finite():
    found = run(sg.cells.Vanilla(1, 8, key=KEY, activation=lambda z: 1.5 * z), 90)
    assert any("state of carry[0]" in text and "expands" in text for text in found)
    assert any("influence of carry[0]" in text and "Clip" in text for text in found)


def test_large_weights_and_skipped_updates_are_named():
    assert any("weight has grown" in text for text in run(sg.cells.GRU(1, 4, key=KEY), 3, rate=1e3, targets=1e4))
    assert any("skipped" in text for text in run(sg.cells.GRU(1, 4, key=KEY), 60, rate=1e3, targets=1e300))
