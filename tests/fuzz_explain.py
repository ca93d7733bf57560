"""Fuzz of `explain`: random models against full differentiation through time that knows nothing of the library's rules.

    python tests/fuzz_explain.py --models 2000 --out results/fuzz-explain

A program is a model of a topology with cells, wirings and algorithms drawn at random; it is compiled once and run with
several weights and inputs. A model is a program with weights. The online gradient is taken one step at a time; the
true one by `jax.grad` of all steps, in which bare cells stand for the layers (`plain`), and nothing of the library is
left that has a rule of its own. Every model is a line of `log.jsonl`; what is there already is not run again.

Exact was said wrongly where a parameter's error, relative to its gradient, is above 1e-8; biased or unknown was said
too timidly where all errors of the part are below.
"""

import argparse
import collections
import dataclasses
import json
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import streamgrad as sg

STEPS, SIZE, TOLERANCE = 10, 3, 1e-8
KEY = jax.random.key(0)
#: Where `explain` should not be too timid.
DOCUMENTED = ("single", "stack", "parallel", "residual", "shared", "skip", "padding by where", "padding by cond")


# Plain modules: the same models without a rule of the library.


class Bare(eqx.Module):
    """A cell as it is, with a carry of the form of a layer's."""

    cell: eqx.Module

    def init(self, *, key):
        return sg.algorithms.Carry(self.cell.init_state(), ())

    def __call__(self, carry, x):
        state = self.cell(carry.state, x)
        return sg.algorithms.Carry(state, ()), self.cell.output(state, x)


class BareLags(eqx.Module):
    like: sg.nn.Lags

    def init(self, *, key):
        return jnp.zeros((self.like.count, self.like.size))

    def __call__(self, carry, x):
        carry = jnp.concatenate([x[None], carry[:-1]])
        return carry, carry.ravel()


class BareMean(eqx.Module):
    size: int = eqx.field(static=True)

    def init(self, *, key):
        return jnp.zeros(()), jnp.zeros(self.size)

    def __call__(self, carry, x):
        count, total = carry[0] + 1, carry[1] + x
        return (count, total), total / count


class BareLinear(eqx.Module):
    weight: jax.Array
    bias: jax.Array
    feedback_weight: jax.Array | None

    def __call__(self, x):
        return self.weight @ x + self.bias


def plain(model):
    """The model with bare modules in place of the library's; its leaves stay in their order."""
    kinds = sg.Recurrent | sg.nn.Lags | sg.nn.RunningMean | sg.Readout

    def bare(node):
        if isinstance(node, sg.Recurrent):
            return Bare(node.cell)
        if isinstance(node, sg.nn.Lags):
            return BareLags(node)
        if isinstance(node, sg.nn.RunningMean):
            return BareMean(node.size)
        if isinstance(node, sg.Readout):
            return BareLinear(node.weight, node.bias, node.feedback_weight)
        return node

    return jax.tree.map(bare, model, is_leaf=lambda node: isinstance(node, kinds))


# Models: parts, and a step that is one of the topologies below.


class Net(eqx.Module):
    parts: dict
    out: jax.Array
    step: object = eqx.field(static=True)
    begin: object = eqx.field(static=True)
    options: tuple = eqx.field(static=True)

    def __getattr__(self, name):
        if name in ("parts", "options") or name.startswith("__"):
            raise AttributeError(name)
        if name in (options := dict(self.options)):
            return options[name]
        try:
            return self.parts[name]
        except KeyError:
            raise AttributeError(name) from None

    def init(self, *, key):
        if self.begin is not None:
            return self.begin(self, key)
        return {name: part.init(key=key) for name, part in self.parts.items() if hasattr(part, "init")}

    def __call__(self, carry, x):
        return self.step(self, carry, x)


def held(flag, new, old):
    return jax.tree.map(lambda a, b: jnp.where(flag, a, b), new, old)


def read(m, y):
    return m.out[:, : y.shape[0]] @ y


def where(carry, at, change):
    return eqx.tree_at(
        at, carry, jax.tree.map(change, at(carry)), is_leaf=lambda node: isinstance(node, tuple) and not node
    )


# Drawing.


