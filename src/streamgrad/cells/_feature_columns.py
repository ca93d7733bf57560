"""Columns with private features and sparse links."""

from __future__ import annotations

import dataclasses
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._base.dtypes import default_dtype
from .._base.static import Static
from ..structure import Structure
from ..wiring import Columns, Wiring
from ._cell import Cell, cast_input, check_sizes
from ._function_core import FunctionCore, Seeing


class FeatureColumns(Cell):
    r"""Columns, each with a feature network of its own and one number of state, that see others through sparse links.

        φ_k = relu(W2_k relu(W1_k x + b1_k) + b2_k)                    private features, anew at every step
        z   = [φ_1, ..., φ_n, h_1, ..., h_n]                           h of the step before
        i_k = tanh(⟨w^i_k, z⟩ + b^i_k)        f_k = σ(⟨w^f_k, z⟩ + b^f_k)
        h_k ← f_k h_k + i_k

    Column k always hears its own features; of the rest of z it hears what `wiring` draws, for each gate by itself.
    Without links (`Columns()`) columns are independent and SnAp-1 is exact; with links SnAp-1 holds what a column sees
    of the others fixed, within the step too: O(parameters), biased.

    - `features`: m, in each layer of a feature network; `wiring`: `Columns()`, `Sparse(...)` over the m (n-1) features
      and n states that could be linked (`Sparse(density=s m / (m (n-1) + n), counts="drawn")` for s m links each on
      average), or `Dense()`;
    - `memory`: `"gated"` as above, `"integrator"` h + i, `"none"` i.

    Parameters, units last: `first` (in, m, n), `first_bias` (m, n), `second` (m, m, n), `second_bias` (m, n), `own`
    (m, 2, n) and `links` (fan_in, 2, n) of the gates i and f, `bias` (2, n). State and output: h, (n,).

    Reference: Javed, White & Sutton, 2021 (2103.05787).
    """

    first: Float[Array, "in_size features units"]
    first_bias: Float[Array, "features units"]
    second: Float[Array, "features features units"]
    second_bias: Float[Array, "features units"]
    own: Float[Array, "features 2 units"]
    links: Float[Array, "fan_in 2 units"]
    bias: Float[Array, "2 units"]
    in_size: int = eqx.field(static=True)
    units: int = eqx.field(static=True)
    memory: str = eqx.field(static=True)
    index: Static = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        units: int,
        *,
        key: PRNGKeyArray,
        features: int = 5,
        wiring: Wiring | None = None,
        memory: Literal["gated", "integrator", "none"] = "gated",
        dtype=None,
    ):
        check_sizes(in_size=in_size, units=units, features=features)
        if memory not in ("gated", "integrator", "none"):
            raise ValueError(f"memory is 'gated', 'integrator' or 'none', got {memory!r}.")
        dtype = default_dtype(dtype)
        self.in_size, self.units, self.memory = in_size, units, memory
        self.index = Static(_index(wiring or Columns(), units, features))
        bound = lambda key, *shape, fan: jax.random.uniform(key, shape, dtype, -((3 / fan) ** 0.5), (3 / fan) ** 0.5)
        keys = jax.random.split(key, 4)
        links = self.index.value.shape[0]
        self.first = bound(keys[0], in_size, features, units, fan=in_size)
        self.first_bias = jnp.zeros((features, units), dtype)
        self.second = bound(keys[1], features, features, units, fan=features)
        self.second_bias = jnp.zeros((features, units), dtype)
        self.own = bound(keys[2], features, 2, units, fan=features + links)
        self.links = bound(keys[3], links, 2, units, fan=features + links)
        self.bias = jnp.zeros((2, units), dtype)

    def core(self):
        step = Seeing(_Column(self.index, self.memory), _features_and_states)
        theta = {name: getattr(self, name) for name in _NAMES}
        sizes = sum(leaf.size // self.units for leaf in theta.values())
        structure = _structure(self.index, self.units, self.own.shape[0], sizes)
        group = np.concatenate(
            [np.broadcast_to(np.arange(self.units), theta[name].shape).ravel() for name in sorted(theta)]
        )
        return FunctionCore(theta, step, structure, Static(group))

    def init_state(self):
        return jnp.zeros(self.units, self.bias.dtype)

    def output(self, state, x):
        return state


_NAMES = ("first", "first_bias", "second", "second_bias", "own", "links", "bias")


def _features(theta, x):
    hidden = jax.nn.relu(jnp.einsum("x,xmn->mn", x, theta["first"]) + theta["first_bias"])
    return jax.nn.relu(jnp.einsum("an,amn->mn", hidden, theta["second"]) + theta["second_bias"])


def _features_and_states(theta, state, x):
    return _features(theta, cast_input(x, state.dtype)), state


@dataclasses.dataclass(frozen=True)
class _Column:
    """The step of all columns, each on its own features and state and on what it sees of the others."""

    index: Static
    memory: str

    def __call__(self, theta, state, x, seen):
        features, states = seen
        own = _features(theta, cast_input(x, state.dtype))
        units = state.shape[0]
        source = jnp.concatenate([features.T.ravel(), states, jnp.zeros(1, state.dtype)])
        heard = source[self.index.value]
        # A link to the column's own state is no link to another.
        itself = self.index.value == features.size + np.arange(units)
        heard = jnp.where(itself, state, heard)
        drive = jnp.sum(theta["own"] * own[:, None], 0) + jnp.sum(theta["links"] * heard, 0) + theta["bias"]
        new = jnp.tanh(drive[0])
        if self.memory == "none":
            return new
        return new + (state if self.memory == "integrator" else jax.nn.sigmoid(drive[1]) * state)


def _index(wiring: Wiring, units: int, features: int) -> np.ndarray:
    """What each link hears in z = [features, column after column; states; 0]: (fan_in, 2, units)."""
    others = features * (units - 1)
    nothing = features * units + units
    if isinstance(wiring, Columns):
        return np.full((1, 2, units), nothing)
    links = wiring.connect(others + units, units, 2)
    drawn = np.broadcast_to(links.index(), (links.fan_in, 2, units))
    # Among the features of the other columns, those of the column itself are left out.
    feature = drawn + np.where(drawn >= features * np.arange(units), features, 0)
    index = np.where(drawn < others, feature, drawn - others + features * units)
    return np.where(drawn == others + units, nothing, index)


def _structure(index: Static, units: int, features: int, parameters: int) -> Structure:
    unit = np.broadcast_to(np.arange(units), index.value.shape)
    reads, touches = np.eye(units, dtype=bool), np.eye(units, dtype=bool)
    to_feature = index.value < features * units
    to_state = ~to_feature & (index.value < features * units + units)
    touches[unit[to_feature], index.value[to_feature] // features] = True
    reads[unit[to_state], index.value[to_state] - features * units] = True
    diagonal = np.array_equal(touches, np.eye(units, dtype=bool))
    return Structure(
        entry_unit=Static(np.arange(units)),
        reads=Static(np.stack(np.nonzero(reads))),
        touches=None if diagonal else Static(np.stack(np.nonzero(touches))),
        group_sizes=Static(np.full(units, parameters)),
    )
