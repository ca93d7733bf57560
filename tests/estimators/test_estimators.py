"""Estimators: the mean of what they say against derivatives through time."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from jax.flatten_util import ravel_pytree

import streamgrad as sg
from streamgrad.estimators import _pes

STEPS, WINDOW = 6, 3
XS = jnp.sin(jnp.arange(STEPS + 1.0))[:, None]


def model(algorithm=None, **options):
    cell = oracles.randomised(sg.cells.Vanilla(1, 2, key=jax.random.key(0)), 0)
    return sg.nn.Sequential(
        [sg.Recurrent(cell, algorithm or sg.BPTT()), sg.Readout(2, 1, key=jax.random.key(1), **options)]
    )


def objective(net, carry, x, target):
    carry, y = net(carry, x)
    return jnp.sum((y - target) ** 2), (carry, y)


def estimates(estimator, draws, window=WINDOW):
    """(draws, steps, parameters), driven one step at a time with constant weights."""
    net = model()
    trained, fixed = eqx.partition(net, eqx.is_inexact_array)
    start = net.init(key=jax.random.key(0))

    def one(key):
        def body(kept, now):
            kept, carry = kept
            x, target, t = now
            of = lambda trained, carry: objective(eqx.combine(trained, fixed), carry, x, target)
            begins = t % window == 0
            (_, aux), gradient, kept = estimator.estimate(
                of, trained, carry, kept, reset=t == 0, begins=begins, restart=lambda carry: carry
            )
            return (kept, aux[0]), ravel_pytree(gradient)[0]

        kept = estimator.init(trained, start, key=key)
        return jax.lax.scan(body, (kept, start), (XS[:-1], XS[1:], jnp.arange(STEPS)))[1]

    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), draws)))


def losses(trained, noises=None):
    """Of every step, each window at its own weights."""
    net = model()
    fixed = eqx.partition(net, eqx.is_inexact_array)[1]
    carry, found = net.init(key=jax.random.key(0)), []
    for t in range(STEPS):
        here = trained if noises is None else jax.tree.map(lambda p, e, t=t: p + e[t // WINDOW], trained, noises)
        loss, (carry, _) = objective(eqx.combine(here, fixed), carry, XS[t], XS[t + 1])
        found.append(loss)
    return jnp.stack(found)


def smoothed(noise, draws):
    """The gradient of the smoothed loss by another way: the mean of derivatives at noisy weights."""
    trained = eqx.filter(model(), eqx.is_inexact_array)

    def one(key):
        flat, unravel = ravel_pytree(trained)
        drawn = jax.vmap(unravel)(noise * jax.random.normal(key, (STEPS // WINDOW, *flat.shape)))
        return jax.vmap(lambda g: ravel_pytree(g)[0])(jax.jacrev(losses)(trained, drawn))

    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(7), draws)))


def two_sample(a, b):
    return (a.mean(0) - b.mean(0)) / (np.sqrt(a.var(0) / len(a) + b.var(0) / len(b)) + 1e-12)


def test_pes_estimates_the_gradient_of_the_smoothed_loss():
    noise, draws = 0.3, 20_000
    want = smoothed(noise, draws)
    found = two_sample(estimates(sg.PES(pairs=1, noise=noise), draws), want)
    assert np.abs(found).max() < oracles.bound(found)
    # Smoothing matters at this noise, and the test is sharp enough to see it.
    exact = jax.vmap(lambda g: ravel_pytree(g)[0])(jax.jacrev(losses)(eqx.filter(model(), eqx.is_inexact_array)))
    z = (want.mean(0) - np.asarray(exact)) / (want.std(0) / np.sqrt(draws) + 1e-12)
    assert np.abs(z).max() > 2 * oracles.bound(z)


def test_forgetting_earlier_noise_is_noticed():
    """Plain evolution strategies in windows: without the sum of noise over windows the past gets no credit."""

    class Plain(sg.PES):
        def estimate(self, *arguments, **options):
            value, gradient, kept = super().estimate(*arguments, **options)
            return value, gradient, kept._replace(total=jax.tree.map(jnp.zeros_like, kept.total))

    noise, draws = 0.3, 20_000
    assert _pes.Particles._fields[1] == "total"
    found = two_sample(estimates(Plain(pairs=1, noise=noise), draws), smoothed(noise, draws))
    assert np.abs(found).max() > 2 * oracles.bound(found)


@pytest.mark.parametrize("horizon", [None, WINDOW])
def test_forward_gradients_have_the_gradient_as_mean(horizon):
    """Through all of time, or since the present direction began."""
    drawn = estimates(sg.ForwardGradient(horizon=horizon), 20_000)
    trained = eqx.filter(model(), eqx.is_inexact_array)
    if horizon is None:
        exact = jax.jacrev(losses)(trained)
    else:
        zeros = jax.tree.map(lambda leaf: jnp.zeros((STEPS // WINDOW, *leaf.shape)), trained)
        by_window = jax.jacrev(losses, argnums=1)(trained, zeros)
        exact = jax.tree.map(lambda leaf: jnp.stack([leaf[t, t // WINDOW] for t in range(STEPS)]), by_window)
    exact = np.asarray(jax.vmap(lambda g: ravel_pytree(g)[0])(exact))
    found = (drawn.mean(0) - exact) / (drawn.std(0) / np.sqrt(len(drawn)) + 1e-12)
    assert np.abs(found).max() < oracles.bound(found)
    wrong = (1.2 * drawn.mean(0) - exact) / (drawn.std(0) / np.sqrt(len(drawn)) + 1e-12)
    assert np.abs(wrong).max() > oracles.bound(wrong)


@pytest.mark.parametrize("estimator", [sg.PES(pairs=8, noise=0.05), sg.ForwardGradient(horizon=8)])
def test_a_learner_learns_by_an_estimator(estimator):
    learner = sg.Learner(model(), optax.adam(1e-2), loss=sg.losses.mse, update_every=4, estimator=estimator)
    xs = jnp.sin(0.3 * jnp.arange(3001.0))[:, None]
    st, out = learner.run(learner.init(key=jax.random.key(0)), xs[:-1], xs[1:])
    assert out.loss[-300:].mean() < 0.5 * out.loss[:300].mean()
    assert st.skipped == 0


def test_a_reset_starts_the_particles_anew():
    learner = sg.Learner(model(), optax.sgd(0.0), loss=sg.losses.mse, update_every=2, estimator=sg.PES(pairs=2))
    st = learner.init(key=jax.random.key(0))
    for x in XS[:4]:
        st, _ = learner.step(st, x, x)
    st, _ = learner.step(st, XS[4], XS[4], reset=True)
    kept = st.memory.estimate
    for total, noise in zip(jax.tree.leaves(kept.total), jax.tree.leaves(kept.noise), strict=True):
        np.testing.assert_array_equal(total, noise)
    fresh = model()
    for side in kept.carries:
        state = side[0].state[0]
        at_zero = fresh.layers[0].cell(fresh.layers[0].cell.init_state(), XS[4])[0]
        assert jnp.abs(state - at_zero).max() < 0.2  # one step from zeros, at weights nearby


def test_a_particle_that_blows_up_is_skipped_and_starts_anew():
    learner = sg.Learner(model(), optax.sgd(1e-3), loss=sg.losses.mse, estimator=sg.PES(pairs=2))
    st = learner.init(key=jax.random.key(0))
    st, _ = learner.step(st, XS[0], XS[0])
    st, _ = learner.step(st, jnp.array([jnp.nan]), XS[0])
    st, _ = learner.step(st, XS[0], XS[0])
    st, out = learner.step(st, XS[1], XS[1])
    assert st.skipped == 1 and out.learned
    assert all(
        jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(eqx.filter(learner.model(st), eqx.is_inexact_array))
    )


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: learner_of(sg.PES(), streams=3), ValueError, "one stream"),
        (lambda: learner_of(sg.ForwardGradient(), net=model(sg.RTRL())), TypeError, "sg.BPTT"),
        (lambda: learner_of(sg.ForwardGradient(), net=model(feedback="random")), TypeError, "symmetric"),
        (lambda: sg.PES(pairs=0), ValueError, "pairs"),
        (lambda: sg.PES(noise=0.0), ValueError, "σ > 0"),
        (lambda: sg.ForwardGradient(horizon=0), ValueError, "horizon"),
    ],
)
def test_what_does_not_fit_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def learner_of(estimator, net=None, **options):
    return sg.Learner(net or model(), optax.sgd(0.1), loss=sg.losses.mse, estimator=estimator, **options)
