r"""Credit across layers: the influence of a layer's parameters on the states of the next few layers.

One step at a time, layer by layer, the trace of a parameter θ of layer l holds $J_{l \to l}$, its effect on its
own layer's state. What θ did to the *past* of the layers above is lost. Keeping $J_{l \to m}$ for the layers
m ≤ l + h too, "h hops", closes the gap from below: with h = depth - 1 the gradient is exact. Per step and stream
a hop costs as many numbers as layer m has states for every parameter of layer l.

For frozen weights the gradient with h hops needs no traces: for θ of layer l it is backpropagation through time in
which the layers above l + h pass credit down through the present step alone. One backward pass for each limit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ...algorithms import BPTT
from ...nn import Deep
from ...recurrent import Recurrent


def hop_gradient(loss: Callable[[Any], Any], model: Any, hops: int) -> tuple[Any, Any]:
    """The loss of a model run in chunks, and its gradient with credit over `hops` further layers. The influence of
    every parameter is kept on that many layers beyond its own (0: each layer's own algorithm, as it is, of any model;
    else of a `Deep`).

    A parameter outside the recurrences (encoder, norm, gated unit) has no trace of its own: the first layer whose
    state it reaches counts as its first hop."""
    value, own = eqx.filter_value_and_grad(loss)(model)
    if hops == 0:
        return value, own
    depth = len(model.blocks)
    limits = _limits(model, hops)
    by_limit: dict[int, Any] = {-1: own}
    for limit in sorted({min(k, depth - 1) for k in jax.tree.leaves(limits)} - {-1}):
        by_limit[limit] = eqx.filter_grad(lambda m, limit=limit: loss(through_time(m, limit)))(model)
    order = sorted(by_limit)
    choose = lambda limit, *gradients: gradients[order.index(min(limit, depth - 1))]
    return value, jax.tree.map(choose, limits, *(by_limit[limit] for limit in order))


def through_time(model: Deep, limit: int) -> Deep:
    """The model with full credit through the past of its blocks 0..limit."""
    layers = [block.recurrent for block in model.blocks[: limit + 1]]
    change = [Recurrent(layer.cell, BPTT()) for layer in layers]
    where = lambda m: [block.recurrent for block in m.blocks[: limit + 1]]
    return eqx.tree_at(where, model, change) if layers else model


def _limits(model: Deep, hops: int):
    """For each parameter, the last block whose past it gets credit through."""
    parameters = eqx.filter(model, eqx.is_inexact_array)
    fill = lambda tree, limit: jax.tree.map(lambda leaf: limit, tree)
    limits = eqx.tree_at(lambda m: m.decoder, fill(parameters, hops - 1), fill(parameters.decoder, -1))
    for l, block in enumerate(parameters.blocks):
        one = eqx.tree_at(lambda b: b.norm, fill(block, l + hops), fill(block.norm, l + hops - 1))
        limits = eqx.tree_at(lambda m, l=l: m.blocks[l], limits, one)
    return limits


def influence_numbers(model: Deep, hops: int) -> int:
    """Real numbers of influence that a stream must keep: the traces of each layer's own parameters, and for every
    parameter its effect on each real number of the states of the layers up to its limit."""
    traces = eqx.filter_eval_shape(lambda m: m.init(key=jax.random.key(0)), model)
    depth = len(model.blocks)
    carries = traces[1 : 1 + depth]  # of the blocks; each (norm, recurrent, ...)
    real = lambda tree: sum(leaf.size * (1 + jnp.iscomplexobj(leaf)) for leaf in jax.tree.leaves(tree))
    rows = [real(carry[1].state) for carry in carries]
    total = sum(real(carry[1].trace) for carry in carries)

    def beyond(limit, leaf, first):
        return leaf.size * sum(rows[max(first, 0) : min(limit, depth - 1) + 1])

    parameters, limits = eqx.filter(model, eqx.is_inexact_array), _limits(model, hops)
    first = _limits(model, 1)  # with one hop the limit is the first layer beyond a parameter's own
    return total + sum(jax.tree.leaves(jax.tree.map(beyond, limits, parameters, first)))


def alignment(model: Deep, loss: Callable[[Deep], Any], hops: tuple[int, ...] = (0,)) -> dict[str, dict[str, Any]]:
    """Cosines between the model's own gradient and BPTT's, for the encoder and each block. Blocks are counted from 1;
    `cosine_h` has credit over h more layers."""
    depth = len(model.blocks)
    exact = eqx.filter_grad(lambda m: loss(through_time(m, depth - 1)))(model)
    found: dict[str, dict[str, Any]] = {}
    for h in hops:
        own = hop_gradient(loss, model, h)[1]
        name = "cosine" if h == 0 else f"cosine_{h}"
        found.setdefault("encoder", {})[name] = _cosine(own.encoder, exact.encoder)
        for l in range(depth):
            pair = own.blocks[l].recurrent.cell, exact.blocks[l].recurrent.cell
            found.setdefault(str(l + 1), {})[name] = _cosine(*pair)
    return found


def _cosine(a, b):
    a, b = (jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)]) for tree in (a, b))
    return jnp.sum(a * b) / jnp.maximum(jnp.linalg.norm(a) * jnp.linalg.norm(b), jnp.finfo(a.dtype).tiny)
