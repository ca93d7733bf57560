"""Topologies of what is carried: held, begun anew, altered, read late, fed back, learned."""

import equinox as eqx
import jax
import jax.numpy as jnp
from explain_models import KEY, SIZE, WEIGHTED, held, net, one, read, topology, where

import streamgrad as sg


@topology("fed back")
def _(d):
    def begin(m, key):
        return {"a": m.a.init(key=key), "y": jnp.zeros(SIZE)}

    def step(m, carry, x):
        own, y = m.a(carry["a"], x + m.w * carry["y"])
        said = read(m, y)
        return {"a": own, "y": said if m.how == "said" else y}, said

    return net({"a": d.layer(), "w": d.vector()}, step, begin, how=d.pick("said", "output"))


@topology("old state")
def _(d):
    def step(m, carry, x):
        old = jax.tree.leaves(carry["a"].state)[0].real.ravel()[:SIZE]
        if m.how == "own input":
            carry, y = one(m, carry, x + old)
        else:
            carry, y = one(m, carry, x)
        if m.how == "of the other":
            carry, z = one(m, carry, old, "b")
            return carry, read(m, z)
        return carry, read(m, jnp.concatenate([y, m.w[: len(old)] * old]) if m.how == "predicted too" else old)

    how = d.pick("predicted", "predicted too", "own input", "of the other")
    return net({"a": d.layer(), "b": d.layer(), "w": d.vector()}, step, how=how)


@topology("lags")
def _(d):
    def step(m, carry, x):
        if m.below:
            carry, x = one(m, carry, x, "lags")
            carry, y = one(m, carry, x)
            return carry, read(m, y)
        carry, y = one(m, carry, x)
        carry, y = one(m, carry, y, "lags")
        return carry, read(m, y)

    below = d.chance()
    return net({"a": d.layer(2 * SIZE if below else SIZE), "lags": sg.nn.Lags(SIZE, 2)}, step, below=below)


@topology("a carried value beside")
def _(d):
    def step(m, carry, x):
        seen = 0.5 * carry["s"] + (x if m.how == "of the input" else 0)
        own, y = m.a(carry["a"], x + seen)
        if m.how == "of the output":
            seen = seen + y
        if m.how == "of a parameter":
            seen = seen + m.w
        return {"a": own, "s": seen}, read(m, y + (seen if m.shown else 0))

    def begin(m, key):
        return {"a": m.a.init(key=key), "s": jnp.zeros(SIZE)}

    how = d.pick("of the input", "of the output", "of a parameter")
    return net({"a": d.layer(), "w": d.vector()}, step, begin, how=how, shown=d.chance())


@topology("jit inside")
def _(d):
    def inner(m, carry, x):
        carry, y = one(m, carry, x)
        return carry, read(m, m.w * y)

    def step(m, carry, x):
        old = carry["a"]
        carry, y = eqx.filter_jit(inner)(m, carry, x)
        if m.how == "state altered":
            carry = {"a": where(carry["a"], lambda c: c.state, lambda s: 0.7 * s)}
        if m.how == "altered before":
            carry = {"a": carry["a"]}
            moved, y = eqx.filter_jit(inner)(m, {"a": where(old, lambda c: c.state, lambda s: s + 0.1)}, x)
            carry = moved
        return carry, y

    how = d.pick("as it is", "as it is", "state altered", "altered before")
    return net({"a": d.layer(), "w": d.vector()}, step, how=how)


@topology("hypernet")
def _(d):
    at = lambda layer: layer.cell.weight_h

    def step(m, carry, x):
        scale = {"of the input": x[0] * m.w[0], "of weights": jnp.tanh(m.w[0]), "of the past": carry["s"]}[m.how]
        own, y = eqx.tree_at(at, m.a, m.a.cell.weight_h * (1 + scale))(carry["a"], x)
        return {"a": own, "s": jnp.tanh(y[0])}, read(m, y)

    def begin(m, key):
        return {"a": m.a.init(key=key), "s": jnp.zeros(())}

    how = d.pick("of the input", "of weights", "of the past")
    return net({"a": d.layer(kinds=WEIGHTED), "w": d.vector()}, step, begin, how=how)


