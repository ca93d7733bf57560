"""The driver as pure functions: no shell, any rule, any update, any guard."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import streamgrad as sg
from streamgrad.train import Descent, Filter, Finding, Loss, Program, Rule, Skip, TemporalDifference, Traces, Undo

KEY = jax.random.key(0)
IN, UNITS, STEPS = 2, 3, 12
LAYER = sg.Recurrent(sg.cells.GRU(IN, UNITS, key=KEY), sg.SnAp(1))
MODEL = sg.nn.Sequential([LAYER, sg.Readout(UNITS, 1, key=KEY)])
ARRAYS = eqx.filter(MODEL, eqx.is_array)
NONE = jax.tree.map(lambda leaf: False, ARRAYS)


def stream(steps=STEPS, seed=0, outputs=1):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(steps, IN))), jnp.asarray(rng.normal(size=(steps, outputs)))


def opened(program, key=KEY):
    """A memory before the first step, with the keys that a `Learner` would give it."""
    memory = program.init(ARRAYS, *jax.random.split(key))
    (x, *_), (target, *_) = stream()
    return memory if program.is_open(memory) else program.opened(memory, x, target, jnp.zeros(1))


def weights(arrays):
    return jax.tree.leaves(eqx.filter(arrays, eqx.is_inexact_array))


def assert_close(got, want, tolerance=1e-12):
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance)


def test_seeds_and_rates_are_mapped_over_without_a_shell():
    """8 seeds x 4 rates in one compiled program, each as a learner of its own."""
    (xs, targets), rates = stream(), jnp.array([0.0, 0.01, 0.03, 0.1])

    def one(key, rate):
        program = Program(MODEL, Loss(sg.losses.mse, None), Descent(optax.sgd(rate), NONE), Skip())
        memory, told = program.run(program.init(ARRAYS, *jax.random.split(key)), xs, targets, None)
        return memory.model, told

    keys = jax.random.split(KEY, 8)
    over = jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))
    models, told = over(keys, rates)
    assert told.y.shape == (8, 4, STEPS, 1)
    learner = sg.Learner(MODEL, optax.sgd(0.03), loss=sg.losses.mse)
    st, out = learner.run(learner.init(key=keys[5]), xs, targets)
    assert_close([leaf[5, 2] for leaf in weights(models)], weights(learner.model(st)))
    assert_close(told.y[5, 2], out.prediction)


def test_a_filter_may_be_mapped_over_its_numbers():
    xs, targets = stream()

    def one(forgetting):
        kalman = sg.Kalman(forgetting=forgetting)
        rule = Loss(sg.losses.mse, None, sg.train.family(sg.losses.mse))
        program = Program(MODEL, rule, Filter(kalman, MODEL), Skip())
        return program.run(opened(program), xs, targets, None)[1].y

    together = jax.jit(jax.vmap(one))(jnp.array([0.99, 1.0]))
    for made, forgetting in zip(together, (0.99, 1.0), strict=True):
        learner = sg.Learner(MODEL, sg.Kalman(forgetting=forgetting), loss=sg.losses.mse)
        assert_close(made, learner.run(learner.init(key=KEY), xs, targets)[1].prediction, 1e-9)


def test_temporal_differences_with_traces_are_td_lambda():
    xs, cumulants = stream()
    own = jax.tree.map(lambda leaf: True, eqx.filter(ARRAYS, sg.train.trained(MODEL)))
    program = Program(MODEL, TemporalDifference(0.9, 0.7, 1), Traces(optax.sgd(0.1), 1, own), Undo())
    run = jax.jit(lambda memory: program.run(memory, xs, (cumulants, None, None), None))
    memory, told = run(program.init(ARRAYS, *jax.random.split(KEY)))
    learner = sg.td.TDLambda(MODEL, optax.sgd(0.1), gamma=0.9, lam=0.7)
    st, out = learner.run(learner.init(key=KEY), xs, cumulants)
    assert_close(weights(memory.model), weights(st.model))
    assert_close((told.y, told.wrong), (out.prediction, out.error))


# What a user writes: a rule, an update and a guard of his own.


class Quantile(Rule):
    """The pinball loss of one quantile."""

    def __init__(self, q):
        self.q = q

    def init(self, lead, dtype):
        return ()

    def __call__(self, memory, y, signal, reset):
        given = jnp.isfinite(signal)
        error = jnp.where(given, signal - y, 0)
        loss = jnp.maximum(self.q * error, (self.q - 1) * error).sum()
        slope = jnp.where(given, jnp.where(error > 0, -self.q, 1 - self.q), 0)
        return memory, Finding(there=given.any(), loss=loss, slope=slope)

    def wrong(self, finding):
        return finding.loss


class SignDescent(sg.train.Update):
    """Every parameter goes by the same step against the sign of its gradient."""

    def __init__(self, step):
        self.step = step

    def init(self, trained, lead):
        return ()

    def __call__(self, state, trained, evidence, guard):
        gradient = evidence.gradient()
        sound = guard.sound(evidence.loss, evidence.given, gradient)
        choose = guard.choose(evidence.given & sound)
        moved = jax.tree.map(lambda w, g: choose(w - self.step * jnp.sign(g), w), trained, gradient)
        return state, moved, sound


@dataclasses.dataclass(frozen=True)
class Patient(Skip):
    """Leaves a step out when its loss exceeds a bound, and keeps the carry."""

    bound: float = 4.0

    def sound(self, loss, given, gradient):
        return super().sound(loss, given, gradient) & (loss < self.bound)


def test_a_rule_an_update_and_a_guard_of_ones_own():
    xs, targets = stream(40)
    targets = targets.at[7].set(100.0).at[9].set(np.nan)
    program = Program(MODEL, Quantile(0.9), SignDescent(0.01), Patient())
    memory, told = jax.jit(lambda memory: program.run(memory, xs, targets, None))(opened(program))
    assert np.flatnonzero(~np.asarray(told.learned)).tolist() == [7, 9]
    assert int(memory.skipped) == 1
    before, after = weights(ARRAYS), weights(memory.model)
    moves = np.concatenate([np.ravel(b - a) for a, b in zip(before, after, strict=True)]) / 0.01
    assert_close(moves, np.round(moves), 1e-9)
    assert np.abs(moves).max() > 2


# A filter in the learner.


def h_of(model, carry, x):
    """∂y/∂θ through the past, and what the step gives: one row an output."""
    trained, rest = eqx.partition(model, eqx.is_inexact_array)

    def predict(trained):
        new, y = eqx.combine(trained, rest)(carry, x)
        return y, new

    y, pull, new = jax.vjp(predict, trained, has_aux=True)
    return y, new, jax.vmap(lambda unit: pull(unit)[0])(jnp.eye(len(y)))


def flat(tree):
    return np.concatenate([np.asarray(leaf).reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(tree)], axis=1)


def plain(prior=0.1, **numbers):
    """A filter without forgetting, clipping or adaptive noise."""
    settings = dict(prior=prior, forgetting=1.0, clip=np.inf, cap=1e9, noise=0.5, noise_decay=1.0)
    return sg.Kalman(**{**settings, **numbers})


def by_numpy(model, xs, targets, delay=0, prior=0.1, noise=0.5):
    """An extended Kalman filter in NumPy on the trained leaves, over the online sensitivities."""
    leaves, treedef = jax.tree.flatten(eqx.filter(model, eqx.is_inexact_array))
    rest = eqx.filter(model, eqx.is_inexact_array, inverse=True)
    theta = np.concatenate([np.ravel(leaf) for leaf in leaves])
    P = np.eye(len(theta)) * prior

    def rebuilt(theta):
        ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
        parts = [jnp.asarray(p.reshape(leaf.shape)) for p, leaf in zip(np.split(theta, ends), leaves, strict=True)]
        return eqx.combine(jax.tree.unflatten(treedef, parts), rest)

    carry, step = model.init(key=KEY), eqx.filter_jit(h_of)
    for t in range(delay, len(xs)):
        y, carry, rows = step(rebuilt(theta), carry, xs[t - delay])
        there = np.isfinite(targets[t])
        H, error = flat(rows)[there], np.asarray(targets[t] - y)[there]
        if there.any():
            K = P @ H.T @ np.linalg.inv(H @ P @ H.T + noise * np.eye(len(H)))
            theta, P = theta + K @ error, P - K @ H @ P
    return theta


TWO = sg.nn.Sequential([LAYER, sg.Readout(UNITS, 2, key=KEY)])


@pytest.mark.parametrize("delay", [0, 2])
def test_a_learner_with_a_filter_is_the_filter_of_numpy(delay):
    """Two outputs, one of them missing at times, targets that come late."""
    xs, targets = stream(outputs=2)
    targets = targets.at[3, 0].set(np.nan).at[5].set(np.nan)
    learner = sg.Learner(TWO, plain(), loss=sg.losses.mse, delay=delay)
    st, out = learner.run(learner.init(key=KEY), xs, targets)
    want = by_numpy(TWO, xs, np.asarray(targets), delay)
    got = np.concatenate([np.ravel(leaf) for leaf in weights(learner.model(st))])
    assert_close(got, want, 1e-10)
    assert out.learned.tolist() == [t >= delay and t != 5 for t in range(STEPS)] and st.skipped == 0


def test_a_filter_within_a_window_is_that_of_frozen_weights():
    """update_every=3: the weights in use stay, the filter goes on, and at the end it is one update of all rows."""
    xs, targets = stream(3)
    learner = sg.Learner(MODEL, plain(), loss=sg.losses.mse, update_every=3)
    st, _ = learner.run(learner.init(key=KEY), xs, targets)
    carry, rows, errors = MODEL.init(key=KEY), [], []
    for x, target in zip(xs, targets, strict=True):
        y, carry, h = h_of(MODEL, carry, x)
        rows.append(flat(h)), errors.append(target - y)
    H, e = np.concatenate(rows), np.concatenate(errors)
    move = 0.1 * H.T @ np.linalg.solve(0.1 * H @ H.T + 0.5 * np.eye(3), e)
    before, after = (np.concatenate([np.ravel(leaf) for leaf in weights(m)]) for m in (MODEL, learner.model(st)))
    assert_close(after - before, move, 1e-10)


def test_streams_share_one_filter():
    """Two streams with the same inputs: two rows with the same sensitivities."""
    xs, targets = stream()
    both = lambda a: jnp.stack([a, a], 1)
    learner = sg.Learner(MODEL, plain(), loss=sg.losses.mse, streams=2)
    st, _ = learner.run(learner.init(key=KEY), both(xs), both(targets))
    single = sg.Learner(MODEL, plain(noise=0.25), loss=sg.losses.mse)
    want, _ = single.run(single.init(key=KEY), xs, targets)
    assert_close(weights(learner.model(st)), weights(single.model(want)), 1e-9)


def test_a_filter_takes_labels_through_their_fisher_matrix():
    """Logistic regression: the online natural gradient, by NumPy."""
    model = sg.nn.Sequential([sg.Readout(IN, 3, key=KEY)])
    xs, _ = stream()
    labels = np.random.default_rng(1).integers(0, 3, STEPS)
    labels[4] = -1
    learner = sg.Learner(model, plain(), loss=sg.losses.cross_entropy)
    st, out = learner.run(learner.init(key=KEY), xs, labels)
    readout = model.layers[0]
    theta, P = np.concatenate([np.ravel(readout.weight), readout.bias]), np.eye(9) * 0.1
    for x, label in zip(np.asarray(xs), labels, strict=True):
        H = np.concatenate([np.kron(np.eye(3), x), np.eye(3)], axis=1)
        p = np.exp(H @ theta) / np.exp(H @ theta).sum()
        if label >= 0:
            F = np.diag(p) - np.outer(p, p)
            gain = P @ H.T @ np.linalg.inv(np.eye(3) + F @ H @ P @ H.T)
            theta, P = theta + gain @ (np.eye(3)[label] - p), P - gain @ F @ H @ P
    got = np.concatenate([np.ravel(learner.model(st).layers[0].weight), learner.model(st).layers[0].bias])
    assert_close(got, theta, 1e-9)
    assert not out.learned[4] and out.learned.sum() == STEPS - 1


def test_a_bad_step_leaves_a_filter_as_it_was():
    xs, targets = stream()
    learner = sg.Learner(MODEL, sg.Kalman(), loss=sg.losses.mse)
    st, _ = learner.run(learner.init(key=KEY), xs, targets)
    before = [np.array(leaf) for leaf in jax.tree.leaves((st.memory.model, st.memory.update))]
    st, out = learner.step(st, xs[0] * np.nan, targets[0])
    assert not out.learned and st.skipped == 1
    for got, want in zip(jax.tree.leaves((st.memory.model, st.memory.update)), before, strict=True):
        np.testing.assert_array_equal(got, want)
    st, out = learner.run(st, xs, targets)
    assert np.isfinite(out.prediction).all() and out.learned.all()


def test_what_a_filter_cannot_learn_from_is_refused():
    with pytest.raises(TypeError, match=r"errors whose distribution it knows: use one of sg.losses.mse"):
        sg.Learner(MODEL, sg.Kalman(), loss=sg.losses.mae)
    bptt = sg.nn.Sequential([sg.Recurrent(LAYER.cell, sg.BPTT()), sg.Readout(UNITS, 1, key=KEY)])
    with pytest.raises(TypeError, match=r"sensitivities of each step.* not BPTT"):
        sg.Learner(bptt, sg.Kalman(), loss=sg.losses.mse, update_every=4)
    aligned = sg.nn.Sequential([LAYER, sg.Readout(UNITS, 1, key=KEY, feedback="random")])
    with pytest.raises(TypeError, match=r"feedback='random'\) sends down feedback"):
        sg.Learner(aligned, sg.Kalman(), loss=sg.losses.mse)
    dni = sg.nn.Sequential([sg.Recurrent(LAYER.cell, sg.DNI()), sg.Readout(UNITS, 1, key=KEY)])
    with pytest.raises(TypeError, match="learned by DNI itself"):
        sg.Learner(dni, sg.Kalman(), loss=sg.losses.mse).init(key=KEY, like=(np.zeros(IN), np.zeros(1)))


# A filter on temporal differences.


@pytest.mark.parametrize("streams", [None, 2])
def test_kalman_temporal_differences_are_those_of_numpy(streams):
    """A linear prediction: rewards c_t = φ_{t-1}·w - γ φ_t·w, a reset within, a missing cumulant."""
    rng, lead = np.random.default_rng(3), () if streams is None else (streams,)
    xs, cumulants = rng.normal(size=(STEPS, *lead, IN)), rng.normal(size=(STEPS, *lead, 1))
    resets = np.zeros((STEPS, *lead), bool)
    resets[5] = True
    cumulants[8] = np.nan
    model = sg.nn.Sequential([sg.Readout(IN, 1, key=KEY)])
    learner = sg.td.TDLambda(model, plain(), gamma=0.8, streams=streams)
    st, out = learner.run(learner.init(key=KEY), xs, cumulants, resets=resets)
    readout = model.layers[0]
    theta, P = np.concatenate([np.ravel(readout.weight), readout.bias]), 0.1 * np.eye(IN + 1)
    phi = np.concatenate([xs, np.ones((*xs.shape[:-1], 1))], axis=-1).reshape(STEPS, -1, IN + 1)
    rewards = cumulants.reshape(STEPS, -1)
    before = None
    for t in range(STEPS):
        gamma, y = 0.0 if resets[t].any() else 0.8, phi[t] @ theta
        if before is not None and np.isfinite(rewards[t]).all():
            H = before[0] - gamma * phi[t]
            error = rewards[t] + gamma * y - before[1]
            np.testing.assert_allclose(np.ravel(out.error[t]), error, rtol=1e-9)
            K = P @ H.T @ np.linalg.inv(H @ P @ H.T + 0.5 * np.eye(len(H)))
            theta, P = theta + K @ error, P - K @ H @ P
        before = phi[t], y
    got = np.concatenate([np.ravel(st.model.layers[0].weight), st.model.layers[0].bias])
    assert_close(got, theta, 1e-9)
    assert st.skipped == 0 and learner.warnings(st) == []


def test_a_filter_on_temporal_differences_goes_step_by_step_and_refuses_traces():
    xs, cumulants = stream()
    learner = sg.td.TDLambda(MODEL, sg.Kalman(), gamma=0.9)
    st, _ = learner.run(learner.init(key=KEY), xs, cumulants)
    other = learner.init(key=KEY)
    for x, cumulant in zip(xs, cumulants, strict=True):
        other, _ = learner.step(other, x, cumulant)
    assert_close(weights(other.model), weights(st.model), 1e-9)
    with pytest.raises(ValueError, match=r"takes lam=0, got 0.5"):
        sg.td.TDLambda(MODEL, sg.Kalman(), gamma=0.9, lam=0.5)
    with pytest.raises(ValueError, match="no λ for a step"):
        learner.step(other, xs[0], cumulants[0], lam=0.5)


def test_an_update_that_collects_other_steps_than_its_program_is_refused():
    with pytest.raises(ValueError, match=r"Descent\(every=1\) within Program\(every=4\).*every=4"):
        Program(MODEL, Loss(sg.losses.mse, None), Descent(optax.sgd(0.1), NONE), Skip(), every=4)
