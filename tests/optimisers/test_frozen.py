"""What no gradient trains, no optimiser moves; what one moves keeps its type."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import streamgrad as sg

KEY = jax.random.key(0)
DECAY = optax.chain(optax.add_noise(0.1, 0.5, 0), optax.adamw(1e-1, weight_decay=0.5))


class Masked(eqx.Module):
    """A linear readout behind a mask of numbers, and a leaf that nothing reads."""

    weight: jax.Array
    mask: jax.Array
    spare: jax.Array

    def __init__(self, size):
        self.weight = jax.random.normal(KEY, (1, size))
        self.mask = jnp.asarray(np.arange(size) % 2.0)
        self.spare = jnp.ones(3)

    def __call__(self, x):
        return (self.weight * jax.lax.stop_gradient(self.mask)) @ x


def lru(algorithm):
    return sg.Recurrent(sg.cells.LRU(2, 3, key=KEY), algorithm)


MODELS = {
    "frozen": (lambda: [lru(sg.Frozen()), sg.Readout(2, 1, key=KEY)], lambda m: core_of(m.layers[0].cell)),
    "spatial": (
        lambda: [lru(sg.Spatial()), sg.Readout(2, 1, key=KEY)],
        lambda m: (m.layers[0].cell.nu, m.layers[0].cell.theta),
    ),
    "feedback": (
        lambda: [lru(sg.SnAp(1)), sg.Readout(2, 1, key=KEY, feedback="random")],
        lambda m: m.layers[1].feedback_weight,
    ),
    "mask": (lambda: [lru(sg.SnAp(1)), Masked(2)], lambda m: (m.layers[1].mask, m.layers[1].spare)),
    "window": (lambda: [lru(sg.BPTT()), Masked(2)], lambda m: (m.layers[1].mask, m.layers[1].spare)),
}


def core_of(cell):
    """An LRU's leaves but those of its output."""
    return [getattr(cell, name) for name in ("nu", "theta", "gamma_log", "b_re", "b_im")]


def learner_of(name, model):
    options: Any = dict(update_every=3) if name == "window" else {}
    return sg.Learner(model, DECAY, loss=sg.losses.mse, **options)


CASES = [("Learner", name) for name in MODELS] + [("TDLambda", name) for name in MODELS if name != "window"]


@pytest.mark.cross
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_what_no_gradient_trains_stays_under_decay_and_noise(kind, name):
    layers, frozen = MODELS[name]
    model = sg.nn.Sequential(layers())
    rng = np.random.default_rng(0)
    xs, ys = rng.normal(size=(9, 2)), rng.normal(size=(9, 1))
    if kind == "Learner":
        taught = learner_of(name, model)
        st, _ = taught.run(taught.init(key=KEY), xs, ys)
        after = taught.model(st)
    else:
        taught = sg.td.TDLambda(model, DECAY, gamma=0.9, lam=0.5)
        st, _ = taught.run(taught.init(key=KEY), xs, ys)
        after = st.model
    for was, now in zip(jax.tree.leaves(frozen(model)), jax.tree.leaves(frozen(after)), strict=True):
        np.testing.assert_array_equal(was, now)
    # All else learns.
    moved = [not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (model, after)), strict=True)]
    assert sum(moved) == len(moved) - len(jax.tree.leaves(frozen(model)))


def test_adamw_decays_nothing_frozen_in_a_loop_of_your_own():
    model = sg.nn.Sequential([lru(sg.Frozen()), sg.Readout(2, 1, key=KEY, feedback="random")])
    parameters: Any = eqx.filter(model, eqx.is_inexact_array)
    updates: Any
    optimiser = sg.optimisers.adamw(1e-1)(model)
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = optimiser.update(zeros, optimiser.init(parameters), parameters)
    assert not any(np.any(leaf) for leaf in core_of(updates.layers[0].cell))
    assert not np.any(updates.layers[1].feedback_weight)
    assert np.any(updates.layers[1].weight)
    marks = sg.optimisers.recurrent_parameters(model)
    assert not any(jax.tree.leaves(marks))  # nothing inside the recurrence learns


def test_pes_does_not_shake_a_frozen_layer():
    model = sg.nn.Sequential([lru(sg.Frozen()), sg.Readout(2, 1, key=KEY)])
    taught = sg.Learner(model, optax.sgd(0.1), loss=sg.losses.mse, estimator=sg.PES(pairs=2, noise=0.1))
    st, _ = taught.run(taught.init(key=KEY), np.ones((3, 2)), np.ones((3, 1)))
    for was, now in zip(core_of(model.layers[0].cell), core_of(taught.model(st).layers[0].cell), strict=True):
        np.testing.assert_array_equal(was, now)


