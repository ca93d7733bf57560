"""What `explain` says of a learner's update: equal to what is allocated, and near to what XLA counts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from kalman_reference import as_rows, weights

import streamgrad as sg

KEY = jax.random.key(0)
MODEL = sg.nn.Sequential([sg.Recurrent(sg.cells.GRU(2, 3, key=KEY), sg.SnAp(1)), sg.Readout(3, 2, key=KEY)])
X = np.zeros(2)


def allocated(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


@pytest.mark.cross
@pytest.mark.parametrize("blocks", ["full", "layer", "unit", "diagonal", 4])
@pytest.mark.parametrize("options", [{}, {"streams": 3, "update_every": 2}])
def test_a_filters_bytes_are_those_allocated(blocks, options):
    learner = sg.Learner(MODEL, sg.Kalman(blocks), loss=sg.losses.mse, **options)
    told = sg.explain(learner, X)
    update = told.update
    many = lambda shape: np.zeros((options["streams"], *shape) if options else shape)
    state = learner.init(key=KEY, like=(many((2,)), many((2,)))).memory.update
    assert update.bytes == allocated(state)
    assert update.numbers == sum(leaf.size for leaf in jax.tree.leaves(state.kalman.covariance))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(sg.train.parameters(MODEL)))
    assert update.parameters == parameters == sum(count * size for count, size in update.blocks)
    assert update.pullbacks == 2 * options.get("streams", 1)
    text = str(told)
    assert f"update: Kalman(blocks={blocks!r}); {parameters} parameters in " in text
    assert f"{update.numbers:,} numbers" in text and f"{update.multiply_adds:,} multiply-adds" in text
    assert told.layers[0].path == sg.explain(MODEL, X).layers[0].path


@pytest.mark.parametrize("optimiser", [optax.adam(1e-3), optax.sgd(1e-3), lambda model: optax.adam(1e-3)])
def test_an_optimisers_bytes_are_those_allocated(optimiser):
    learner = sg.Learner(MODEL, optimiser, loss=sg.losses.mse, update_every=2)
    update = sg.explain(learner, X).update
    assert update.bytes == allocated(learner.init(key=KEY).memory.update)
    assert update.blocks == () and update.multiply_adds is None
    assert f"update: an Optax transformation; {update.parameters} parameters\n" in str(sg.explain(learner, X))


@pytest.mark.parametrize("optimiser", [sg.Kalman(), optax.adam(1e-3)])
def test_of_temporal_differences(optimiser):
    learner = sg.td.TDLambda(MODEL, optimiser, gamma=0.9, predictions=2)
    state = learner.init(key=KEY)
    told = sg.explain(learner, X).update
    assert told.bytes == allocated((state.trace, state.optimiser)) and told.pullbacks == 2


def test_explain_without_an_input_says_what_it_needs():
    with pytest.raises(ValueError, match=r"explain\(learner, x\) needs one input"):
        sg.explain(sg.Learner(MODEL, sg.Kalman(), loss=sg.losses.mse))
    assert sg.explain(MODEL, X).update is None and "update:" not in str(sg.explain(MODEL, X))


@pytest.mark.parametrize(("blocks", "rows"), [("full", 1), ("full", 6), ("layer", 2), (6, 1), (6, 4)])
def test_multiply_adds_are_those_of_the_program(blocks, rows):
    """Within a third of XLA's count: a product of matrices counts twice there, a loop once, LAPACK not at all."""
    p = 400
    filter_, theta = sg.Kalman(blocks), weights(p, jnp.float32)
    state = filter_.init(theta, theta, outputs=rows)
    args = (as_rows(np.ones((rows, p), np.float32)), jnp.ones(rows, jnp.float32), jnp.ones(rows, bool))
    cost = jax.jit(filter_).lower(state, theta, *args).cost_analysis()
    assert cost is not None
    told = state.multiply_adds(rows) - (9 * (6 + rows) ** 3 if blocks == 6 else 0)
    assert 0.67 < told / (cost["flops"] / 2) < 1.5
