"""The deep rows of the benchmark: they run, they time what they say, and their bytes are those of real arrays."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import streamgrad as sg
from streamgrad.lab.bench import ROWS, _bytes, _deep, measure

SIZE = 8
NAMES = ["block-128", "block-512", "block-128-batch-16", "chunk-128", "scan-128"]
KEY = jax.random.key(0)


def nbytes(tree):
    return sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(tree))


def outcome(program):
    return program.run(*program.make())


def same(a, b, tolerance=1e-5):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


LONG = {"block-512"}  # the same program as block-128, larger


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.full) if name in LONG else name for name in NAMES]
)
def test_a_row_runs(name):
    result = measure(ROWS[name], rounds=1, steps=32)
    assert all(time["median"] > 0 for time in result["microseconds_a_step"].values())
    assert result["ratio"] > 0
    assert (result["reached"] == "no aim") == name.endswith("batch-16")
    assert ("allocated_bytes" in result["counts"]) == name.startswith("block")
    json.dumps(result)


@pytest.mark.parametrize("streams", [None, 3])
def test_counted_bytes_are_those_of_the_real_arrays(streams):
    model, n = _deep.block(SIZE, sg.SnAp(1)), streams or 1
    counts = _bytes.counts(model, streams)
    carry = model.init(key=KEY)
    recurrent = next(part for part in carry if isinstance(part, sg.algorithms.Carry))
    parameters, traces = nbytes(model), nbytes(recurrent.trace)
    allocated, traffic = counts["allocated_bytes"], counts["traffic_bytes_a_step"]
    assert allocated["inference"] == parameters + n * (nbytes(carry) - traces)
    assert allocated["inference + traces"] == parameters + n * nbytes(carry)
    assert traffic["inference"] == parameters + 2 * n * nbytes(recurrent.state)
    assert traffic["inference + traces"] - traffic["inference"] == 2 * n * traces
    assert nbytes(sg.inference(model)) == parameters
    assert nbytes(sg.inference(model).init(key=KEY)) == nbytes(carry) - traces
    # λ, γ and each column of B, for every unit: complex64.
    assert counts["complex_trace_numbers_a_stream"] == SIZE * (2 + SIZE) == traces // 8
    for count in (allocated, traffic):
        assert count["ratio"] == count["inference + traces"] / count["inference"]


def test_traces_are_advanced_and_come_back():
    steps = 5
    programs = _deep.with_traces(SIZE, steps)
    serving, total = outcome(programs["inference"])
    carry, total_traced = outcome(programs["inference + traces"])
    same(total, total_traced)
    same(serving[1].state, carry[1].state)
    model, start, _, xs = programs["inference + traces"].make()
    assert xs.dtype == jnp.float32
    assert len(np.unique(np.asarray(xs)[:, 0])) == steps  # the inputs vary with time
    step = jax.jit(lambda carry, x: model(carry, x))
    for x in xs:
        start, _ = step(start, x)
    assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(carry[1].trace))
    same(carry[1].trace, start[1].trace)


def test_all_gradients_of_a_chunk_are_of_the_same_loss():
    found = {name: outcome(program) for name, program in _deep.gradients(SIZE, 16).items()}
    (loss, online), (loss_unroll, by_unroll), (loss_scan, by_scan) = found.values()
    same((loss, loss), (loss_unroll, loss_scan))
    same(by_unroll, by_scan)
    # Below the recurrence the online gradient goes through the present step alone.
    same((online.recurrent.cell, online.gated), (by_scan.recurrent.cell, by_scan.gated))


def test_both_scans_find_the_same_states():
    programs = _deep.states(SIZE, 16)
    same(outcome(programs["sequential, batch 16"]), outcome(programs["associative, batch 16"]))
