"""Topologies of layers: one after another, side by side, within branches and loops, with functions between them."""

import equinox as eqx
import jax
import jax.numpy as jnp
from explain_models import SIZE, WEIGHTED, held, net, one, read, topology

import streamgrad as sg


@topology("single")
def _(d):
    def step(m, carry, x):
        carry, y = one(m, carry, x)
        return carry, jnp.tanh(m.w * read(m, y)) if m.bent else read(m, y)

    return net({"a": d.layer(), "w": d.vector()}, step, bent=d.chance())


@topology("stack")
def _(d):
    depth = d.pick(2, 2, 3)

    def step(m, carry, x):
        for name in "abc"[: m.depth]:
            carry, y = one(m, carry, x, name)
            x = jnp.tanh(m.w * y) if m.between else y
        return carry, read(m, x)

    return net({n: d.layer() for n in "abc"[:depth]} | {"w": d.vector()}, step, depth=depth, between=d.chance())


@topology("parallel")
def _(d):
    def step(m, carry, x):
        ys = []
        for name in "ab":
            carry, y = one(m, carry, x, name)
            ys.append(y)
        return carry, read(m, jnp.tanh(ys[0]) * ys[1] if m.product else jnp.concatenate(ys))

    return net({"a": d.layer(), "b": d.layer()}, step, product=d.chance())


@topology("residual")
def _(d):
    def step(m, carry, x):
        for name in "ab"[: m.depth]:
            carry, y = one(m, carry, x / jnp.sqrt(1e-3 + x @ x) if m.norm else x, name)
            x = x + m.w * y
        return carry, read(m, x)

    depth = d.pick(1, 2)
    return net({n: d.layer() for n in "ab"[:depth]} | {"w": d.vector()}, step, depth=depth, norm=d.chance())


@topology("skip")
def _(d):
    def step(m, carry, x):
        carry, y = one(m, carry, x)
        carry, z = one(m, carry, y if m.deep else x, "b")
        return carry, read(m, jnp.concatenate([x, y, z]))

    return net({"a": d.layer(), "b": d.layer()}, step, deep=d.chance())


def _two(m, key):
    return {"first": m.a.init(key=key), "second": m.a.init(key=key)}


@topology("shared")
def _(d):
    def step(m, carry, x):
        first, y = m.a(carry["first"], x)
        second, z = m.a(carry["second"], y if m.how == "after" else m.v * -x if m.how == "below" else -x)
        new = (second, first) if m.how == "swapped" else (first, second)
        return dict(zip(("first", "second"), new, strict=True)), read(m, y + m.w * z)

    how = d.pick("beside", "beside", "after", "swapped", "below")
    return net({"a": d.layer(), "w": d.vector(), "v": d.vector()}, step, _two, how=how)


@topology("tied")
def _(d):
    at = lambda layer: layer.cell.weight_h

    def step(m, carry, x):
        carry, y = one(m, carry, x)
        if m.how == "to the readout":
            return carry, read(m, y) + m.a.cell.weight_h.sum() * y
        if m.how == "to the input":
            scale = 1 + jnp.tanh(m.a.cell.weight_h.sum())
            carry, y = one(m, carry, scale * x)
            return carry, read(m, y)
        b = eqx.tree_at(at, m.b, m.a.cell.weight_h if m.how == "as it is" else jnp.tanh(m.a.cell.weight_h) * m.w[0])
        new, z = b(carry["b"], y if m.deep else x)
        return carry | {"b": new}, read(m, jnp.concatenate([y, z]))

    kind = d.pick(*WEIGHTED)
    a = d.layer(kinds=(kind,))
    cell = kind(SIZE, SIZE, key=d.key(), wiring=a.cell.wiring)
    b = sg.Recurrent(cell, d.pick(sg.RTRL(), sg.SnAp(1), sg.SnAp(2)))
    if d.windowed:
        b = sg.Recurrent(cell, sg.BPTT())
    how = d.pick("as it is", "bent", "to the readout", "to the input")
    return net({"a": a, "b": b, "w": d.vector()}, step, how=how, deep=d.chance())


@topology("cond inside")
def _(d):
    def step(m, carry, x):
        flag = x[0] > 0
        if m.how == "readout":
            carry, y = one(m, carry, x)
            return carry, jax.lax.cond(flag, lambda y: read(m, y), lambda y: read(m, jnp.tanh(m.w * y)), y)
        if m.how == "experts":  # one takes the step, the other waits
            take = lambda name, other: (
                lambda c: (lambda new: ({name: new[0], other: c[other]}, new[1]))(getattr(m, name)(c[name], x))
            )
            carry, y = jax.lax.cond(flag, take("a", "b"), take("b", "a"), carry)
            return carry, read(m, y)
        if m.how == "input":
            carry, y = one(m, carry, jax.lax.cond(flag, lambda x: m.w * x, lambda x: x, x))
            return carry, read(m, y)
        carry, y = one(m, carry, x)
        b, z = jax.lax.cond(flag, lambda c: m.b(c, y), lambda c: m.b(c, x), carry["b"])
        return carry | {"b": b}, read(m, y + z)

    how = d.pick("readout", "experts", "input", "input of one")
    return net({"a": d.layer(), "b": d.layer(), "w": d.vector()}, step, how=how)