@topology("learned start")
def _(d):
    def begin(m, key):
        carry = m.a.init(key=key)
        return {"a": where(carry, lambda c: c.state, lambda s: s + m.w[0] * jnp.ones_like(s))}

    def step(m, carry, x):
        if m.again:
            carry = held(x[0] > 1, begin(m, KEY), carry)
        carry, y = one(m, carry, x)
        return carry, read(m, y)

    return net({"a": d.layer(), "w": d.vector()}, step, begin, again=d.chance())


@topology("begun anew")
def _(d):
    def step(m, carry, x):
        if m.how == "before":
            carry = held(x[0] > 0.5, m.init(key=KEY), carry)
        carry, y = one(m, carry, x)
        if m.how == "after":
            carry = held(x[0] > 0.5, m.init(key=KEY), carry)
        if m.how == "trace alone":
            fresh = held(x[0] > 0.5, m.init(key=KEY)["a"].trace, carry["a"].trace)
            carry = {"a": sg.algorithms.Carry(carry["a"].state, fresh)}
        if m.how == "state alone":
            carry = {"a": where(carry["a"], lambda c: c.state, lambda s: jnp.where(x[0] > 0.5, 0, s))}
        return carry, read(m, m.w * y)

    return net({"a": d.layer(), "w": d.vector()}, step, how=d.pick("before", "after", "state alone", "trace alone"))


@topology("padding by where")
def _(d):
    def step(m, carry, x):
        flag = (x > 0).any() if m.flag == "any" else x[0] > -0.5
        new, y = one(m, carry, x)
        if m.deep:
            new, y = one(m, new, y, "b")
        return held(flag, new, carry), jnp.where(flag, read(m, y), 0)

    deep = d.chance(0.3)
    parts = {"a": d.layer()} | ({"b": d.layer()} if deep else {})
    return net(parts, step, flag=d.pick("any", "first"), deep=deep)


@topology("padding by cond")
def _(d):
    def step(m, carry, x):
        def take(carry):
            carry, y = one(m, carry, x)
            return carry, read(m, y)

        return jax.lax.cond(x[0] > -0.5, take, lambda carry: (carry, jnp.zeros(SIZE)), carry)

    return net({"a": d.layer()}, step)


@topology("held in part")
def _(d):
    def step(m, carry, x):
        old = carry["a"]
        new, y = m.a(old, x)
        first, second = x[0] > 0, x[1] > 0
        state = held(first, new.state, old.state) if m.how != "trace" else new.state
        trace = {"state": new.trace, "apart": held(second, new.trace, old.trace)}.get(m.how)
        trace = held(first, new.trace, old.trace) if trace is None else trace
        if m.how == "entries":
            state = jax.tree.map(
                lambda a, b: jnp.where(jnp.arange(a.size).reshape(a.shape) % 2 < first, a, b), new.state, old.state
            )
        return {"a": sg.algorithms.Carry(state, trace)}, read(m, y)

    return net({"a": d.layer()}, step, how=d.pick("state", "trace", "apart", "entries"))


@topology("altered carry")
def _(d):
    def step(m, carry, x):
        new, y = m.a(carry["a"], x)
        if m.how == "state":
            new = where(new, lambda c: c.state, lambda s: 0.8 * s)
        elif m.how == "trace":
            new = where(new, lambda c: c.trace, lambda t: t * 0.9 if eqx.is_inexact_array(t) else t)
        elif m.how == "noise":
            new = where(new, lambda c: c.state, lambda s: s + 0.1 * x[0])
        else:
            new = where(new, lambda c: c.state, lambda s: s * (1 + m.w[0]))
        return {"a": new}, read(m, y)

    return net({"a": d.layer(), "w": d.vector()}, step, how=d.pick("state", "trace", "noise", "by a parameter"))


@topology("two steps at once")
def _(d):
    def step(m, carry, x):
        carry, y = one(m, carry, x)
        carry, z = one(m, carry, {"same": -x, "first": y, "parameter": m.w * x}[m.how])
        return carry, read(m, y + z if m.both else z)

    return net(
        {"a": d.layer(), "w": d.vector()}, step, how=d.pick("same", "same", "first", "parameter"), both=d.chance()
    )
