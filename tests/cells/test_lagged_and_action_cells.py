"""Cells with lagged feedback, and cells with weights for each action: textbook loops in NumPy, and what is refused."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import streamgrad as sg

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
cells = sg.cells


@eqx.filter_jit
def states(cell, xs):
    """What a cell shows, step after step."""

    def step(state, x):
        state = cell(state, x)
        return state, cell.output(state, x)

    return jax.lax.scan(step, cell.init_state(), jnp.asarray(xs))[1]


@pytest.mark.parametrize("wiring", [None, sg.wiring.Sparse(fan_in=2, seed=1)], ids=["dense", "sparse"])
def test_a_lagged_network_hears_itself_at_every_lag(wiring):
    cell = cells.LaggedRNN(2, 4, lags=(1, 3), wiring=wiring, key=KEY)
    xs, w, b = RNG.normal(size=(9, 2)), np.asarray(cell.weight_x[:, 0]), np.asarray(cell.bias[0])
    index = np.broadcast_to(cell.wiring.connect(4, 4, 1).index(), (cell.weight_h.shape[0], 1, 4))[:, 0]
    h = [np.zeros(4)] * 3
    for x in xs:
        drive = x @ w + b
        for slot, lag in enumerate((1, 3)):
            for unit in range(4):
                for k, source in enumerate(index[:, unit]):
                    drive[unit] += cell.weight_h[k, slot, unit] * h[-lag][source]
        h.append(np.tanh(drive))
    np.testing.assert_allclose(states(cell, xs), np.stack(h[3:]), rtol=1e-12)


def test_one_lag_is_the_elman_network():
    lagged, plain = cells.LaggedRNN(2, 4, lags=[1], key=KEY), cells.Vanilla(2, 4, key=KEY)
    parts = lambda cell: (cell.weight_x, cell.weight_h, cell.bias)

    plain = eqx.tree_at(parts, plain, parts(lagged))
    xs = RNG.normal(size=(6, 2))
    np.testing.assert_allclose(states(lagged, xs), states(plain, xs), rtol=1e-12)


def test_a_season_is_learned_through_its_lag():
    """A noise of period 12, forecast by a net that hears it again 11 steps later: Elman's cannot."""
    season = np.random.default_rng(1).normal(size=12)
    ys = jnp.asarray(np.tile(season, 60))[:, None]

    late = {}
    for lags in ((1, 11), (1,)):
        cell = cells.LaggedRNN(1, 4, lags=lags, key=KEY)
        model = sg.nn.Sequential([sg.Recurrent(cell, sg.SnAp(1)), sg.Readout(4, 1, key=KEY)])
        learner = sg.Learner(model, optax.adam(1e-2), loss=sg.losses.mse)
        out = learner.run(learner.init(key=KEY), ys[:-1], ys[1:])[1]
        late[lags] = float(out.loss[-48:].mean())
    assert late[1, 11] < late[(1,)] / 2


def test_an_action_chooses_its_cell():
    made = cells.ByAction(lambda key: cells.GRU(2, 4, key=key), 3, key=KEY)
    apart = [cells.GRU(2, 4, key=key) for key in jax.random.split(KEY, 3)]
    assert made.in_size == 5 and made.out_size == 4
    xs, actions = RNG.normal(size=(8, 2)), RNG.integers(3, size=8)
    step, state, shown = eqx.filter_jit(lambda cell, state, x: cell(state, x)), apart[0].init_state(), []
    for x, action in zip(jnp.asarray(xs), actions, strict=True):
        state = step(apart[action], state, x)
        shown.append(state[0])
    got = states(made, np.c_[xs, np.eye(3)[actions]])
    np.testing.assert_allclose(got, np.stack(shown), rtol=1e-12)
    assert np.ptp(got) > 0.1


@pytest.mark.parametrize("make", [lambda key: cells.RTU(2, 3, key=key), lambda key: cells.MinGRU(2, 3, key=key)])
def test_cells_of_units_apart_stay_exact_under_actions(make):
    cell = cells.ByAction(make, 2, key=KEY)
    assert cell.core().structure.closed(1)
    xs = jnp.asarray(np.c_[RNG.normal(size=(8, 2)), np.eye(2)[RNG.integers(2, size=8)]])
    assert sg.check_gradients(sg.Recurrent(cell, sg.SnAp(1)), xs, key=KEY).worst < 1e-10


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: cells.LaggedRNN(2, 3, lags=(), key=KEY), ValueError, r"different positive integers.*got \(\)"),
        (lambda: cells.LaggedRNN(2, 3, lags=(1, 1), key=KEY), ValueError, r"got \(1, 1\)"),
        (lambda: cells.LaggedRNN(2, 3, lags=(0, 2), key=KEY), ValueError, r"got \(0, 2\)"),
        (lambda: cells.ByAction(lambda key: cells.GRU(2, 3, key=key), 0, key=KEY), ValueError, "actions must be"),
        (lambda: cells.ByAction(lambda key: cells.LRU(2, 3, key=key), 2, key=KEY), TypeError, "weights of its own"),
        (lambda: cells.ByAction(lambda key: jnp.tanh, 2, key=KEY), TypeError, "must give a cell"),
    ],
)
def test_what_makes_no_cell_is_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()