class Plain(eqx.Module):
    """A linear model of any type."""

    weight: jax.Array

    def init(self, *, key):
        return ()

    def __call__(self, carry, x):
        return carry, (self.weight @ x.astype(self.weight.dtype)).real


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("make", [optax.sgd, optax.adam, sg.td.TDLambda], ids=["sgd", "adam", "TDLambda"])
def test_a_parameter_keeps_its_type_under_a_rate_in_float64(dtype, make):
    rate = np.logspace(-1, -2, 2)[0]
    assert rate.dtype == np.float64
    model = Plain(jnp.ones((1, 2), dtype))
    taught: Any
    xs, ys = np.ones((4, 2)), np.full((4, 1), 3.0)
    if make is sg.td.TDLambda:
        taught = sg.td.TDLambda(model, optax.sgd(rate), gamma=0.9)
    else:
        taught = sg.Learner(model, make(rate), loss=sg.losses.mse)
    st, _ = taught.step(taught.init(key=KEY), xs[0], ys[0])
    st, _ = taught.run(st, xs, ys)
    weight = (st.model if make is sg.td.TDLambda else taught.model(st)).weight
    assert weight.dtype == dtype and np.all(weight > 1) and st.skipped == 0


@pytest.mark.parametrize("make", [sg.optimisers.rmsprop, sg.optimisers.adamw], ids=["rmsprop", "adamw"])
def test_the_librarys_optimisers_keep_types_too(make):
    model = Plain(jnp.ones((1, 2), jnp.float32))
    taught = sg.Learner(model, make(np.logspace(-3, -2, 2)[0]), loss=sg.losses.mse)
    st, _ = taught.run(taught.init(key=KEY), np.ones((4, 2)), np.full((4, 1), 3.0))
    assert taught.model(st).weight.dtype == jnp.float32


MAKERS = {
    "Learner": lambda model, optimiser: sg.Learner(model, optimiser, loss=sg.losses.mse),
    "TDLambda": lambda model, optimiser: sg.td.TDLambda(model, optimiser, gamma=0.9),
}
each_maker = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@each_maker
def test_complex_parameters_are_refused_by_name(make):
    with pytest.raises(TypeError, match=r"\.weight is complex .* two real leaves"):
        make(Plain(jnp.ones((1, 2), jnp.complex128)), optax.sgd(0.1))


@each_maker
def test_optimisers_of_another_kind_are_refused_by_name(make):
    model = Plain(jnp.ones((1, 2)))
    with pytest.raises(TypeError, match="lookahead, which wants parameters of its own kind"):
        make(model, optax.lookahead(optax.sgd(0.1), 5, 0.5))
    with pytest.raises(TypeError, match=r"optax.MultiSteps.*update_every"):
        make(model, optax.MultiSteps(optax.sgd(0.1), 4))
    with pytest.raises(TypeError, match="got 3"):
        make(model, 3)
    taught = make(model, optax.lbfgs())
    with pytest.raises(TypeError, match="value_fn"):
        taught.step(taught.init(key=KEY), np.ones(2), np.ones(1))


def test_optimisers_hear_of_the_loss():
    """The rate on a plateau is that of a loop by hand; within a window they hear of its mean."""
    model = Plain(jnp.ones((1, 2)))
    plateau = optax.chain(optax.sgd(0.05), optax.contrib.reduce_on_plateau(patience=1, factor=0.5, cooldown=1))
    rng = np.random.default_rng(0)
    xs, ys = rng.normal(size=(12, 2)), rng.normal(size=(12, 1))
    loss = lambda m, x, y: sg.losses.mse(m((), x)[1], y)
    plain: Any
    memory: Any = ()
    for every in (1, 3):
        taught = sg.Learner(model, plateau, loss=sg.losses.mse, update_every=every)
        st, _ = taught.run(taught.init(key=KEY), xs, ys)
        plain = model
        memory = plateau.init(plain)
        for k in range(0, 12, every):
            both = [jax.value_and_grad(loss)(plain, *map(jnp.asarray, (xs[j], ys[j]))) for j in range(k, k + every)]
            value, gradient = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *both)
            with jax.numpy_dtype_promotion("standard"):
                updates, memory = plateau.update(gradient, memory, plain, value=value)
            plain = optax.apply_updates(plain, updates)
        np.testing.assert_allclose(taught.model(st).weight, plain.weight, rtol=1e-6)
    assert float(memory[1].scale) < 1
