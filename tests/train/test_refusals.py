"""What a learner refuses before anything is consumed, and what outlasts very long runs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import streamgrad as sg

KEY = jax.random.key(0)
X, Y = np.ones(1), np.ones(1)


def learner(outs=1, model=None, optimiser=None, loss=sg.losses.mse, **options):
    layers = [sg.Recurrent(sg.cells.GRU(1, 3, key=KEY), sg.SnAp(1)), sg.Readout(3, outs, key=KEY)]
    return sg.Learner(model or sg.nn.Sequential(layers), optimiser or optax.adam(0.01), loss=loss, **options)


def step(taught, x=X, target=Y, state=None):
    return taught.step(taught.init(key=KEY) if state is None else state, x, target)


def state_of(**options):
    return learner(**options).init(key=KEY, like=(X, Y))


def integers_first(**options):
    taught = learner(**options)
    state, _ = step(taught, np.array([1]), Y)
    return taught.step(state, np.array([0.5]), Y)


REFUSED = {
    "a loss that is no scalar": (lambda: step(learner(2, loss=lambda p, y: p - y), X, np.ones(2)), "scalar.*shape"),
    "another delay": (lambda: step(learner(), state=state_of(delay=2)), "another model, optimiser, delay"),
    "another optimiser": (lambda: step(learner(optimiser=optax.sgd(1.0)), state=state_of()), "optimiser"),
    "floats after integers, which a ring would truncate": (lambda: integers_first(delay=1), "one type"),
    "floats after integers, in a window": (
        lambda: integers_first(
            model=sg.nn.Sequential([sg.Recurrent(sg.cells.LRU(1, 3, key=KEY), sg.BPTT())]), update_every=2
        ),
        "one type",
    ),
    "least squares that no target reaches": (
        lambda: step(learner(model=sg.nn.Sequential([sg.RLS(1, 1), jnp.tanh]))),
        "does not reach it",
    ),
    "a cell without an algorithm": (lambda: sg.nn.Sequential([sg.cells.GRU(1, 3, key=KEY)]), "is a cell"),
    "half precision": (lambda: sg.cells.GRU(1, 3, key=KEY, dtype="float16"), "float32, float64 or bfloat16"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_a_sentence(name):
    call, says = REFUSED[name]
    with pytest.raises((TypeError, ValueError), match=says):
        call()


def test_lists_are_welcome():
    _, out = step(learner(), [0.5], [0.5])
    assert out.learned


def test_a_stream_outlasts_a_word_of_steps():
    taught = learner(delay=1)
    state = taught.init(key=KEY, like=(X, Y))
    late = jnp.array([2**32 - 3, 0], jnp.uint32)
    state = taught._state(taught.program, state.memory._replace(steps=late))
    state, out = taught.run(state, np.ones((8, 1)), np.ones((8, 1)))
    assert out.learned.all() and state.steps == 2**32 + 5


def test_a_gradient_whose_square_overflows_is_skipped():
    state, out = step(learner(), X, np.array([1e200]))
    assert not out.learned and state.skipped == 1


def test_the_worst_error_of_a_check_is_not_a_number_when_one_is_not():
    from streamgrad.inspect import GradientCheck

    assert np.isnan(GradientCheck(("a", "b"), (0.0, float("nan")), (1.0, 1.0)).worst)