@dataclasses.dataclass
class Draw:
    """What a program is drawn with, and in words."""

    rng: np.random.Generator
    windowed: bool = False
    words: list = dataclasses.field(default_factory=list)

    def pick(self, *options):
        return options[self.rng.integers(len(options))]

    def chance(self, p=0.5):
        return bool(self.rng.random() < p)

    def key(self):
        return jax.random.key(int(self.rng.integers(2**31)))

    def wiring(self):
        return self.pick(
            sg.wiring.Dense(), sg.wiring.Dense(), sg.wiring.Columns(), sg.wiring.Blocks(1),
            sg.wiring.Sparse(fan_in=1, seed=int(self.rng.integers(9))),
            sg.wiring.Sparse(fan_in=2, seed=int(self.rng.integers(9))),
        )  # fmt: skip

    def cell(self, in_size=SIZE, kinds=None):
        wired = (sg.cells.GRU, sg.cells.LSTM, sg.cells.Vanilla, sg.cells.LeakyRNN, sg.cells.LinearRNN)
        diagonal = (sg.cells.MinGRU, sg.cells.LRU, sg.cells.IndRNN)
        kind = self.pick(*(kinds or (*wired, *wired, *diagonal)))
        options = {"wiring": self.wiring()} if kind in wired else {}
        if kind is sg.cells.LRU:
            options["out_size"] = SIZE
        if kind is sg.cells.IndRNN:
            options["activation"] = self.pick(jnp.tanh, jax.nn.relu)
        self.words.append(f"{kind.__name__}{'/' + type(options['wiring']).__name__ if kind in wired else ''}")
        return kind(in_size, SIZE, key=self.key(), **options)

    def algorithm(self, cell):
        if self.windowed and self.chance(0.7):
            return sg.BPTT()
        return self.pick(*[sg.RTRL()] * 6, *[sg.SnAp(1)] * 2, sg.SnAp(2), sg.SnAp(3), sg.RFLO(), sg.TBPTT(2), sg.UORO())

    def layer(self, in_size=SIZE, kinds=None):
        cell = self.cell(in_size, kinds)
        algorithm = self.algorithm(cell)
        try:
            layer = sg.Recurrent(cell, algorithm)
        except TypeError:  # RFLO on a cell without drives
            algorithm = sg.RTRL()
            layer = sg.Recurrent(cell, algorithm)
        self.words.append(f"{type(algorithm).__name__}{getattr(algorithm, 'n', '')}")
        return layer

    def vector(self, *shape):
        return jnp.asarray(self.rng.normal(size=shape or (SIZE,)))


WEIGHTED = (sg.cells.GRU, sg.cells.Vanilla, sg.cells.LeakyRNN)  # with one weight_h of shape (fan_in, gates, units)
TOPOLOGIES = {}


def topology(name):
    def register(make):
        TOPOLOGIES[name] = make
        return make

    return register


def net(parts, step, begin=None, **options):
    return parts, step, begin, tuple(options.items())


def one(m, carry, x, name="a"):
    new, y = getattr(m, name)(carry[name], x)
    return carry | {name: new}, y


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
        if m.how == "state alone":
            carry = {"a": where(carry["a"], lambda c: c.state, lambda s: jnp.where(x[0] > 0.5, 0, s))}
        return carry, read(m, m.w * y)

    return net({"a": d.layer(), "w": d.vector()}, step, how=d.pick("before", "after", "state alone"))


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


# Running.


def loss(y, w):
    return jnp.sum(w[0] * jnp.sin(y + w[1]))


class Program:
    """A model of one topology, compiled: `errors(seed)` draws weights and inputs."""

    def __init__(self, number: int):
        names = sorted(TOPOLOGIES)
        self.number, self.topology = number, names[number % len(names)]
        # Now and then a window is differentiated at once.
        draw = Draw(np.random.default_rng(number))
        draw.windowed = draw.chance(0.12)
        parts, step, begin, options = TOPOLOGIES[self.topology](draw)
        self.model = Net(parts, draw.vector(SIZE, 3 * SIZE), step, begin, options)
        layers = [node for node in jax.tree.leaves(self.model, is_leaf=_is_layer) if _is_layer(node)]
        self.windowed = any(layer.algorithm.credit == "carry" for layer in layers)
        given = ", ".join(f"{k}={v}" for k, v in options)
        self.words = "; ".join([*draw.words, *([given] if given else [])])
        self.explained = sg.explain(self.model, jnp.ones(SIZE))
        self._compare = eqx.filter_jit(self._gradients)

    def _gradients(self, model, xs, ws):
        parameters, rest = eqx.partition(model, eqx.is_inexact_array)

        def through(model):
            body = lambda carry, now: (lambda new: (new[0], loss(new[1], now[1])))(model(carry, now[0]))
            return jnp.sum(jax.lax.scan(body, model.init(key=KEY), (xs, ws))[1])

        true = jax.grad(lambda p: through(plain(eqx.combine(p, rest))))(parameters)
        if self.windowed:
            return jax.tree.leaves(jax.grad(lambda p: through(eqx.combine(p, rest)))(parameters)), jax.tree.leaves(true)

        def one(so_far, now):
            carry, total = so_far

            def objective(p):
                new, y = eqx.combine(p, rest)(carry, now[0])
                return loss(y, now[1]), new

            gradient, carry = jax.grad(objective, has_aux=True)(parameters)
            return (carry, jax.tree.map(jnp.add, total, gradient)), None

        start = model.init(key=KEY), jax.tree.map(jnp.zeros_like, parameters)
        online = jax.lax.scan(one, start, (xs, ws))[0][1]
        return jax.tree.leaves(online), jax.tree.leaves(true)

    def errors(self, seed: int) -> dict[str, float | None]:
        """For each parameter the relative error of its online gradient; None where the true one is 0 and so is it."""
        rng = np.random.default_rng((self.number, seed))
        noisy = lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape) if eqx.is_inexact_array(leaf) else leaf
        model = jax.tree.map(noisy, self.model)
        draw = lambda *shape: jnp.asarray(rng.normal(size=shape))
        online, true = self._compare(model, draw(STEPS, SIZE), (draw(STEPS, SIZE), draw(STEPS, SIZE)))
        paths = jax.tree_util.tree_leaves_with_path(eqx.filter(self.model, eqx.is_inexact_array))
        names = [jax.tree_util.keystr(path).lstrip(".") for path, _ in paths]
        return {name: _relative(np.asarray(a), np.asarray(b)) for name, a, b in zip(names, online, true, strict=True)}

    def line(self, seed: int) -> dict:
        """One model, judged: the verdict of each part with the largest error of its parameters."""
        errors, parts = self.errors(seed), {}
        verdicts = {each.path: each.gradient for each in (*self.explained.layers, *self.explained.parameters)}
        for path, verdict in verdicts.items():
            own = [e for name, e in errors.items() if name == path or name.startswith(f"{path}.")]
            own = [error for error in own if error is not None]
            parts[path] = [verdict, float(f"{max(own):.2g}") if own else None]
        wrong = [p for p, (v, e) in parts.items() if v == "exact" and e is not None and not e <= TOLERANCE]
        timid = [p for p, (v, e) in parts.items() if v != "exact" and e is not None and e <= TOLERANCE]
        return {
            "program": self.number, "seed": seed, "topology": self.topology, "model": self.words, "parts": parts,
            "exact": self.explained.exact, "wrong": wrong, "timid": timid,
        }  # fmt: skip


