"""A gradient of an online layer's gradient is refused: it would be half of a Hessian."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import streamgrad as sg
from streamgrad.algorithms import _algorithm

KEY = jax.random.key(0)
XS = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)))


def made(algorithm, key=KEY):
    cell = sg.cells.IndRNN(2, 3, key=key, activation=jnp.tanh)
    return sg.nn.Sequential([sg.Recurrent(cell, algorithm), sg.Readout(3, 1, key=key)])


def split(model):
    """The parameters as one vector, and a loss of it."""
    parameters, rest = eqx.partition(model, eqx.is_inexact_array)
    vector, back = jax.flatten_util.ravel_pytree(parameters)
    return vector, lambda vector: eqx.combine(back(vector), rest)


def step_loss(model, carry, x):
    return jnp.sum(jnp.sin(model(carry, x)[1]))


TWICE = {
    "forward over reverse": lambda loss: jax.hessian(loss),
    "a product with it": lambda loss: lambda v: jax.jvp(jax.grad(loss), (v,), (jnp.ones_like(v),)),
    "reverse over reverse": lambda loss: jax.grad(lambda v: jnp.sum(jax.grad(loss)(v) ** 2)),
    "compiled": lambda loss: jax.jit(jax.jacrev(jax.jit(jax.grad(loss)))),
    "checkpointed": lambda loss: jax.hessian(jax.checkpoint(loss)),
}


@pytest.mark.parametrize("how", TWICE)
def test_a_second_derivative_of_a_step_is_refused_by_name(how):
    """It came back 50% off, without a word."""
    model = made(sg.SnAp(1))
    carry = model.init(key=KEY)
    vector, whole = split(model)
    with pytest.raises(TypeError, match=r"cannot be differentiated again.*sg\.BPTT"):
        TWICE[how](lambda v: step_loss(whole(v), carry, XS[0]))(vector)


@pytest.mark.parametrize("algorithm", [sg.RTRL(), sg.TBPTT(2), sg.DNI()], ids=lambda a: type(a).__name__)
def test_so_it_is_for_every_algorithm_and_within_a_scan(algorithm):
    model = made(algorithm)
    carry = model.init(key=KEY)
    vector, whole = split(model)

    def total(v):
        def body(carry, x):
            carry, y = whole(v)(carry, x)
            return carry, jnp.sum(y**2)

        return jnp.sum(jax.lax.scan(body, carry, XS)[1])

    assert np.isfinite(jax.grad(total)(vector)).all()
    with pytest.raises(TypeError, match="cannot be differentiated again"):
        jax.hessian(total)(vector)

    def learned(v):
        """With weights that the loop carries, as those of a learner."""

        def body(both, x):
            v, carry = both
            slope, carry = jax.grad(lambda v: (step_loss(whole(v), carry, x), whole(v)(carry, x)[0]), has_aux=True)(v)
            return (v - 0.1 * slope, carry), None

        return jnp.sum(jax.lax.scan(body, (v, carry), XS)[0][0] ** 2)

    with pytest.raises(TypeError, match="cannot be differentiated again"):
        jax.grad(learned)(vector)


def test_and_for_a_chunk_and_for_the_input():
    model = made(sg.SnAp(1))
    carry = model.init(key=KEY)
    vector, whole = split(model)
    with pytest.raises(TypeError, match="cannot be differentiated again"):
        jax.hessian(lambda v: jnp.sum(sg.nn.unroll(whole(v), carry, XS)[1] ** 2))(vector)
    with pytest.raises(TypeError, match="cannot be differentiated again"):
        jax.hessian(lambda x: step_loss(model, carry, x))(XS[0])


def test_what_lies_above_a_layer_has_its_second_derivatives():
    """Also how the online gradient depends on the readout: the influence does not."""
    model = made(sg.RTRL())
    carry, _ = model(model.init(key=KEY), XS[0])
    put = lambda w: eqx.tree_at(lambda m: m.layers[1].weight, model, w)
    weight = model.layers[1].weight
    got = jax.hessian(lambda w: step_loss(put(w), carry, XS[1]))(weight)[0, :, 0, :]
    h = model.layers[0](carry[0], XS[1])[1]
    np.testing.assert_allclose(got, -jnp.sin(weight[0] @ h) * jnp.outer(h, h), rtol=1e-10)
    of_cell = lambda w: eqx.filter_grad(step_loss)(put(w), carry, XS[1]).layers[0].cell.u
    slope = jax.jacfwd(of_cell)(weight)[:, 0]
    differences = [(of_cell(weight + 1e-6 * e) - of_cell(weight - 1e-6 * e)) / 2e-6 for e in np.eye(3)]
    np.testing.assert_allclose(slope, np.stack(differences, axis=1), rtol=1e-6, atol=1e-9)


def test_bptt_has_them():
    model = made(sg.BPTT())
    vector, whole = split(model)

    def total(v):
        carry, loss = whole(v).init(key=KEY), 0.0
        for x in XS:
            carry, y = whole(v)(carry, x)
            loss = loss + jnp.sum(y**2)
        return loss

    got = jax.jit(jax.hessian(total))(vector)
    gradient = jax.jit(jax.grad(total))
    differences = [(gradient(vector + 1e-6 * e) - gradient(vector - 1e-6 * e)) / 2e-6 for e in np.eye(len(vector))]
    np.testing.assert_allclose(got, np.stack(differences), rtol=1e-5, atol=1e-8)


def test_the_first_derivative_is_the_same_program(monkeypatch):
    """Alone, for a batch, and pulled back for many cotangents at once."""
    model = made(sg.SnAp(1))
    carry = model.init(key=KEY)
    vector, whole = split(model)
    prediction = lambda v, x: whole(v)(carry, x)[1]
    programs = {
        "alone": lambda v, xs: jax.grad(lambda v: step_loss(whole(v), carry, xs[0]))(v),
        "batch": lambda v, xs: jax.vmap(lambda x: jax.grad(lambda v: step_loss(whole(v), carry, x))(v))(xs),
        "pulled": lambda v, xs: jax.vmap(jax.vjp(lambda v: prediction(v, xs[0]), v)[1])(jnp.ones((2, 1))),
    }
    text = lambda f: jax.jit(f).lower(vector, XS).as_text()
    with_guard = {name: text(f) for name, f in programs.items()}
    monkeypatch.setattr(_algorithm, "once", lambda tree: tree)
    jax.clear_caches()
    for name, f in programs.items():
        assert text(lambda v, xs, f=f: f(v, xs)).replace("jit__lambda", "jit_") == with_guard[name].replace(
            "jit__lambda", "jit_"
        ), name