@topology("scan inside")
def _(d):
    def step(m, carry, x):
        if m.how == "beside":
            carry, y = one(m, carry, x)
            return carry, read(m, jax.lax.scan(lambda h, x: (jnp.tanh(m.w * h + x), None), y, jnp.stack([x, -x]))[0])
        if m.how == "below":
            x = jax.lax.scan(lambda h, x: (jnp.tanh(m.w * h + x), None), x, jnp.stack([x, -x]))[0]
            carry, y = one(m, carry, x)
            return carry, read(m, y)
        own, ys = jax.lax.scan(lambda c, x: m.a(c, x), carry["a"], jnp.stack([x, m.w * x if m.how == "fed" else -x]))
        return {"a": own}, read(m, ys[-1] if m.last else ys.sum(0))

    how = d.pick("beside", "below", "chunk", "chunk", "fed")
    return net({"a": d.layer(), "w": d.vector()}, step, how=how, last=d.chance())


def _stacked(d, count=2):
    kind = d.pick(sg.cells.GRU, sg.cells.Vanilla, sg.cells.MinGRU)
    wiring = {} if kind is sg.cells.MinGRU else {"wiring": d.wiring()}
    algorithm = sg.BPTT() if d.windowed else d.pick(sg.RTRL(), sg.RTRL(), sg.SnAp(1), sg.SnAp(2))
    d.words.append(f"{count} x {kind.__name__} {type(algorithm).__name__}")
    make = lambda key: sg.Recurrent(kind(SIZE, SIZE, key=key, **wiring), algorithm)
    return eqx.filter_vmap(make)(jax.random.split(d.key(), count))


def _population(m, key):
    return {"a": eqx.filter_vmap(lambda a: a.init(key=key))(m.a)}


@topology("a scan over layers")
def _(d):
    def step(m, carry, x):
        arrays, rest = eqx.partition(m.a, eqx.is_array)

        def turn(x, now):
            own, y = eqx.combine(now[0], rest)(now[1], x)
            return (y if m.deep else x), (own, y)

        _, (own, ys) = jax.lax.scan(turn, x, (arrays, carry["a"]))
        return {"a": own}, read(m, ys[-1] if m.deep else ys.sum(0))

    return net({"a": _stacked(d)}, step, _population, deep=d.chance())


@topology("a vmapped population")
def _(d):
    def step(m, carry, x):
        own = carry["a"]
        xs = jnp.stack([x, -x])
        if m.how == "talks":
            xs = xs + jax.tree.leaves(own.state)[0].reshape(2, -1)[::-1, :SIZE]

        def member(a, c, x):
            new, y = a(c, x)
            return (held(x[0] > 0, new, c), jnp.where(x[0] > 0, y, 0)) if m.how == "padded" else (new, y)

        def branch(a, c, x):
            return jax.lax.cond(x[0] > 0, lambda c: a(c, x), lambda c: (c, jnp.zeros(SIZE)), c)

        own, ys = eqx.filter_vmap(branch if m.how == "by cond" else member)(m.a, own, xs)
        return {"a": own}, read(m, jnp.tanh(ys).sum(0) if m.bent else ys.ravel())

    return net(
        {"a": _stacked(d)}, step, _population, how=d.pick("apart", "padded", "by cond", "talks"), bent=d.chance()
    )


@topology("functions between")
def _(d):
    functions = {
        "relu": jax.nn.relu, "softmax": jax.nn.softmax, "log_softmax": jax.nn.log_softmax, "gelu": jax.nn.gelu,
        "softplus": jax.nn.softplus, "logsumexp": lambda y: jax.scipy.special.logsumexp(y)[None],
        "norm": lambda y: y / jnp.linalg.norm(y), "sort": jnp.sort, "silu": jax.nn.silu,
    }  # fmt: skip

    def step(m, carry, x):
        if m.below:
            x = functions[m.how](x) if m.how != "logsumexp" else x
        carry, y = one(m, carry, x)
        return carry, read(m, functions[m.how](m.w * y))

    return net({"a": d.layer(), "w": d.vector()}, step, how=d.pick(*functions), below=d.chance())


@jax.custom_vjp
def _clipped(x):
    return x


_clipped.defvjp(lambda x: (x, None), lambda _, g: (jnp.clip(g, -0.1, 0.1),))


@topology("surrogate")
def _(d):
    stop = jax.lax.stop_gradient

    def step(m, carry, x):
        carry, y = one(m, carry, x)
        if m.how == "mean":
            carry, y = one(m, carry, y, "mean")
        elif m.how == "feedback":
            return carry, m.readout(y)
        elif m.how == "straight":
            y = y + stop(jnp.round(2 * y) / 2 - y)
        elif m.how == "stop":
            y = y * stop(m.w + y)
        else:
            y = _clipped(y)
        return carry, read(m, y)

    how = d.pick("mean", "feedback", "straight", "stop", "clip")
    readout = sg.Readout(SIZE, SIZE, key=d.key(), feedback=d.pick("random", "adaptive"))
    parts = {"a": d.layer(), "mean": sg.nn.RunningMean(SIZE), "w": d.vector()}
    return net(parts | ({"readout": readout} if how == "feedback" else {}), step, how=how)
