"""Random models for the fuzz of `explain`, and the same models without a rule of the library."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import streamgrad as sg

SIZE = 3
KEY = jax.random.key(0)


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
