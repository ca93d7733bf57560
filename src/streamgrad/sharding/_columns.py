"""One learner on several devices: each keeps some columns of the influence."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec as P

from ..cells import Bank
from ..influence import DenseRows, GatheredRows, Layout, per_unit, unpack
from ..recurrent import Recurrent
from ..train import Learner
from ._mesh import AXIS, row


@dataclasses.dataclass(frozen=True)
class Columns(Layout[Bank]):
    """The influence of another layout, each unit's parameters spread over devices.

    J's rows depend on each other through D, its columns never: with D on every device, D J needs no word between them.
    Only the gradient, as large as the weights, is gathered. The last axis of J is padded to a multiple of the devices.
    """

    inner: DenseRows | GatheredRows
    mesh: Mesh

    def _each(self, function, arguments, out):
        """A function of each device's own columns. All else comes and goes whole: so nothing beside J is ever in
        parts, and the compiler has no cause to divide more."""
        spread = lambda axes: P(*[None] * (axes - 1), AXIS) if axes else P()
        specs = tuple(map(spread, arguments))
        return jax.shard_map(function, mesh=self.mesh, in_specs=specs, out_specs=spread(out), check_vma=False)

    def _padded(self, array):
        extra = -array.shape[-1] % self.mesh.size
        return jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, extra)])

    def init(self, core):
        trace = eqx.filter_eval_shape(self.inner.init, core)
        own = (*trace.shape[:-1], -(-trace.shape[-1] // self.mesh.size))
        return self._each(lambda: jnp.zeros(own, trace.dtype), (), trace.ndim)()

    def advance(self, core, trace, state, x):
        state, d, own = self.inner.factors(core, state, x, trace.dtype)

        def move(trace, d, own):
            width = trace.shape[-1]
            mine = jax.lax.dynamic_slice_in_dim(own, jax.lax.axis_index(AXIS) * width, width, axis=own.ndim - 1)
            return self.inner.moved(core, trace, d, mine)

        return state, self._each(move, (trace.ndim, 0, 0), trace.ndim)(trace, d, self._padded(own))

    def pullback(self, core, trace, cotangent):
        def pull(trace, cotangent):
            return jax.lax.all_gather(self.inner.pulled(core, trace, cotangent), AXIS, axis=1, tiled=True)

        gradient = self._each(pull, (trace.ndim, 0), 0)(trace, cotangent)
        return unpack(core, gradient[:, : per_unit(core)])

    def whole(self, core, n):
        return self.inner.whole(core, n)

    def flops(self, core):
        return self.inner.flops(core)

    def describe(self):
        return f"{self.inner.describe()}, columns over {self.mesh.size} devices"


def columns(learner: Learner, mesh: Mesh) -> Learner:
    """The learner with the influence of its layers spread over the devices of a mesh, by columns.

        learner = sg.sharding.columns(learner, jax.make_mesh((4,), ("devices",)))
        st      = learner.init(key=key)        # J in parts, all else on every device

    For `sg.RTRL()` and `sg.SnAp(n)`, n >= 2, of cells made of drives: J takes 1/K of its bytes on each of K devices,
    and so does the time of D J. Each unit's parameters are dealt to the devices. A step gathers the gradient, once a
    layer, and nothing else. Layers whose influence is no larger than their weights stay as they are.

    Raises `TypeError` for a learner without such a layer, or for what is no mesh.
    """
    if not isinstance(learner, Learner):
        raise TypeError(f"sharding.columns expects a sg.Learner, got {type(learner).__name__}.")
    mesh, found = row(mesh), []
    is_layer = lambda node: isinstance(node, Recurrent)

    def split(node: Any) -> Any:
        layout = getattr(node.algorithm, "layout", None) if is_layer(node) else None
        if not isinstance(layout, DenseRows | GatheredRows):
            if is_layer(node):
                found.append(type(node.algorithm).__name__)
            return node
        split_up = dataclasses.replace(node.algorithm, layout=Columns(layout, mesh))
        return eqx.tree_at(lambda layer: layer.algorithm, node, split_up, is_leaf=lambda leaf: leaf is None)

    model = jax.tree.map(split, learner.template, is_leaf=is_layer)
    layers = [node for node in jax.tree.leaves(model, is_leaf=is_layer) if is_layer(node)]
    if len(found) == len(layers):
        raise TypeError(
            f"sharding.columns found no influence to split: this model's layers keep {', '.join(found) or 'none'}, "
            "no larger than their weights. It is for sg.RTRL() and sg.SnAp(n), n >= 2, of cells whose units see each "
            "other."
        )
    return learner.of(model)
