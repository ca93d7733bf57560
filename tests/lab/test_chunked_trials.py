"""Trials with one update a sequence: in one pass backwards, where there is one, with the numbers of the traces."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from streamgrad.lab.experiments import snap_copy
from streamgrad.lab.experiments._minibatches import SeedBatch
from streamgrad.lab.tasks.copy_curriculum import CopyCurriculum

SEQUENCES = CopyCurriculum(batch=2, first=3, most=5, spread=2)


def crowd(learning, network="sparse-4-2", **options):
    make = functools.partial(snap_copy.model, "vanilla", network, "own", learning, SEQUENCES)
    return SeedBatch(make, SEQUENCES, options.pop("update", "sequence"), **options)


def flat(state, seed):
    """The parameters of a seed."""
    return ravel_pytree(jax.tree.map(lambda leaf: leaf[seed], state.parameters))[0]


@pytest.mark.parametrize("learning", ["SnAp-1", "TBPTT-3", pytest.param("Frozen", marks=pytest.mark.full)])
def test_a_pass_backwards_learns_what_traces_learn(learning):
    seeds = jnp.arange(2, dtype=jnp.uint32)
    at_once, by_traces = crowd(learning, chunked=True), crowd(learning)
    assert at_once.whole and not by_traces.whole
    state, said = at_once.run(at_once.start(seeds), 0.01, 30)
    for seed in seeds:  # sequences end where they end: each seed as far as it went
        only = jnp.arange(seed, seed + 1, dtype=jnp.uint32)
        other, said_there = by_traces.run(by_traces.start(only), 0.01, int(state.seen[seed]))
        assert state.count[seed] == other.count[0] >= 3 and state.level[seed] == other.level[0]
        np.testing.assert_allclose(flat(state, seed), flat(other, 0), rtol=0, atol=1e-9)
        np.testing.assert_allclose(said[seed], said_there[0], rtol=1e-9)
    assert np.abs(flat(state, 0) - flat(at_once.start(seeds), 0)).max() > 0.01


@pytest.mark.parametrize("learning", ["SnAp-2", "UORO"])
def test_what_has_no_such_pass_learns_by_its_traces(learning):
    assert not crowd(learning, chunked=True).whole


def test_dense_networks_of_the_experiments_learn_at_once():
    made = lambda network: snap_copy._crowd("vanilla", network, "own", "SnAp-1", SEQUENCES, "sequence")
    assert made("dense-4").whole and not made("sparse-4-2").whole


def test_updates_at_every_token_are_by_traces():
    assert not crowd("SnAp-1", update="token", chunked=True).whole
