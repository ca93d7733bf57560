"""`sg.Mixture`: learners side by side, mixed as `Mixing` mixes their predictions, whatever becomes of one of them."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import streamgrad as sg
from streamgrad.train._mixing import Mixing

KEY, N = jax.random.key(0), 300
RNG = np.random.default_rng(0)
XS = RNG.standard_normal((N, 2))
YS = np.stack([np.convolve(XS[:, 0], [0.6, 0.3], "full")[:N], XS[:, 1]], axis=1) + 0.1 * RNG.standard_normal((N, 2))


class Out(NamedTuple):
    prediction: jax.Array


class Says:
    """A forecaster that says what a function of the step and of the input does."""

    def __init__(self, what):
        self.what = what

    def init(self, *, key, like=None):
        del key, like
        return jnp.zeros((), jnp.int32)

    def step(self, state, x, target):
        del target
        return state + 1, Out(jnp.broadcast_to(self.what(state, x), (2,)))

    def predict(self, state, x):
        return jnp.broadcast_to(self.what(state, x), (2,))


def _learners(delay):
    gru = sg.nn.Sequential([sg.Recurrent(sg.cells.GRU(2, 3, key=KEY), sg.SnAp(1)), sg.Readout(3, 2, key=KEY)])
    linear = sg.nn.Sequential([sg.Readout(2, 2, key=KEY)])
    return {
        "gru": sg.Learner(gru, optax.sgd(0.05), loss=sg.losses.mse, delay=delay),
        "linear": sg.Learner(linear, sg.Kalman(), loss=sg.losses.mse, delay=delay),
    }


def _mixed(said, ys, delay):
    """By `Mixing`, output for output, one step after another."""
    mixing = Mixing(horizon=float(max(delay, 1)))
    out = np.empty((N, 2))
    forecast, update = jax.jit(mixing.forecast), jax.jit(mixing.update)
    for k in range(2):
        state, made = mixing.init(said.shape[1]), []
        for t in range(N):
            if delay and t >= delay:
                state = update(state, made[t - delay], jnp.asarray(ys[t, k]))
            made.append(forecast(state, jnp.asarray(said[t, :, k])))
            out[t, k] = made[-1].forecast
            if not delay:
                state = update(state, made[-1], jnp.asarray(ys[t, k]))
    return out


# On time they are mixed in the tests below.
@pytest.mark.parametrize("delay", [pytest.param(0, marks=pytest.mark.full), 3])
def test_learners_are_mixed_as_if_each_were_alone(delay):
    ys = np.concatenate([np.full((delay, 2), np.nan), YS[: N - delay]])  # they come late
    ys[40, 0] = np.nan
    mixture = sg.Mixture(_learners(delay))
    state, outs = mixture.run(mixture.init(key=KEY), XS, ys)
    for k, learner in enumerate(_learners(delay).values()):
        _, alone = learner.run(learner.init(key=KEY), XS, ys)
        np.testing.assert_allclose(outs.experts[:, k], alone.prediction, atol=1e-12)
    np.testing.assert_allclose(outs.prediction, _mixed(np.asarray(outs.experts), ys, delay), atol=1e-10)
    due = np.concatenate([np.full((delay, 2), np.nan), outs.prediction[: N - delay]])
    np.testing.assert_allclose(outs.loss, (due - ys) ** 2, atol=1e-10)
    assert np.allclose(outs.weights.sum(axis=1), 1) and set(mixture.weights(state)) == {"gru", "linear"}
    assert isinstance(mixture.model(state)["gru"], sg.nn.Sequential) and mixture.warnings(state) == []
    before = mixture.predict(state, XS[0])
    np.testing.assert_array_equal(before, mixture.predict(state, XS[0]))


def test_one_step_at_a_time_is_a_run():
    mixture = sg.Mixture(_learners(0))
    _, outs = mixture.run(mixture.init(key=KEY), XS[:20], YS[:20])
    state = mixture.init(key=KEY, like=(XS[0], YS[0]))
    for t in range(20):
        state, out = mixture.step(state, XS[t], YS[t])
        np.testing.assert_array_equal(out.prediction, outs.prediction[t])


BAD = {
    "bad from half on": lambda t, x: jnp.where(t < N // 2, x, x + 100),
    "constant": lambda t, x: jnp.full(2, 5.0),
    "NaN at times": lambda t, x: jnp.where(t % 3 == 0, jnp.nan, x),
    "always NaN": lambda t, x: jnp.full(2, jnp.nan),
    "exact": lambda t, x: 2 * x,
}


@pytest.mark.parametrize("name", BAD)
def test_whatever_becomes_of_one_expert(name):
    good = lambda t, x: 2 * x + 0.1 * jnp.sin(7.0 * t.astype(float))
    mixture = sg.Mixture({"good": Says(good), "other": Says(BAD[name])})
    targets = 2 * XS
    _, outs = mixture.run(mixture.init(key=KEY), XS, targets)
    said = np.asarray(outs.prediction)
    assert np.isfinite(said).all()
    error = abs(said - targets)[-100:].mean()
    assert error < (0.01 if name == "exact" else 0.1)


def test_inside_a_loop_of_ones_own():
    mixture = sg.Mixture(_learners(0))
    _, outs = mixture.run(mixture.init(key=KEY), XS[:20], YS[:20])
    state = mixture.init(key=KEY, like=(XS[0], YS[0]))
    _, scanned = jax.jit(lambda s: jax.lax.scan(lambda s, now: mixture.step(s, *now), s, (XS[:20], YS[:20])))(state)
    np.testing.assert_allclose(scanned.prediction, outs.prediction, atol=1e-12)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="no forecaster to mix"):
        sg.Mixture([])
    with pytest.raises(TypeError, match="'0' is int, without init and step"):
        sg.Mixture([3])
    with pytest.raises(ValueError, match="equally late, 2 steps here, and others are linear: 0"):
        sg.Mixture({**_learners(2), "linear": _learners(0)["linear"]})
    mixture = sg.Mixture({"a": Says(lambda t, x: x), "b": _learners(0)["gru"]})
    with pytest.raises(ValueError, match="nothing was seen yet"):
        mixture.predict(mixture.init(key=KEY), XS[0])

    class Scalar(Says):
        def step(self, state, x, target):
            return state, Out(x[0])

    with pytest.raises(ValueError, match="predictions must have one shape, got"):
        sg.Mixture({"a": Says(lambda t, x: x), "b": Scalar(None)}).init(key=KEY, like=(XS[0], YS[0]))
