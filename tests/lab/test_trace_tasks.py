"""Trace patterning and trace conditioning: the process, the return, and the best prediction there is."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from streamgrad.lab.tasks._conditioning import AFTER_INVALID, AFTER_US, WAITING
from streamgrad.lab.tasks.trace_conditioning import TraceConditioning
from streamgrad.lab.tasks.trace_patterning import TracePatterning, bayes_error, zero_error

GAMMA = 0.9
TASK = TracePatterning()


def _events(stream, start, stop):
    """Steps and patterns of the CS, and steps of the US, as the inputs show them."""
    xs = stream.inputs(start, stop)
    bits = stream.task.patterns.shape[1]
    cs = np.flatnonzero(xs[:, :bits].any(axis=1))
    rows = [tuple(row) for row in stream.task.patterns]
    pattern = np.array([rows.index(tuple(row)) for row in xs[cs, :bits]])
    return cs, pattern, np.flatnonzero(xs[:, bits])


# The process.


def test_trace_patterning_is_what_it_says():
    stream = TASK.stream(3)
    assert TASK.in_size == 12 and stream.valid.sum() == 10
    assert TASK.patterns.shape == (20, 6) and (TASK.patterns.sum(axis=1) == 3).all()
    assert len(np.unique(TASK.patterns, axis=0)) == 20
    cs, pattern, us = _events(stream, 0, 1_000_000)
    count = np.bincount(pattern, minlength=20)
    assert abs(count / len(cs) - 1 / 20).max() < 5 * math.sqrt(0.05 * 0.95 / len(cs))
    assert abs(len(cs) - 1_000_000 / 131) < 30
    # Each US belongs to the CS before it; it comes after every valid one and after no other.
    before = np.searchsorted(cs, us, side="right") - 1
    np.testing.assert_array_equal(np.flatnonzero(stream.valid[pattern[:-1]]), before[before < len(cs) - 1])
    isi = us - cs[before]
    assert (isi.min(), isi.max()) == (24, 36) and Counter(isi).most_common()[-1][1] > len(isi) / 13 / 1.5
    gap = np.diff(cs)
    iti = (cs[before[:-1] + 1] - us[:-1]) - 1
    assert (iti.min(), iti.max()) == (80, 120) and abs(iti.mean() - 100) < 1
    unseen = gap[~stream.valid[pattern[:-1]]]
    assert 104 <= unseen.min() - 1 < 108 and 152 < unseen.max() - 1 <= 156 and abs(unseen.mean() - 131) < 1
    assert 80 <= cs[0] <= 120  # as after a US on step -1
    np.testing.assert_array_equal(stream.cumulants(0, 1_000_000).nonzero()[0], us)


def test_distractors_are_on_by_chance():
    on = TASK.stream(0).inputs(0, 400_000)[:, 7:].astype(float)
    chance = 1 / (10 * np.arange(1, 6))
    assert (abs(on.mean(axis=0) - chance) < 5 * np.sqrt(chance / len(on))).all()
    together = np.corrcoef(np.concatenate([on[1:], on[:-1]], axis=1).T)
    assert abs(together - np.eye(10)).max() < 5 / math.sqrt(len(on))
    assert TracePatterning(distractors=0).stream(0).inputs(0, 500).shape == (500, 7)


def test_trace_conditioning_is_what_it_says():
    task = TraceConditioning()
    assert task.in_size == 2
    cs, _, us = _events(task.stream(1), 0, 500_000)
    isi = us - cs[: len(us)]
    assert len(cs) - len(us) in (0, 1) and (isi.min(), isi.max()) == (48, 72)
    iti = cs[1:] - us[: len(cs) - 1] - 1
    assert (iti.min(), iti.max()) == (80, 120)
    assert TraceConditioning(distractors=3).stream(1).inputs(0, 9).shape == (9, 5)


def test_the_seed_says_it_all():
    streams = [TASK.stream(seed) for seed in (0, 0, 1)]
    a, b, c = (stream.inputs(0, 9_000) for stream in streams)
    assert a.dtype == np.uint8 and (a == b).all()
    assert (a != c)[:, 7:].any() and (a != c)[:, :7].any() and (streams[0].valid != streams[2].valid).any()
    ever = sum(TASK.stream(seed).valid.astype(int) for seed in range(200))
    assert abs(ever / 200 - 0.5).max() < 0.2


@pytest.mark.parametrize("task", [TASK, TraceConditioning(distractors=2)], ids=["patterning", "conditioning"])
def test_a_stream_is_the_same_in_whatever_portions(task):
    def everything(stream, start, stop):
        parts = [stream.inputs(start, stop), stream.cumulants(start, stop)]
        return [*parts, stream.returns(start, stop, GAMMA), stream.bayes(start, stop, GAMMA)]

    start, stop = 150_000, 171_000
    whole = everything(task.stream(5), start, stop)
    cs, _, us = _events(task.stream(5), start, stop)
    for cuts in ([1, 2, 9, 4096, 4097, 20_000], range(1, 21_000, 777), cs[1:40], us[1:40], us[1:40] + 1):
        stream, at = task.stream(5), [start, *(start + int(cut) for cut in cuts), stop]
        parts = [everything(stream, *span) for span in reversed(list(itertools.pairwise(at)))]
        for value, part in zip(whole, zip(*reversed(parts))):
            np.testing.assert_array_equal(np.concatenate(part), value)


def test_a_stream_is_long():
    stream = TASK.stream(2)
    xs = stream.inputs(49_990_000, 50_000_000)
    assert 70 < xs[:, :6].any(axis=1).sum() < 82
    assert stream.inputs(50_000_000, 50_000_000).shape == (0, 12)


# The return and the best prediction.


@pytest.mark.parametrize("gamma", [0.0, 0.5, GAMMA, 0.99])
def test_returns_against_the_recursion(gamma):
    stream, start, stop = TASK.stream(4), 30_000, 50_000
    us = stream.inputs(start, stop)[:, 6]
    right = np.zeros(stop - start)
    for t in reversed(range(len(right) - 1)):
        right[t] = us[t + 1] + gamma * right[t + 1]
    known = 10_000  # what comes after the end is not seen by the recursion: gamma^10000 of it
    np.testing.assert_allclose(stream.returns(start, start + known, gamma), right[:known], rtol=1e-11, atol=1e-40)


def _filtered(stream, steps, gamma):
    """The best prediction by a filter over hidden states: what comes next, and in how many steps."""
    task = stream.task
    isi = [("isi", x) for x in range(task.isi[0], task.isi[1] + 1)]
    pauses = [("pause", x + 1) for x in range(task.iti[0], task.iti[1] + 1)]
    share = stream.valid.mean()

    def follow(state):
        """(probability, observation, next state) of every way on."""
        kind, left = state
        if left > 1:
            return [(1.0, "", (kind, left - 1))]
        if kind != "pause":
            return [(1 / len(pauses), "us" if kind == "valid" else "", pause) for pause in pauses]
        ways = [("valid", share), ("invalid", 1 - share)]
        return [(chance / len(isi), kind, (kind, x)) for kind, chance in ways for _, x in isi]

    belief = {pause: 1 / len(pauses) for pause in pauses}
    states = [
        (kind, left + 1) for kind in ("pause", "valid", "invalid") for left in range(max(task.isi + task.iti) + 1)
    ]
    index = {state: i for i, state in enumerate(states)}
    move, reward = np.zeros((len(states), len(states))), np.zeros(len(states))
    for state in states:
        for chance, seen, following in follow(state):
            move[index[state], index[following]] += chance
            reward[index[state]] += chance * (seen == "us")
    value = np.linalg.solve(np.eye(len(states)) - gamma * move, reward)

    cs, pattern, us = _events(stream, 0, steps)
    observed = dict.fromkeys(us, "us") | {t: "valid" if stream.valid[p] else "invalid" for t, p in zip(cs, pattern)}
    predictions = []
    for t in range(steps):
        after = Counter()
        for state, weight in belief.items():
            for chance, seen, following in follow(state):
                if seen == observed.get(t, ""):
                    after[following] += weight * chance
        belief = {state: weight / after.total() for state, weight in after.items()}
        predictions.append(sum(weight * value[index[state]] for state, weight in belief.items()))
    return predictions


@pytest.mark.parametrize(
    ("task", "steps"),
    [
        (TASK, 800),
        (TracePatterning(isi=(1, 4), iti=(0, 3), valid=5), 500),
        (TracePatterning(isi=(3, 3), iti=(2, 9), bits=3, on=1, valid=1), 500),
        (TraceConditioning(isi=(2, 7), iti=(1, 1)), 500),
    ],
)
def test_bayes_against_a_filter(task, steps):
    stream = task.stream(6)
    for gamma in (0.0, GAMMA):
        np.testing.assert_allclose(stream.bayes(0, steps, gamma), _filtered(stream, steps, gamma), rtol=1e-9)


def test_bayes_is_calibrated_and_not_to_be_bettered():
    steps, errors = 3_000_000, []
    for task in (TASK, TraceConditioning()):
        stream = task.stream(7)
        returns, bayes = stream.returns(0, steps, GAMMA), stream.bayes(0, steps, GAMMA)
        error = np.mean((returns - bayes) ** 2)
        np.testing.assert_allclose(bayes_error(stream, 0, steps, GAMMA), error, rtol=1e-9)
        np.testing.assert_allclose(zero_error(stream, 0, steps, GAMMA), np.mean(returns**2), rtol=1e-9)
        errors.append((np.mean(returns**2), error))
        # Right on average at any age within any phase, as far as the visits (one per trial) can tell.
        phase, age = stream.phases(0, steps)
        width = age.max() + 1
        at = phase * width + age
        visits = np.bincount(at, minlength=3 * width)
        mean, square = (np.bincount(at, v, 3 * width) / np.maximum(visits, 1) for v in (returns - bayes, returns**2))
        often = visits > 300
        assert (abs(mean) < 5 * np.sqrt(square / np.maximum(visits, 1)) + 1e-12)[often].all()
        # And within each phase: one number, tighter.
        for which in {WAITING, AFTER_US, AFTER_INVALID} & set(phase):
            at = phase == which
            assert abs((returns - bayes)[at].mean()) < 2e-3
        others = [0.97 * bayes, 1.03 * bayes, bayes + 3e-3, bayes - 3e-3, np.roll(bayes, 1), np.roll(bayes, -1)]
        for which in set(phase):
            others.append(np.where(phase == which, 0.8 * bayes, bayes))
            others.append(np.where(phase == which, 1.2 * bayes, bayes))
        assert all(np.mean((returns - other) ** 2) > error for other in others)
    np.testing.assert_allclose(errors[0], [0.0200, 0.0017], rtol=0.03)  # calculated apart from this
    np.testing.assert_allclose(errors[1], [0.0327, 0.0064], rtol=0.02)


def test_predicting_zero_costs_what_the_formula_says():
    for task, share in ((TASK, 0.5), (TracePatterning(valid=4, isi=(10, 12)), 0.2)):
        right = share / (1 - GAMMA**2) / (sum(task.isi) / 2 + 101)
        errors = [zero_error(task.stream(seed), 1_000, 3_001_000, GAMMA) for seed in range(5)]
        np.testing.assert_allclose(np.mean(errors), right, rtol=0.02)


def test_refusals():
    for settings, message in [
        (dict(isi=(0, 3)), "isi must be a range from at least 1"),
        (dict(iti=(5, 4)), "iti must be a range from at least 0"),
        (dict(distractors=-1), "distractors must be at least 0"),
        (dict(on=7), "on must be from 1 to bits=6"),
        (dict(valid=21), "valid must be from 1 to the 20 patterns"),
    ]:
        with pytest.raises(ValueError, match=f"TracePatterning: {message}"):
            TracePatterning(**settings)
    stream = TASK.stream(0)
    for span in ((-1, 3), (5, 4)):
        for ask in (stream.inputs, stream.cumulants):
            with pytest.raises(ValueError, match="no steps from"):
                ask(*span)
    for ask in (stream.returns, stream.bayes):
        with pytest.raises(ValueError, match="gamma must be from 0 to below 1"):
            ask(0, 3, 1.0)
    with pytest.raises(ValueError, match="to take a mean over"):
        zero_error(stream, 3, 3, GAMMA)