def _is_layer(node):
    return isinstance(node, sg.Recurrent)


def _relative(got, want):
    size, off = np.linalg.norm(want), np.linalg.norm(got - want)
    if size < 1e-12:
        return None if off < 1e-12 else float("inf")
    return float(off / size)


def table(lines) -> dict[str, dict[str, float]]:
    """By topology: models; parts (layers, and parameters outside of them) that were called exact, of these wrongly;
    parts that were not although they are, and the share of models that have one; programs, and those of which a part
    was never called exact although it is with all weights (a verdict holds for all weights and inputs)."""
    rows = collections.defaultdict(lambda: collections.Counter())
    programs = collections.defaultdict(lambda: collections.defaultdict(list))
    for line in lines:
        row = rows[line["topology"]]
        programs[line["topology"]][line["program"]].append(set(line["timid"]))
        told = [v for v, error in line["parts"].values() if error is not None]
        row.update(
            models=1, models_exact=line["exact"], parts=len(told), parts_exact=told.count("exact"),
            wrong_exact=len(line["wrong"]), too_timid=len(line["timid"]), models_too_timid=bool(line["timid"]),
        )  # fmt: skip
    return {
        name: {
            **row,
            "too_timid_share": row["models_too_timid"] / row["models"],
            "programs": len(programs[name]),
            "programs_too_timid": sum(bool(set.intersection(*each)) for each in programs[name].values()),
        }
        for name, row in sorted(rows.items())
    }


def printed(rows) -> str:
    columns = (
        "models",
        "programs",
        "models_exact",
        "parts",
        "parts_exact",
        "wrong_exact",
        "too_timid",
        "too_timid_share",
    )
    lines = [f"{'topology':<24}" + "".join(f"{c.replace('_', ' '):>20}" for c in columns)]
    for name, row in rows.items():
        mark = " *" if name in DOCUMENTED else ""
        cells = [f"{row[c]:.1%}" if c == "too_timid_share" else f"{row[c]:,}" for c in columns]
        lines.append(f"{name + mark:<24}" + "".join(f"{cell:>20}" for cell in cells))
    return "\n".join(lines)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", type=int, default=2000, help="how many models in all")
    parser.add_argument("--weights", type=int, default=8, help="models of one program")
    parser.add_argument("--out", type=Path, required=True, help="the folder of log.jsonl and summary.json")
    options = parser.parse_args(arguments)
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {(line["program"], line["seed"]) for line in lines}
    start = time.monotonic()
    for number in range(-(-options.models // options.weights)):
        waiting = [seed for seed in range(options.weights) if (number, seed) not in done]
        if not waiting:
            continue
        program = Program(number)
        for seed in waiting:
            lines.append(program.line(seed))
            with log.open("a") as file:
                file.write(json.dumps(lines[-1]) + "\n")
            if lines[-1]["wrong"]:
                print("WRONG", lines[-1], flush=True)
        jax.clear_caches()
        print(f"{len(lines)} models, {time.monotonic() - start:.0f} s: {program.topology}: {program.words}", flush=True)
    rows = table(lines)
    (options.out / "summary.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(printed(rows))
    return int(any(row["wrong_exact"] for row in rows.values()))


if __name__ == "__main__":
    raise SystemExit(main())
