"""A learner used from outside: models that are served, states that are used again, learners side by side, trees."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import streamgrad as sg
from streamgrad import checkpoint

KEY = jax.random.key(0)
IN, UNITS, OUT = 2, 3, 2
SNAP = sg.SnAp(n=1)


def make_model(key=KEY, units=UNITS, cell=sg.cells.GRU, algorithm: Any = SNAP):
    cell = cell(IN, units, key=key)
    return sg.nn.Sequential([sg.Recurrent(cell, algorithm), sg.Readout(cell.out_size, OUT, key=key)])


@functools.cache
def learner(**options):
    return sg.Learner(make_model(), optax.adam(1e-2), loss=sg.losses.mse, **options)


def stream(steps=7, lead=(), seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(*lead, steps, IN)), rng.normal(size=(*lead, steps, OUT))


def assert_same(got, want):
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(g, w)


# Served models and states used again.


@pytest.mark.cross
@pytest.mark.parametrize(
    "serve", [lambda taught, st: sg.inference(taught.model(st)), lambda taught, st: taught.model(st)]
)
@pytest.mark.parametrize("units", [2, 40], ids=["small leaves", "large leaves"])
def test_a_served_model_lives_on(units, serve):
    """A leaf of more than 256 entries is a buffer of its own, which the next step reuses."""
    taught = sg.Learner(make_model(units=units), optax.sgd(0.1), loss=sg.losses.mse)
    xs, ys = stream()
    st = taught.init(key=KEY)
    served = serve(taught, st)
    call = lambda model: model(model.init(key=KEY), jnp.asarray(xs[0]))[1]
    before = call(served)
    st, _ = taught.step(st, xs[0], ys[0])
    taught.run(st, xs, ys)
    assert_same(call(served), before)


def test_a_model_served_from_td_lives_on():
    taught = sg.td.TDLambda(make_model(units=40), optax.sgd(0.1), gamma=0.9, predictions=OUT)
    xs, ys = stream()
    st = taught.init(key=KEY)
    served = sg.inference(st.model)
    before = served(served.init(key=KEY), jnp.asarray(xs[0]))[1]
    taught.run(st, xs, ys)
    assert_same(served(served.init(key=KEY), jnp.asarray(xs[0]))[1], before)


USES = {
    "step": lambda taught, st, xs, ys: taught.step(st, xs[0], ys[0]),
    "run": lambda taught, st, xs, ys: taught.run(st, xs, ys),
    "predict": lambda taught, st, xs, ys: taught.predict(st, xs[0]),
    "model": lambda taught, st, xs, ys: taught.model(st),
    "steps": lambda taught, st, xs, ys: st.steps,
    "warnings": lambda taught, st, xs, ys: taught.warnings(st),
}


OF_TD = ("step", "run", "predict", "steps")
AGAIN = [("Learner", name) for name in USES] + [("TDLambda", name) for name in OF_TD]


@pytest.mark.parametrize(("kind", "name"), AGAIN)
def test_a_state_used_again_says_what_to_do(kind, name):
    taught: Any = learner() if kind == "Learner" else td()
    xs, ys = stream()
    st = taught.init(key=KEY)
    taught.step(st, xs[0], ys[0])
    with pytest.raises(RuntimeError, match=r"consumed.*deleted.*st, out = learner\.step\(st, \.\.\.\)"):
        USES[name](taught, st, xs, ys)


@functools.cache
def td():
    return sg.td.TDLambda(make_model(units=4), optax.sgd(0.1), gamma=0.9, predictions=OUT)


# Learners side by side.


def test_learners_side_by_side_are_learners_one_by_one(tmp_path):
    taught, keys = learner(), jax.random.split(KEY, 3)
    start = lambda key: taught.init(key=key, model=make_model(key))
    st = jax.vmap(start)(keys)
    xs, ys = stream(lead=(3,))
    ys[1, 2] = np.inf  # missing
    xs[2, 3] = np.nan  # skipped
    for t in range(5):
        st, _ = jax.vmap(taught.step)(st, xs[:, t], ys[:, t])
    st, outs = jax.vmap(taught.run)(st, xs[:, 5:], ys[:, 5:])
    assert outs.loss.shape == (3, 2)
    assert st.steps.tolist() == [7] * 3 and st.skipped.tolist() == [0, 0, 1]
    assert any("1 updates were skipped" in text for text in taught.warnings(st))
    checkpoint.save(tmp_path, st, step=st.steps)
    again = checkpoint.load(tmp_path, jax.vmap(start)(keys))
    assert again.step == 7
    for restored in (st, again.tree):
        models = taught.model(restored)
        for k in range(3):
            alone, _ = taught.run(start(keys[k]), xs[k], ys[k])
            for got, want in zip(jax.tree.leaves(models), jax.tree.leaves(taught.model(alone)), strict=True):
                np.testing.assert_allclose(got[k], want, rtol=1e-9)
    with pytest.raises(ValueError, match=r"several learners .*jax\.vmap\(learner\.step\)"):
        taught.step(st, xs[0, 0], ys[0, 0])


def test_a_key_draws_no_weights_and_another_model_must_have_the_form():
    taught = learner()
    st = jax.vmap(lambda key: taught.init(key=key))(jax.random.split(KEY, 2))
    for leaf in jax.tree.leaves(taught.model(st)):
        np.testing.assert_array_equal(leaf[0], leaf[1])
    with pytest.raises(ValueError, match="same layers, sizes and types"):
        taught.init(key=KEY, model=make_model(units=UNITS + 1))


def test_steps_side_by_side_are_compiled():
    """One call of a compiled program, not operation after operation."""
    taught = learner()
    st = jax.vmap(lambda key: taught.init(key=key))(jax.random.split(KEY, 2))
    x, y = np.ones((2, IN)), np.ones((2, OUT))
    names = {eqn.primitive.name for eqn in jax.make_jaxpr(jax.vmap(taught.step))(st, x, y).jaxpr.eqns}
    assert names <= {"jit", "pjit", "convert_element_type", "broadcast_in_dim"}


# One step and many.

EQUAL = {
    "lru": (dict(cell=sg.cells.LRU), {}),
    "late streams": ({}, dict(streams=2, delay=2, update_every=3)),
}


@pytest.mark.parametrize(("of_model", "options"), EQUAL.values(), ids=EQUAL)
def test_step_and_run_are_equal_to_the_bit(of_model, options):
    """In float32, where rounding shows soon; a run cut anywhere too."""
    jax.config.update("jax_enable_x64", False)
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        taught = sg.Learner(make_model(**of_model), optax.adam(1e-2), loss=sg.losses.mse, **options)
        xs, ys = (a.astype(np.float32) for a in stream(60))
        if "streams" in options:
            xs, ys = (np.stack([a, -a], axis=1) for a in (xs, ys))
        whole, outs = taught.run(taught.init(key=KEY), xs, ys)
        cut, first = taught.run(taught.init(key=KEY), xs[:40], ys[:40])
        cut, second = taught.run(cut, xs[40:], ys[40:])
        assert_same([*map(np.concatenate, zip(first, second, strict=True))], [*outs])
        assert_same(cut.arrays, whole.arrays)
        st, losses = taught.init(key=KEY), []
        for x, y in zip(xs, ys, strict=True):
            st, out = taught.step(st, x, y)
            losses.append(out.loss)
        np.testing.assert_array_equal(np.stack(losses), outs.loss)
        assert_same(st.arrays, whole.arrays)
    finally:
        jax.config.update("jax_enable_x64", True)
        jax.config.update("jax_disable_most_optimizations", True)


def test_runs_of_many_lengths_share_a_program():
    taught = learner()
    xs, ys = stream(60)
    st = taught.init(key=KEY)
    st, outs = taught.run(st, xs[:20], ys[:20])
    assert outs.loss.shape == (20,)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration_secs, **_: compiled.append(event) if "backend_compile" in event else None
    )
    try:
        for length in (40, 60):
            before = len(compiled)
            st, outs = taught.run(st, xs[:length], ys[:length])
            assert outs.loss.shape == (length,) and np.isfinite(outs.loss).all()
            assert len(compiled) - before <= 2  # to cut the padding off
    finally:
        jax.monitoring.clear_event_listeners()
    assert st.steps == 120


# Trees.


class Wide(eqx.Module):
    """A dict in, a dict out."""

    net: sg.nn.Sequential

    def init(self, *, key):
        return self.net.init(key=key)

    def __call__(self, carry, x):
        carry, y = self.net(carry, jnp.concatenate([x["a"], x["b"][None]]))
        return carry, {"p": y[:1], "q": y[1]}


TREES = {"late": dict(delay=2), "streams": dict(streams=2), "window": dict(update_every=3)}


@pytest.mark.parametrize("options", TREES.values(), ids=TREES)
def test_trees_are_the_arrays_they_hold(options):
    """The same learning as with one array; a missing entry within a tree too."""
    model = make_model(algorithm=sg.BPTT()) if "update_every" in options else make_model()
    plain = sg.Learner(model, optax.sgd(0.1), loss=sg.losses.mse, **options)
    xs, ys = stream(9)
    ys[3, 0] = np.nan
    if "streams" in options:
        xs, ys = (np.stack([a, -a], axis=1) for a in (xs, ys))
    taught = sg.Learner(Wide(model), optax.sgd(0.1), loss=sg.losses.mse, **options)
    trees = {"a": xs[..., :1], "b": xs[..., 1]}, {"p": ys[..., :1], "q": ys[..., 1]}
    at = lambda k: jax.tree.map(lambda leaf: leaf[k], trees)
    st = taught.init(key=KEY, like=at(0))
    st, _ = taught.step(st, *at(0))
    rest = jax.tree.map(lambda leaf: leaf[1:], trees)
    st, outs = taught.run(st, *rest)
    other, want = plain.run(plain.init(key=KEY), xs, ys)
    np.testing.assert_allclose(outs.loss, want.loss[1:], rtol=1e-9)
    np.testing.assert_allclose(outs.prediction["q"], want.prediction[1:, ..., 1], rtol=1e-9)
    assert outs.learned.shape == want.learned[1:].shape
    asked = taught.predict(st, at(0)[0])
    np.testing.assert_allclose(asked["p"], plain.predict(other, xs[0])[..., :1], rtol=1e-9)


def test_lists_and_tuples_of_numbers_are_arrays_as_ever():
    taught = learner()
    st, one = taught.step(taught.init(key=KEY), [1.0, 2.0], (0.5, 1.0))
    _, two = taught.step(taught.init(key=KEY), np.array([1.0, 2.0]), np.array([0.5, 1.0]))
    assert_same(one, two)
    with pytest.raises(ValueError, match="3 xs, 2 targets"):
        taught.run(st, ([1.0, 2.0],) * 3, [(0.5, 1.0)] * 2)


def test_trees_of_other_lengths_are_refused_by_name():
    taught = sg.Learner(Wide(make_model()), optax.sgd(0.1), loss=sg.losses.mse)
    st = taught.init(key=KEY)
    xs, ys = {"a": np.ones((4, 1)), "b": np.ones(5)}, {"p": np.ones((4, 1)), "q": np.ones(4)}
    with pytest.raises(ValueError, match="run expects xs, targets and resets of one length"):
        taught.run(st, xs, ys)
    with pytest.raises(ValueError, match=r"target\['p'\] has shape \(2,\)"):
        taught.step(st, {"a": np.ones(1), "b": np.ones(())}, {"p": np.ones(2), "q": np.ones(())})
