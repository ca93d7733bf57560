"""Networks that grow while they learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ..cells._cell import check_sizes
from ._fixed import Fixed
from ._unroll import is_stateful


class Grown(eqx.Module):
    """The carry of `Constructive`: of each stage; the outputs of the earlier stages one step ago, and of the newest
    (which nobody reads until it is an earlier one)."""

    stages: tuple[PyTree, ...]
    earlier: Float[Array, " earlier"]
    newest: Float[Array, " units"]


class Constructive(eqx.Module):
    r"""A network built in stages, of which only the newest learns.

    A stage sees the input and the outputs of all earlier stages *one step ago*, in the forward pass and so in its
    traces; the network's output are the outputs of all stages so far:

        y^s_t = stage_s([x_t, y^1_{t-1}, ..., y^{s-1}_{t-1}])        y_t = [y^1_t, ..., y^S_t]

    Earlier stages are fixed (`sg.nn.Fixed`): no traces, no updates, statistics that stand still. Later ones do not
    exist yet and cost nothing. Nothing that learns feeds anything that carries credit, so the gradient is as exact as
    the newest stage's own: exact for columns under SnAp-1.

    - `stage(in_size, units, key=...)`: makes one, any layer with `units` outputs (a function that lives at module
      level: it is static); `units`: of all stages together, and `per_stage` of each (the last may be smaller);
    - `every`: steps between two stages; None: it grows only when told. `sg.td.TDLambda` and `sg.Learner` have `grow`,
      and the former's `run` grows by itself when the time has come.

    All units in one stage is a columnar network, one unit a stage a constructive one, between them the
    columnar-constructive network (CCN).

    Raises `ValueError` for sizes that are not positive.

    Reference: Javed, Shah, Sutton & White, 2023 (2302.05326).
    """

    stages: tuple[Any, ...]
    stage: Callable = eqx.field(static=True)
    in_size: int = eqx.field(static=True)
    units: int = eqx.field(static=True)
    per_stage: int = eqx.field(static=True)
    every: int | None = eqx.field(static=True)

    def __init__(
        self,
        stage: Callable,
        in_size: int,
        *,
        units: int,
        per_stage: int,
        every: int | None = None,
        key: PRNGKeyArray,
    ):
        check_sizes(in_size=in_size, units=units, per_stage=per_stage, **({} if every is None else {"every": every}))
        self.stage, self.in_size, self.units, self.per_stage, self.every = stage, in_size, units, per_stage, every
        self.stages = (self._stage(0, key),)

    def _stage(self, earlier: int, key) -> Any:
        made = self.stage(self.in_size + earlier, min(self.per_stage, self.units - earlier), key=key)
        if not is_stateful(made):
            raise TypeError(
                f"Constructive: stage(in_size, units, key=...) must make a layer with init(key=...) and (carry, x) -> "
                f"(carry, y), such as sg.Recurrent(cell, algorithm); got {type(made).__name__}."
            )
        return made

    @property
    def out_size(self) -> int:
        """The units that there are."""
        return min(self.per_stage * len(self.stages), self.units)

    @property
    def complete(self) -> bool:
        """Whether all units are there."""
        return self.out_size == self.units

    @property
    def next_growth_step(self) -> int | None:
        """The step before which the next stage is to be added; None when there is none to come, or no schedule."""
        return None if self.complete or self.every is None else self.every * len(self.stages)

    def _before(self) -> int:
        """The units of all stages but the newest."""
        return self.per_stage * (len(self.stages) - 1)

    def init(self, *, key: PRNGKeyArray) -> Grown:
        """The carries of all stages before the first step."""
        keys = jax.random.split(key, len(self.stages))
        stages = tuple(stage.init(key=k) for stage, k in zip(self.stages, keys, strict=True))
        before = self._before()
        like = eqx.filter_eval_shape(self.stages[0], stages[0], jnp.zeros(self.in_size))[1]
        zeros = lambda n: jnp.zeros(n, like.dtype)
        return Grown(stages, zeros(before), zeros(self.out_size - before))

    def __call__(self, carry, x):
        if x.shape != (self.in_size,):
            raise ValueError(f"Constructive expects an input of shape ({self.in_size},), got {x.shape}.")
        stages, outputs = [], []
        for k, (stage, own) in enumerate(zip(self.stages, carry.stages, strict=True)):
            seen = carry.earlier[: self.per_stage * k]
            own, y = stage(own, jnp.concatenate([x.astype(seen.dtype), seen]))
            stages.append(own)
            outputs.append(y)
        old, newest = outputs[:-1], outputs[-1]
        earlier = jax.lax.stop_gradient(jnp.concatenate(old)) if old else carry.earlier
        return Grown(tuple(stages), earlier, jax.lax.stop_gradient(newest)), jnp.concatenate(outputs)

    def grow(self, carry: Grown, *, key: PRNGKeyArray) -> tuple[Constructive, Grown]:
        """The network with one more stage, and its carry: the newest stage so far is fixed, as it is.

        Raises `ValueError` when all units are there."""
        if self.complete:
            raise ValueError(f"Constructive: all {self.units} units are there; there is nothing to grow.")
        key_stage, key_carry = jax.random.split(key)
        new = self._stage(self.out_size, key_stage)
        grown = eqx.tree_at(lambda net: net.stages, self, (*self.stages[:-1], Fixed(self.stages[-1]), new))
        stages = (*carry.stages[:-1], Fixed.carry(carry.stages[-1]), new.init(key=key_carry))
        earlier = jnp.concatenate([carry.earlier, carry.newest])
        newest = jnp.zeros(grown.out_size - self.out_size, earlier.dtype)
        return grown, Grown(stages, earlier, newest)


def next_growth_step(model: Any) -> int | None:
    """The step before which a part of the model is to grow; None when none is."""
    is_growing = lambda node: isinstance(node, Constructive)
    parts = [node for node in jax.tree.leaves(model, is_leaf=is_growing) if is_growing(node)]
    return min((step for part in parts if (step := part.next_growth_step) is not None), default=None)
