"""The library's own steps, made visible: what goes into a step and what comes out bears a name in the program."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from ...algorithms import Algorithm, Carry
from ...recurrent import Recurrent

_PREFIX = "streamgrad"
_numbers = itertools.count()


class Mark(NamedTuple):
    """One named array: of which layer (`tag`) and call, which part, the how manieth leaf, and its rank in the layer's
    own eyes (a vmapped one has more axes in the program)."""

    tag: str
    call: int
    part: str
    leaf: int
    rank: int


def parsed(name: str) -> Mark | None:
    """The mark that a name stands for; None for any other name."""
    prefix, *rest = name.split(":")
    if prefix != _PREFIX or len(rest) != 5:
        return None
    tag, call, part, leaf, rank = rest
    return Mark(tag, int(call), part, int(leaf), int(rank))


def _mark(name: str):
    """The identity under a name, with the axes of vmap in front."""

    @jax.custom_batching.custom_vmap
    def mark(leaf):
        return checkpoint_name(leaf, name)

    @mark.def_vmap
    def batched(size, which, leaf):
        del size
        return mark(leaf), which[0]

    del batched
    return mark


class Marked(Algorithm):
    """An algorithm that wraps `inner` and names the ends of its steps. The tag is part of the layer's tree structure,
    so that nothing compiled before stands in for a marked step."""

    inner: Algorithm
    tag: str = eqx.field(static=True)

    @property
    def credit(self):  # type: ignore[override]
        return self.inner.credit

    @property
    def learns(self):
        return self.inner.learns

    def init(self, core, state, *, key):
        trace = self.inner.init(core, state, key=key)
        return self._named(next(_numbers), "fresh", trace)

    def step(self, core, carry, x, *, context=None):
        call = next(_numbers)
        core = self._named(call, "parameters", core)
        carry = Carry(self._named(call, "state", carry.state), self._named(call, "trace", carry.trace))
        x, context = self._named(call, "x", jnp.asarray(x)), self._named(call, "context", context)
        new = self.inner.step(core, carry, x, context=context)
        return Carry(self._named(call, "new state", new.state), self._named(call, "new trace", new.trace))

    def traits(self, core):
        return self.inner.traits(core)

    def unroll(self, core, state, xs, starts=None):
        return self.inner.unroll(core, state, xs, starts)

    def check_unroll(self, core):
        self.inner.check_unroll(core)

    def _named(self, call: int, part: str, tree: Any) -> Any:
        leaves, treedef = jax.tree.flatten(tree)
        name = lambda k, leaf: f"{_PREFIX}:{self.tag}:{call}:{part}:{k}:{leaf.ndim}"
        named = [_mark(name(k, leaf))(leaf) if eqx.is_array(leaf) else leaf for k, leaf in enumerate(leaves)]
        return jax.tree.unflatten(treedef, named)


def marked(model: Any) -> tuple[Any, list[str]]:
    """The model with the steps of its layers marked, and the tag of each layer, in order. A layer whose past lives in
    the carry (BPTT) is plain code and stays as it is."""
    is_layer = lambda node: isinstance(node, Recurrent)
    tags = []

    def mark(node):
        if not is_layer(node):
            return node
        tags.append(str(next(_numbers)))
        if node.algorithm.credit == "carry":
            return node
        own = Marked(node.algorithm, tags[-1])
        return eqx.tree_at(lambda layer: layer.algorithm, node, own, is_leaf=lambda part: part is node.algorithm)

    return jax.tree.map(mark, model, is_leaf=is_layer), tags
