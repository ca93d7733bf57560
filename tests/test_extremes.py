"""One bad number does not last: every part with a state gets one, in float32, and must recover or say why not."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import streamgrad as sg
from streamgrad.train import LearnerState

KEY = jax.random.key(0)
IN, UNITS = 3, 4
VALUES = [sign * size for size in (1e15, 1e30, 3e38, np.inf) for sign in (1, -1)] + [np.nan]
PLACES = [1, 10, 1000]
WITHIN, WINDOW = 500, 100
STEPS = max(PLACES) + WITHIN + WINDOW

RNG = np.random.default_rng(0)
XS = RNG.standard_normal((STEPS, IN)).astype(np.float32)
BEFORE = np.concatenate([np.zeros((1, IN), np.float32), XS[:-1]])
YS = (XS @ [1.0, -0.5, 0.2] + BEFORE @ [0.3, 0.0, 0.3] + 0.3 * RNG.standard_normal(STEPS)).astype(np.float32)[:, None]

Sequential, Readout = sg.nn.Sequential, sg.Readout


def _readout(size: int) -> Readout:
    return Readout(size, 1, key=KEY)


def _recurrent(rule: Any, cell: Callable = sg.cells.LeakyRNN) -> Sequential:
    layer = sg.Recurrent(cell(IN, UNITS, key=KEY), rule)
    return Sequential([layer, _readout(UNITS)])


ADAM = optax.adam(1e-2)
PARTS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "Normalise": lambda: (Sequential([sg.nn.Normalise(IN), _readout(IN)]), ADAM),
    "RLS": lambda: (Sequential([sg.RLS(IN, 1)]), ADAM),
    "RunningMean": lambda: (Sequential([sg.nn.RunningMean(IN), _readout(IN)]), ADAM),
    "LowPass": lambda: (Sequential([sg.nn.LowPass(IN, 0.9), _readout(IN)]), ADAM),
    "Lags": lambda: (Sequential([sg.nn.Lags(IN, 2), _readout(2 * IN)]), ADAM),
    "rmsprop": lambda: (Sequential([_readout(IN)]), optax.rmsprop(1e-2)),
    "sg rmsprop": lambda: (Sequential([_readout(IN)]), sg.optimisers.rmsprop(1e-2)),
    "sg adamw": lambda: (_recurrent(sg.SnAp(1), sg.cells.GRU), sg.optimisers.adamw(1e-2)),
    "momentum": lambda: (Sequential([_readout(IN)]), optax.sgd(1e-3, momentum=0.9)),
    "clipped": lambda: (Sequential([_readout(IN)]), optax.chain(optax.clip_by_global_norm(1.0), ADAM)),
    "LSTM": lambda: (_recurrent(sg.SnAp(1), sg.cells.LSTM), ADAM),
    "LRU": lambda: (
        Sequential([sg.Recurrent(sg.cells.LRU(IN, UNITS, out_size=2, key=KEY), sg.SnAp(1)), _readout(2)]),
        ADAM,
    ),
    "IndRNN": lambda: (_recurrent(sg.SnAp(1), sg.cells.IndRNN), ADAM),
    "RTRL": lambda: (_recurrent(sg.RTRL()), ADAM),
    "KeRNL": lambda: (_recurrent(sg.KeRNL()), ADAM),
    "DNI": lambda: (_recurrent(sg.DNI()), ADAM),
    "UORO": lambda: (_recurrent(sg.UORO()), ADAM),
    "KFRTRL": lambda: (_recurrent(sg.KFRTRL()), ADAM),
    "OK": lambda: (_recurrent(sg.OK(2)), ADAM),
    "DODGE": lambda: (_recurrent(sg.DODGE(horizon=32)), ADAM),
    "RFLO": lambda: (_recurrent(sg.RFLO()), ADAM),
    "EProp": lambda: (_recurrent(sg.EProp()), ADAM),
    "TBPTT": lambda: (_recurrent(sg.TBPTT(4)), ADAM),
}


#: The extreme cases, of the input and of the target; the first has nothing extreme.
CASES = [(XS[0, 0], 0, False), *itertools.product(map(np.float32, VALUES), PLACES, (False, True))]
CHUNK = 10


def _streams(value, at, of_target):
    """The stream with one number in it exchanged, for compiled programs."""
    xs, ys = jnp.asarray(XS), jnp.asarray(YS)
    xs = xs.at[at, 0].set(jnp.where(of_target, xs[at, 0], value))
    return xs, ys.at[at, 0].set(jnp.where(of_target, value, ys[at, 0]))


def _swept(learner, error):
    """The errors in every case, and the states `WITHIN` steps after: by one program."""

    @jax.jit
    @jax.vmap
    def run(value, at, of_target):
        def chunk(carry, part):
            st, asked = carry
            k, xs, ys = part
            st, out = learner.run(st, xs, ys)
            keep = k == (at + WITHIN) // CHUNK - 1
            asked = jax.tree.map(lambda new, old: jnp.where(keep, new, old), st, asked)
            return (st, asked), error(out)

        st = learner.init(key=KEY)
        parts = jax.tree.map(lambda a: a.reshape(-1, CHUNK, *a.shape[1:]), _streams(value, at, of_target))
        (_, asked), errors = jax.lax.scan(chunk, (st, st), (jnp.arange(STEPS // CHUNK), *parts))
        return errors.ravel(), eqx.filter(asked, eqx.is_array)

    return run(*(np.array(each) for each in zip(*CASES, strict=True)))


def _lasting(errors, warnings) -> list[str]:
    """Cases whose error is not back, and of which nothing warns."""
    found = []
    for i, (value, at, of_target) in enumerate(CASES[1:], 1):
        after = slice(at + WITHIN, at + WITHIN + WINDOW)
        mine, usual = np.mean(errors[i, after]), np.mean(errors[0, after])
        if not mine <= 2 * usual and not warnings(i):
            found.append(f"{value:g} at {at} of {['x', 'y'][of_target]}: {mine:.3g}, usually {usual:.3g}")
    return found


# One of each kind of state in every run of the tests, the others in the full one.
QUICK = {"Normalise", "RLS", "LowPass", "sg rmsprop", "LSTM"}
EACH = [part if part in QUICK else pytest.param(part, marks=pytest.mark.full) for part in PARTS]


@pytest.mark.parametrize("part", EACH)
def test_one_extreme_number_does_not_last(part):
    with jax.enable_x64(False):
        model, optimiser = PARTS[part]()
        learner = sg.Learner(model, optimiser, loss=sg.losses.mse)
        errors, states = _swept(learner, lambda out: out.loss)
        case = lambda i: LearnerState(tuple(array[i] for array in states.arrays), states.packing)
        assert _lasting(errors, lambda i: learner.warnings(case(i))) == []


def test_one_extreme_number_does_not_last_in_td():
    with jax.enable_x64(False):
        layer = sg.Recurrent(sg.cells.LeakyRNN(IN, UNITS, key=KEY), sg.SnAp(1))
        model = Sequential([sg.nn.Normalise(IN), layer, sg.nn.Normalise(UNITS, prior=100.0), _readout(UNITS)])
        learner = sg.td.TDLambda(model, optax.adam(1e-2), gamma=0.9, lam=0.9)
        errors, states = _swept(learner, lambda out: jnp.nan_to_num(out.error[:, 0]) ** 2)
        static = eqx.filter(learner.init(key=KEY), eqx.is_array, inverse=True)
        case = lambda i: eqx.combine(jax.tree.map(lambda array: array[i], states), static)
        assert _lasting(errors, lambda i: learner.warnings(case(i))) == []


# Normalise, by its statistics.


@pytest.mark.parametrize("value", [1e15, -1e30, 3e38])
def test_normalise_forgets_a_wild_value(value):
    """It was dead for 19,500 steps after 1e15, and for ever after 1e30."""
    layer = sg.nn.Normalise(1, clip=np.inf, dtype=jnp.float32)
    xs = np.random.default_rng(1).normal(3, 2, 1600).astype(np.float32)[:, None]
    step = jax.jit(lambda carry, xs: jax.lax.scan(layer, carry, xs))
    for at in PLACES:
        wild = xs.copy()
        wild[at] = value
        moments, ys = step(layer.init(key=KEY), jnp.asarray(wild))
        assert np.isfinite(ys).all() and abs(np.asarray(ys)).max() < 1.01 * np.sqrt(len(xs))
        after = slice(at + 100, at + 600)
        np.testing.assert_allclose(np.std(np.asarray(ys)[after]), 1, rtol=0.6)
        assert 0.5 < moments.variance[0] / 4 < 4
        if at >= 100:  # after many values one more counts for four times their variance at most: 1 / √5 is left
            assert np.std(np.asarray(ys)[at + 1 : at + 11]) > 0.25


def test_normalise_mends_statistics_that_are_not_finite():
    """As an older version could leave behind in a checkpoint."""
    layer = sg.nn.Normalise(1)
    moments = layer.init(key=KEY)
    moments = eqx.tree_at(lambda m: (m.count, m.variance), moments, (jnp.array([9], jnp.int32), jnp.array([np.inf])))
    for x in np.random.default_rng(1).normal(3, 2, 30):
        moments, _ = layer(moments, jnp.array([x]))
    assert moments.count[0] == 30 and np.isfinite(moments.variance).all()


@pytest.mark.parametrize("p", [0.5, 0.02, 0.002])
def test_a_rare_signal_is_no_outlier(p):
    """Zeros with now and then a 1, in any rarity, and a sudden change of level: exact mean and variance."""
    rare = (np.random.default_rng(2).random((3000, 1)) < p) * 1.0
    step = np.where(np.arange(3000) < 1500, 0.0, 50.0)[:, None] + np.random.default_rng(3).standard_normal((3000, 1))
    for xs in (rare, step):
        moments, _ = jax.jit(lambda carry, xs: jax.lax.scan(sg.nn.Normalise(1), carry, xs))(
            sg.nn.Normalise(1).init(key=KEY), jnp.asarray(xs)
        )
        np.testing.assert_allclose(moments.mean, xs.mean(0), rtol=1e-9)
        np.testing.assert_allclose(moments.variance, xs.var(0), rtol=1e-9)


def test_a_restarted_carry_is_counted():
    """A state so large that its square is not finite is begun anew, and said."""
    model = Sequential([sg.nn.RunningMean(1), _readout(1)])
    learner = sg.Learner(model, optax.sgd(0.0), loss=sg.losses.mse)
    st = learner.init(key=KEY)
    for x in (1.0, 1e200, 1.0, 2.0):
        st, out = learner.step(st, np.array([x]), np.array([0.0]))
    assert np.isfinite(out.loss) and int(st.memory.restarts) == 1
    assert any("begun anew 1 times" in warning for warning in learner.warnings(st))
