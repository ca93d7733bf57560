"""What `explain` says of models whose layers reach each other's past, by every path."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import streamgrad as sg

KEYS = jax.random.split(jax.random.key(0), 3)


def layer(in_size=3, k=0, algorithm=None):
    return sg.Recurrent(sg.cells.GRU(in_size, 3, key=KEYS[k]), algorithm or sg.RTRL())


class One(eqx.Module):
    a: sg.Recurrent

    def init(self, *, key):
        return self.a.init(key=key)


class ReadsItsOwnPast(One):
    def __call__(self, carry, x):
        return self.a(carry, jnp.concatenate([x, carry.state[0]]))


class ScalesItsState(One):
    def __call__(self, carry, x):
        carry, y = self.a(carry, x)
        return eqx.tree_at(lambda c: c.state, carry, carry.state * 0.5), y


class UsedTwice(eqx.Module):
    a: sg.Recurrent

    def init(self, *, key):
        return self.a.init(key=key), self.a.init(key=key)

    def __call__(self, carry, x):
        first, y = self.a(carry[0], x)
        second, z = self.a(carry[1], y)
        return (first, second), z


class FedBack(eqx.Module):
    a: sg.Recurrent

    def init(self, *, key):
        return self.a.init(key=key), jnp.zeros(3)

    def __call__(self, carry, x):
        own, y = self.a(carry[0], jnp.concatenate([x, carry[1]]))
        return (own, y), y


class Stack(eqx.Module):
    a: sg.Recurrent
    b: sg.Recurrent
    through: str = eqx.field(static=True)

    def init(self, *, key):
        return self.a.init(key=key), self.b.init(key=key)

    def __call__(self, carry, x):
        a, y = self.a(carry[0], x)
        read = {"output": y, "new state": a.state[0], "old state": carry[0].state[0]}[self.through]
        b, z = self.b(carry[1], read)
        return (a, b), z


class Sideways(eqx.Module):
    a: sg.Recurrent
    b: sg.Recurrent
    c: sg.Recurrent

    def init(self, *, key):
        return self.a.init(key=key), self.b.init(key=key), self.c.init(key=key)

    def __call__(self, carry, x):
        a, y = self.a(carry[0], x)
        b, z = self.b(carry[1], y)
        c, u = self.c(carry[2], carry[1].state[0])
        return (a, b, c), z + u


MODELS = {
    "a layer alone": (layer(), {}),
    "reads its own past": (ReadsItsOwnPast(layer(6)), {"a": "a"}),
    "scales its state": (ScalesItsState(layer()), {"a": "carry.state"}),
    "used twice": (UsedTwice(layer()), {"a": "a"}),
    "fed back": (FedBack(layer(6)), {"a": "carry[1]"}),
    "fed back, under BPTT": (FedBack(layer(6, 0, sg.BPTT())), {}),
    "stack": (Stack(layer(), layer(3, 1), "output"), {"a": "b"}),
    "reads a new state": (Stack(layer(), layer(3, 1), "new state"), {"a": "b"}),
    "reads an old state": (Stack(layer(), layer(3, 1), "old state"), {"a": "b"}),
    "through BPTT": (Sideways(layer(), layer(3, 1, sg.BPTT()), layer(3, 2)), {"a": "c", "b": "c"}),
    "BPTT above": (Stack(layer(), layer(3, 1, sg.BPTT()), "output"), {}),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_layer_is_exact_unless_it_reaches_a_past_without_gradient(name):
    model, stops = MODELS[name]
    found = sg.explain(model, jnp.zeros(3))
    for report in found.layers:
        stop = stops.get(report.path)
        assert report.gradient == ("exact" if stop is None else "biased")
        assert report.feeds == (() if stop is None else (stop,))
