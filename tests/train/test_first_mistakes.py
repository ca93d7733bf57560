"""What people write on their first day, refused by name instead of by JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import streamgrad as sg
from streamgrad.train import check_key

KEY = jax.random.key(0)
MODEL = sg.nn.Sequential([sg.Recurrent(sg.cells.GRU(2, 3, key=KEY), sg.SnAp(1)), sg.Readout(3, 1, key=KEY)])
MSE = sg.losses.mse


def learner(**settings):
    return sg.Learner(MODEL, optax.sgd(0.1), **({"loss": MSE} | settings))


def started(**settings):
    made = learner(**settings)
    return made, made.init(key=KEY)


MISTAKES = {
    "a class for a model": (lambda: sg.Learner(sg.nn.Sequential, optax.sgd(0.1), loss=MSE), TypeError, "call it"),
    "a rule for a loss": (lambda: learner(loss=sg.train.Loss(MSE)), TypeError, r"sg\.train\.Program"),
    "a class for a loss": (lambda: learner(loss=sg.train.Loss), TypeError, r"expects loss\(prediction, target\)"),
    "an optimiser that is not called": (lambda: sg.Learner(MODEL, optax.adam, loss=MSE), TypeError, "call it"),
    "a filter that is not called": (lambda: sg.Learner(MODEL, sg.Kalman, loss=MSE), TypeError, "call it"),
    "a number for an optimiser": (lambda: sg.Learner(MODEL, 0.1, loss=MSE), TypeError, "expects an Optax optimiser"),
    "truth for a number of streams": (lambda: learner(streams=True), ValueError, "streams must be"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named(name):
    call, kind, said = MISTAKES[name]
    with pytest.raises(kind, match=said):
        call()


@pytest.mark.parametrize("key", [0, None, np.zeros(2), "key"])
def test_a_key_that_is_none_is_refused(key):
    with pytest.raises(TypeError, match=r"such as key=jax\.random\.key\(0\), got"):
        check_key(key)
    assert check_key(KEY) is KEY and check_key(jax.random.PRNGKey(0)).shape == (2,)


def test_a_reset_that_is_no_truth_value_is_refused():
    made, st = started()
    with pytest.raises(TypeError, match="reset says whether x begins a new episode"):
        made.step(st, np.ones(2), np.ones(1), reset=0.5)
    with pytest.raises(TypeError, match="got float"):
        made.run(st, np.ones((3, 2)), np.ones((3, 1)), resets=np.zeros(3))
    with pytest.raises(ValueError, match="reset of a step must have shape"):
        made.step(st, np.ones(2), np.ones(1), reset=np.zeros(2, bool))
    st, _ = made.step(st, np.ones(2), np.ones(1), reset=True)
    assert st.steps == 1


def test_a_reset_of_td_that_is_no_truth_value_is_refused():
    made = sg.td.TDLambda(MODEL, optax.sgd(0.1), gamma=0.9)
    with pytest.raises(TypeError, match="reset says whether x begins a new episode"):
        made.step(made.init(key=KEY), np.ones(2), np.ones(1), reset=jnp.asarray(0.5))


def test_a_state_within_another_window_is_refused():
    four, st = started(update_every=4)
    with pytest.raises(ValueError, match="update_every"):
        learner(update_every=8).step(st, np.ones(2), np.ones(1))
    four.step(st, np.ones(2), np.ones(1))


def test_an_update_of_ones_own_stands_where_an_optimiser_may():
    class Signs(sg.train.Update):
        """θ ← θ - .1 sign(∂L/∂θ)."""

        def init(self, trained, lead):
            return ()

        def __call__(self, state, trained, evidence, guard):
            gradient = evidence.gradient()
            step = lambda p, g: p - 0.1 * jnp.sign(g).astype(p.dtype)
            return state, jax.tree.map(step, trained, gradient), jnp.array(True)

    made = sg.Learner(MODEL, Signs(), loss=MSE)
    st = made.init(key=KEY)
    before = np.asarray(made.model(st).layers[1].bias)
    st, _ = made.step(st, np.ones(2), 5 * np.ones(1))
    np.testing.assert_allclose(made.model(st).layers[1].bias, before + 0.1)
