"""A single step of TD(λ) from Python: few arrays, and a state that stays a pytree of its parts."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import streamgrad as sg
from streamgrad.td import TDState

KEY = jax.random.key(0)
X, C = np.ones(3), np.ones(1)


def made(units=300):
    """A model of which some leaves are small and some are large."""
    cell = sg.cells.IndRNN(3, units, key=KEY)
    model = sg.nn.Sequential([sg.nn.Normalise(3), sg.Recurrent(cell, sg.SnAp(1)), sg.Readout(units, 1, key=KEY)])
    return sg.td.TDLambda(model, optax.adam(1e-2), gamma=0.9, lam=0.5)


@pytest.fixture(scope="module")
def learner():
    return made()


def walked(learner, steps=3):
    st = learner.init(key=KEY)
    for _ in range(steps):
        st, _ = learner.step(st, X, C)
    return st


def leaves(st):
    raw = lambda leaf: jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    return [np.asarray(raw(leaf)) for leaf in jax.tree.leaves(eqx.filter(st, eqx.is_array))]


def test_a_step_flattens_no_model(learner, monkeypatch):
    """Of the state, only its few packed arrays are looked at: a model takes as long as it has parts."""
    st = walked(learner)

    def unpacked(st):
        raise AssertionError("a step has unpacked the state")

    monkeypatch.setattr(TDState, "memory", property(unpacked))
    st, out = learner.step(st, X, C)
    assert len(st.packed({})[1]) == 22 and out.prediction.shape == (1,)  # the large leaves, and three vectors


def test_a_state_is_the_same_pytree_however_it_came(learner):
    """From `init`, `run` and `step`: structure, paths, and what a checkpoint holds."""
    stepped = walked(learner, 4)
    ran, _ = learner.run(learner.init(key=KEY), np.tile(X, (4, 1)), np.tile(C, (4, 1)))
    paths = lambda st: [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(st)]
    assert jax.tree.structure(stepped) == jax.tree.structure(ran) and paths(stepped) == paths(ran)
    assert ".model.layers[1].cell.u" in paths(stepped)
    for one, other in zip(leaves(stepped), leaves(ran), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)
    assert stepped.steps == ran.steps == 4 and int(stepped.skipped) == 0
    scaled = eqx.tree_at(lambda st: st.trace.layers[2].bias, stepped, replace_fn=lambda leaf: 0 * leaf)
    assert not scaled.trace.layers[2].bias.any() and isinstance(scaled, TDState)
    again, _ = learner.step(scaled, X, C)
    assert again.steps == 5


def test_a_served_model_outlives_the_steps_after_it(learner):
    """Also leaves of more entries than are packed: `step` and `run` would consume them."""
    st = walked(learner)
    model = st.model
    serving, before = sg.inference(model), [np.array(leaf) for leaf in leaves(model)]
    st, _ = learner.step(st, X, C)
    after = st.model
    st, _ = learner.run(st, X[None], C[None])
    kept = st.model
    st, _ = learner.run(st, X[None], C[None])
    for leaf, want in zip(leaves(model), before, strict=True):
        np.testing.assert_array_equal(leaf, want)
    assert np.isfinite(serving(serving.init(key=KEY), jnp.asarray(X))[1]).all() and leaves(after) and leaves(kept)


def test_a_state_that_was_consumed_is_refused_by_name(learner):
    for first in (lambda st: learner.step(st, X, C), lambda st: learner.run(st, X[None], C[None])):
        st = walked(learner, 1)
        first(st)
        for again in (lambda: learner.step(st, X, C), lambda: learner.run(st, X[None], C[None])):  # noqa: B023
            with pytest.raises(RuntimeError, match="was consumed: an earlier step, run or grow"):
                again()
    with pytest.raises(AttributeError, match="no 'weights'"):
        _ = st.weights


def test_steps_within_a_jit_and_under_a_scan_are_those_of_python(learner):
    st = walked(learner, 2)
    arrays, rest = eqx.partition(learner.init(key=KEY), eqx.is_array)

    @jax.jit
    def twice(arrays):
        body = lambda arrays, _: (eqx.filter(learner.step(eqx.combine(arrays, rest), X, C)[0], eqx.is_array), None)
        return jax.lax.scan(body, arrays, None, length=2)[0]

    for one, other in zip(leaves(st), leaves(twice(arrays)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)
