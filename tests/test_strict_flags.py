"""Under each of JAX's strict flags: every algorithm on the first rows of the conformance table, and both drivers."""

import contextlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import test_conformance

import streamgrad as sg

KEY = jax.random.key(0)

# What a program may say, known when it is traced; and what its numbers may be, known when it runs.
WORDS = {
    "jax_numpy_rank_promotion": "raise",
    "jax_numpy_dtype_promotion": "strict",
    "jax_legacy_prng_key": "error",
    "jax_check_tracer_leaks": True,
    "jax_enable_checks": True,
}
NUMBERS = {"jax_debug_nans": True, "jax_debug_infs": True, "jax_debug_key_reuse": True, "jax_transfer_guard": "log"}
# A search for leaked tracers takes as long as all other flags together; all tests run under strict dtype promotion.
RULES = [pytest.param(name, marks=pytest.mark.full) if "leaks" in name or "dtype" in name else name for name in WORDS]
CELLS = ("Vanilla-dense", "LRU", "GRU-sparse", "LSTM-columns", "Function")


@contextlib.contextmanager
def flag(name, value):
    before = jax.config.values[name]
    jax.config.update(name, value)
    try:
        yield
    finally:
        jax.config.update(name, before)


def layers(names):
    """All that fit, of these cells of the table and all algorithms."""
    for cell in (row.make(KEY) for row in test_conformance.ROWS if row.name in names):
        for algorithm in test_conformance.ALGORITHMS.values():
            with contextlib.suppress(TypeError):  # one that does not fit this cell
                yield sg.Recurrent(cell, algorithm.algorithm)


def one_step(layer, x, key):
    """A step, its gradients by all parameters and the input, and the step after it."""
    carry = layer.init(key=key)

    def loss(both):
        layer, x = both
        new, y = layer(carry, x)
        return jnp.sum(jnp.sin(y)), new

    gradient, carry = eqx.filter_grad(loss, has_aux=True)((layer, x))
    return gradient, layer(carry, x)


@pytest.mark.parametrize("name", RULES)
def test_every_algorithm_can_be_traced_under(name):
    """Nothing is compiled: what these flags forbid is found when a program is written, by each kind of program once."""
    programs = set()
    with flag(name, WORDS[name]):
        for layer in layers(CELLS if "rank" in name else CELLS[:1]):
            rule = layer.algorithm
            plan, present = getattr(rule, "layout", None), getattr(rule, "present", None)
            program = type(layer.cell), type(rule), type(plan), present
            if program not in programs:
                eqx.filter_eval_shape(one_step, layer, jnp.ones(layer.cell.in_size), KEY)
                programs.add(program)
    assert len({rule for _, rule, *_ in programs}) > 15


def learner(**options):
    cell = sg.cells.LSTM(3, 2, wiring=sg.wiring.Columns(), key=KEY)
    model = sg.nn.Sequential([sg.nn.Normalise(3), sg.Recurrent(cell, sg.SnAp(1)), sg.Readout(2, 1, key=KEY)])
    return sg.Learner(model, optax.adam(1e-2), loss=sg.losses.mse, **options)


def td(predictions=2, streams=None):
    cell = sg.cells.GRU(3, 2, key=KEY)
    model = sg.nn.Sequential([sg.Recurrent(cell, sg.SnAp(1)), sg.Readout(2, predictions, key=KEY)])
    return sg.td.TDLambda(model, optax.sgd(1e-2), gamma=0.9, lam=0.5, predictions=predictions, streams=streams)


@pytest.mark.parametrize("name", RULES)
def test_the_drivers_can_be_traced_under(name):
    def through(rule, lead, *outs):
        def steps(key):
            x, target = jnp.ones((*lead, 3)), jnp.ones((*lead, *outs))
            st, _ = rule.step(rule.init(key=key), x, target)
            return rule.run(st, jnp.stack([x] * 2), jnp.stack([target] * 2))[1]

        jax.eval_shape(steps, KEY)

    with flag(name, WORDS[name]):
        for options in ({}, {"streams": 2, "delay": 1}, {"update_every": 2}, {"update_every": 2, "chunked": True}):
            through(learner(**options), (2,) if "streams" in options else (), 1)
        through(td(), (), 2)
        through(td(streams=3), (3,), 2)


@pytest.mark.parametrize("name", NUMBERS)
def test_a_learner_runs_under(name):
    """With all of its targets: a missing one is NaN, by which `jax_debug_nans` stops (see the FAQ)."""
    xs, rule = np.random.default_rng(0).normal(size=(4, 3)), learner()
    with flag(name, NUMBERS[name]):
        st, _ = rule.step(rule.init(key=jax.random.key(1)), xs[0], xs[0, :1])
        st, out = rule.run(st, xs[1:], xs[1:, :1])
        assert st.steps == 4 and np.isfinite(out.loss).all() and rule.warnings(st) == []


def test_gradients_are_checked_and_explained_under_strict_ranks():
    cell = sg.cells.GRU(3, 4, wiring=sg.wiring.Sparse(fan_in=2, seed=0), key=KEY)
    layer = sg.Recurrent(cell, sg.RTRL())
    with flag("jax_numpy_rank_promotion", "raise"):
        assert sg.check_gradients(layer, jnp.ones((3, 3)), key=KEY).worst < 1e-10
        assert "exact" in str(sg.explain(sg.nn.Sequential([layer, sg.Readout(4, 1, key=KEY)]), jnp.ones(3)))
