"""Recurrent features that are drawn, tried and replaced, instead of learned by a gradient."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

from .._base.dtypes import default_dtype, trace_dtype
from .._base.persistent import Persistent
from ..cells._cell import check_sizes


class Features(Persistent):
    """Features as they are now: what each matches, how fast it forgets, its trace; how old and how useful it is; what
    the readout said of its place before it came."""

    pattern: Float[Array, "units in_size"]
    threshold: Float[Array, " units"]
    decay: Float[Array, " units"]
    trace: Float[Array, " units"]
    age: Int[Array, " units"]
    utility: Float[Array, " units"]
    before: Float[Array, "out_size units"]
    filled: Int[Array, ""]
    steps: Int[Array, ""]
    waiting: Bool[Array, ""]
    key: Key[Array, ""]


class GenerateAndTest(eqx.Module):
    r"""A linear readout of random memories of the input, the least useful of which are replaced again and again.

        z_i = 1 if p_i · x >= θ_i, else 0            a pattern of a few inputs, and what matches it
        h_i ← max(z_i, d_i h_i)                      its trace: how long ago it was seen
        y   = (W - W') h + b                         W' is W as it was when feature i came: a new one begins at 0
        u_i ← (1 - ε) u_i + ε Σ_o |W - W'|_oi h_i    its use

    **Generate**: a new feature imprints `fan_in` inputs of the moment, drawn from those that are not 0, with their
    signs; it matches when the input agrees with all of them as much again. It waits for a moment with so many. Its
    memory 1 / (1 - d) is drawn between 1 and `longest` steps, its logarithm uniform. **Test**: every `every` steps the
    least useful feature among those older than `youth` steps gives way to a new one. Nothing goes back in time: only W
    and b have a gradient, and it is exact.

    - `in_size`, `units` (features), `out_size`; `fan_in`: inputs of a pattern;
    - `longest`: memory in steps; `every`, `youth`: as above; `rate`: ε, of the running mean of use;
    - `init(key=...)`, `(carry, x) -> (carry, y)`, for one stream: features lie in the carry, and a reset keeps them.

    Parameters: `weight` (out, units), `bias` (out,), from 0.

    Reference: Samani & Sutton, Learning agent state online with recurrent generate-and-test, 2021 (2112.15236). The
    traces, imprinting and tests are of that kind; their details are this library's own.
    """

    weight: Float[Array, "out_size units"]
    bias: Float[Array, " out_size"]
    in_size: int = eqx.field(static=True)
    fan_in: int = eqx.field(static=True)
    longest: float = eqx.field(static=True)
    every: int = eqx.field(static=True)
    youth: int = eqx.field(static=True)
    rate: float = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        units: int,
        out_size: int = 1,
        *,
        fan_in: int = 3,
        longest: float = 100.0,
        every: int = 1_000,
        youth: int = 10_000,
        rate: float = 1e-3,
        dtype: Any = None,
    ):
        check_sizes(in_size=in_size, units=units, out_size=out_size, fan_in=fan_in, every=every)
        if fan_in > in_size:
            raise ValueError(f"fan_in={fan_in} is more than the {in_size} inputs.")
        if not longest >= 1 or not 0 < rate <= 1 or youth < 0:
            raise ValueError(
                f"longest must be at least 1, rate in (0, 1] and youth 0 or more, got {longest}, {rate} and {youth}."
            )
        dtype = trace_dtype(default_dtype(dtype))
        self.in_size, self.fan_in, self.longest = in_size, fan_in, float(longest)
        self.every, self.youth, self.rate = every, youth, float(rate)
        self.weight, self.bias = jnp.zeros((out_size, units), dtype), jnp.zeros(out_size, dtype)

    def init(self, *, key: PRNGKeyArray) -> Features:
        """No feature yet: places are filled one after another, as soon as there is something to imprint."""
        units, dtype = self.weight.shape[1], self.weight.dtype
        none = lambda: jnp.zeros(units, dtype)
        return Features(
            jnp.zeros((units, self.in_size), dtype),
            jnp.ones(units, dtype),  # an empty pattern reaches 0 and never matches
            none(),
            none(),
            jnp.zeros(units, jnp.int32),
            none(),
            jnp.zeros_like(self.weight),
            jnp.zeros((), jnp.int32),
            jnp.zeros((), jnp.int32),
            jnp.zeros((), bool),
            key,
        )

    def __call__(self, carry: Features, x: Array) -> tuple[Features, Array]:
        if x.shape != (self.in_size,):
            raise ValueError(f"GenerateAndTest expects an input of shape ({self.in_size},), got {x.shape}.")
        x, weight = x.astype(self.weight.dtype), jax.lax.stop_gradient(self.weight)
        carry = self._replaced(carry, x, weight)
        matched = carry.pattern @ x >= carry.threshold
        trace = jnp.maximum(matched.astype(x.dtype), carry.decay * carry.trace)
        use = jnp.sum(jnp.abs(weight - carry.before), 0) * trace
        utility = carry.utility + self.rate * (use - carry.utility)
        carry = eqx.tree_at(
            lambda c: (c.trace, c.utility, c.age), carry, (trace, utility, jnp.minimum(carry.age + 1, 2**30))
        )
        carry = jax.lax.stop_gradient(carry)
        return carry, (self.weight - carry.before) @ carry.trace + self.bias

    def _replaced(self, carry: Features, x: Array, weight: Array) -> Features:
        """The features, the least useful of the old ones drawn anew where it is time."""
        units = weight.shape[1]
        filling, old = carry.filled < units, carry.age >= self.youth
        steps = (carry.steps + 1) % self.every
        waiting = carry.waiting | (steps == 0)
        due = (filling | (waiting & old.any())) & (jnp.sum(x != 0) >= self.fan_in)
        worst = jnp.argmin(jnp.where(old, carry.utility, jnp.inf)).astype(jnp.int32)
        here = due & (jnp.arange(units, dtype=jnp.int32) == jnp.where(filling, carry.filled, worst))
        key, key_pattern, key_decay = jax.random.split(carry.key, 3)
        pattern = self._imprinted(x, key_pattern)
        memory = jnp.exp(jax.random.uniform(key_decay, (), x.dtype, 0.0, math.log(self.longest)))
        choose = lambda new, old: jnp.where(here, new, old)
        return Features(
            jnp.where(here[:, None], pattern, carry.pattern),
            choose(0.999 * (pattern @ x), carry.threshold),
            choose(1 - 1 / memory, carry.decay),
            choose(0.0, carry.trace),
            choose(0, carry.age),
            choose(jnp.median(carry.utility), carry.utility),
            choose(weight, carry.before),
            carry.filled + (due & filling).astype(jnp.int32),
            steps,
            waiting & ~due,
            jnp.where(due, key, carry.key),
        )

    def _imprinted(self, x: Array, key: Key[Array, ""]) -> Array:
        """The signs of `fan_in` inputs, drawn from those that are not 0."""
        drawn = jnp.where(x != 0, jax.random.uniform(key, x.shape, x.dtype), -1)
        chosen = jnp.zeros(x.shape, bool).at[jax.lax.top_k(drawn, self.fan_in)[1]].set(True)
        return jnp.where(chosen, jnp.sign(x), 0)
