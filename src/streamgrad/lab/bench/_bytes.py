"""What traces cost in bytes: counted from a model's own arrays, never from formulas."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax

from ... import inference
from ...algorithms import Carry


def _nbytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def carries(model: Any, streams: int | None = None) -> Any:
    """The model's carry, with a leading axis of streams if there are any."""
    key = jax.random.key(0)
    if streams is None:
        return model.init(key=key)
    return jax.vmap(lambda k: model.init(key=k))(jax.random.split(key, streams))


def _recurrent(carry: Any) -> list[Carry]:
    is_carry = lambda node: isinstance(node, Carry)
    return [node for node in jax.tree.leaves(carry, is_leaf=is_carry) if is_carry(node)]


def allocated(model: Any, streams: int | None = None) -> int:
    """Bytes of the parameters, which streams share, and of all carried arrays."""
    return _nbytes(eqx.filter(model, eqx.is_array)) + _nbytes(eqx.filter_eval_shape(carries, model, streams))


def traffic(model: Any, streams: int | None = None) -> int:
    """What a step cannot avoid to move: every parameter read once for all streams, the recurrent layers' states and
    traces read and written. Inputs, outputs and temporaries are not counted."""
    layers = _recurrent(eqx.filter_eval_shape(carries, model, streams))
    return _nbytes(eqx.filter(model, eqx.is_array)) + 2 * _nbytes(layers)


def counts(model: Any, streams: int | None = None) -> dict[str, Any]:
    """Bytes of a model for serving (`sg.inference`) and of the same with its traces, and how many complex numbers
    the traces of one stream are."""

    def both(count):
        alone, traced = count(inference(model), streams), count(model, streams)
        return {"inference": alone, "inference + traces": traced, "ratio": traced / alone}

    traces = [layer.trace for layer in _recurrent(eqx.filter_eval_shape(carries, model))]
    numbers = sum(leaf.size for leaf in jax.tree.leaves(traces) if leaf.dtype.kind == "c")
    return {
        "allocated_bytes": both(allocated),
        "traffic_bytes_a_step": both(traffic),
        "complex_trace_numbers_a_stream": numbers,
    }
