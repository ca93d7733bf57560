"""Wiring: which sources each unit listens to.

A wiring is drawn on the host once and is static. `connect` turns it into *links*, the one place that knows
how weights of shape (fan_in, gates, units) meet a source vector. Units are the innermost axis, so that the
hot loops run over units and per-unit coefficients broadcast.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Inexact

from ._base.static import Static

Weights = Inexact[Array, "fan_in gates units"]


class Links(abc.ABC):
    """Weighted links from `sources` values to `gates` drives of each of `units` units."""

    sources: int
    units: int
    gates: int

    @property
    @abc.abstractmethod
    def fan_in(self) -> int:
        """Links per gate and unit."""

    @abc.abstractmethod
    def drive(self, weights: Weights, source: Inexact[Array, " sources"]) -> Inexact[Array, "gates units"]:
        """`drive[g, i] = sum_k weights[k, g, i] * source[index[k, g, i]]`."""

    @abc.abstractmethod
    def inputs(self, source: Inexact[Array, " sources"]) -> Inexact[Array, "fan_in g u"]:
        """What each weight multiplies, broadcastable to (fan_in, gates, units)."""

    @abc.abstractmethod
    def index(self) -> np.ndarray:
        """The source of each weight: int, broadcastable to (fan_in, gates, units)."""

    @abc.abstractmethod
    def own(self, weights: Weights) -> Inexact[Array, "gates units"] | None:
        """The weight from a unit to itself, 0 where there is none; None when no unit has one."""

    def edges(self) -> np.ndarray | None:
        """COO pairs (unit, source), unique; None when every unit hears every source."""
        index = np.broadcast_to(self.index(), (self.fan_in, self.gates, self.units))
        units = np.broadcast_to(np.arange(self.units), index.shape)
        flat = np.unique(units.ravel().astype(np.int64) * (self.sources + 1) + index.ravel())
        return np.stack([flat // (self.sources + 1), flat % (self.sources + 1)])


@dataclasses.dataclass(frozen=True)
class DenseLinks(Links):
    sources: int
    units: int
    gates: int

    @property
    def fan_in(self):
        return self.sources

    def drive(self, weights, source):
        matrix = weights.reshape(self.sources, -1)
        if jnp.iscomplexobj(matrix) and not jnp.iscomplexobj(source):
            # Half the work of a complex product, and XLA's complex products are slow.
            drive = jax.lax.complex(source @ matrix.real, source @ matrix.imag)
        else:
            drive = source @ matrix
        return drive.reshape(self.gates, self.units)

    def inputs(self, source):
        return source[:, None, None]

    def index(self):
        return np.arange(self.sources)[:, None, None]

    def own(self, weights):
        each = np.arange(self.units)
        return weights[each, :, each].T

    def edges(self):
        return None


@dataclasses.dataclass(frozen=True)
class BiasLinks(Links):
    """One weight per gate and unit on the constant 1: biases, and any other per-unit parameter."""

    units: int
    gates: int
    sources: int = 1

    @property
    def fan_in(self):
        return 1

    def drive(self, weights, source):
        return weights[0]

    def inputs(self, source):
        return source[:, None, None]

    def index(self):
        return np.zeros((1, 1, 1), int)

    def own(self, weights):
        return None


@dataclasses.dataclass(frozen=True)
class ColumnLinks(Links):
    """Each unit hears itself alone."""

    units: int
    gates: int

    @property
    def sources(self):
        return self.units

    @property
    def fan_in(self):
        return 1

    def drive(self, weights, source):
        return weights[0] * source[None]

    def inputs(self, source):
        return source[None, None, :]

    def index(self):
        return np.arange(self.units)[None, None, :]

    def own(self, weights):
        return weights[0]


@dataclasses.dataclass(frozen=True)
class BlockLinks(Links):
    """Units in consecutive blocks; a unit hears every unit of its block."""

    units: int
    gates: int
    size: int

    @property
    def sources(self):
        return self.units

    @property
    def fan_in(self):
        return self.size

    def drive(self, weights, source):
        blocks = weights.reshape(self.size, self.gates, -1, self.size)
        return jnp.einsum("kgbi,bk->gbi", blocks, source.reshape(-1, self.size)).reshape(self.gates, self.units)

    def inputs(self, source):
        return jnp.repeat(source.reshape(-1, self.size).T, self.size, axis=1)[:, None, :]

    def index(self):
        each = np.arange(self.units)
        return (each // self.size * self.size)[None, None, :] + np.arange(self.size)[:, None, None]

    def own(self, weights):
        each = np.arange(self.units)
        return weights[each % self.size, :, each].T


@dataclasses.dataclass(frozen=True)
class IndexedLinks(Links):
    """Links by a static index (fan_in, gates or 1, units); `sources` stands for no link."""

    sources: int
    units: int
    gates: int
    indices: Static

    @property
    def fan_in(self):
        return self.indices.value.shape[0]

    def drive(self, weights, source):
        # As a matrix: XLA's reduction over the first of three axes is many times slower.
        terms = (weights * self.inputs(source)).reshape(self.fan_in, -1)
        return jnp.sum(terms, axis=0).reshape(self.gates, self.units)

    def inputs(self, source):
        if (self.indices.value == self.sources).any():
            source = jnp.concatenate([source, jnp.zeros(1, source.dtype)])
        return source[self.indices.value]

    def index(self):
        return self.indices.value

    def edges(self):
        pairs = super().edges()
        assert pairs is not None
        return pairs[:, pairs[1] < self.sources]

    def own(self, weights):
        itself = self.indices.value == np.arange(self.units)
        if not itself.any():
            return None
        itself = np.broadcast_to(itself, weights.shape)
        where = jnp.asarray(itself.argmax(0))[None]
        return jnp.where(itself.any(0), jnp.take_along_axis(weights, where, axis=0)[0], 0)


class Wiring(abc.ABC):
    """A rule for the sources of each unit."""

    @abc.abstractmethod
    def connect(self, sources: int, units: int, gates: int) -> Links:
        """The links from `sources` values to `gates` drives of each of `units` units."""


@dataclasses.dataclass(frozen=True)
class Dense(Wiring):
    """Every unit hears every source."""

    def connect(self, sources: int, units: int, gates: int) -> Links:
        return DenseLinks(sources, units, gates)


@dataclasses.dataclass(frozen=True)
class Sparse(Wiring):
    """Every unit hears `fan_in` sources drawn uniformly at random without repetition, fixed for ever.

    Give `fan_in`, or `density` (then `fan_in = max(1, round(density * sources))`: every unit has the same
    number of links, so that weights are a rectangle of values without padding or masks).

    - `seed`: of the drawing; equal seeds and sizes give equal wirings (an input and a recurrent wiring of the
      same size want different seeds).
    - `counts`: `"equal"`, every unit has as many links; `"drawn"`, each link is there with probability `density`, by
      itself, and units differ in how many they have (padded to the most: a padding weight does nothing).
    - `gates`: `"own"`, each gate has a pattern of its own, or `"shared"`, all gates of a unit share one
      (a sparser influence: a GRU at 75% sparsity keeps 25% of J under SnAp-2 instead of 58%).

    Raises `ValueError` when neither or both of `fan_in` and `density` are given or they are out of range.
    """

    fan_in: int | None = None
    density: float | None = None
    seed: int = 0
    gates: Literal["own", "shared"] = "own"
    counts: Literal["equal", "drawn"] = "equal"

    def __post_init__(self):
        if (self.fan_in is None) == (self.density is None):
            raise ValueError(
                f"Sparse wiring takes either fan_in or density, got fan_in={self.fan_in} and "
                f"density={self.density}: give exactly one of them."
            )
        if self.fan_in is not None and (not isinstance(self.fan_in, int) or self.fan_in < 1):
            raise ValueError(f"Sparse(fan_in=...) must be an integer, at least 1, got {self.fan_in}.")
        if not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(f"Sparse(seed=...) must be an integer, at least 0, got {self.seed}.")
        if self.density is not None and not 0 < self.density <= 1:
            raise ValueError(f"Sparse(density=...) must lie in (0, 1], got {self.density}.")
        if self.gates not in ("own", "shared"):
            raise ValueError(f"Sparse(gates=...) is 'own' or 'shared', got {self.gates!r}.")
        if self.counts not in ("equal", "drawn") or (self.counts == "drawn" and self.density is None):
            raise ValueError(f"Sparse(counts=...) is 'equal', or 'drawn' with a density, got {self.counts!r}.")

    @functools.lru_cache(maxsize=64)  # noqa: B019 - frozen and hashable; drawing a large wiring takes time
    def connect(self, sources: int, units: int, gates: int) -> Links:
        fan_in = max(1, round(self.density * sources)) if self.density is not None else self.fan_in
        assert fan_in is not None
        if fan_in > sources:
            raise ValueError(
                f"Sparse(fan_in={fan_in}) asks for more links than the {sources} sources there are: "
                f"lower fan_in to at most {sources}, or use Dense()."
            )
        rng = np.random.default_rng([self.seed, sources, units])
        patterns = gates if self.gates == "own" else 1
        chance = rng.random((patterns, units, sources))
        if self.counts == "drawn":
            assert self.density is not None
            kept = chance < self.density
            fan_in = max(1, kept.sum(-1).max())
            # Those that are there first, in order; the rest is padding, one past the last source.
            order = np.argsort(~kept, axis=-1, kind="stable")[..., :fan_in]
            index = np.where(np.take_along_axis(kept, order, -1), order, sources).transpose(2, 0, 1)
        else:
            order = chance.argpartition(fan_in - 1, axis=-1)[..., :fan_in]
            index = np.sort(order, axis=-1).transpose(2, 0, 1)
        return IndexedLinks(sources, units, gates, Static(index.astype(np.int32)))


@dataclasses.dataclass(frozen=True)
class Blocks(Wiring):
    """Units in consecutive blocks of `size`, dense within a block and unconnected across blocks.

    Recurrent wiring only. Raises `ValueError` when `size` does not divide the number of units.
    """

    size: int

    def connect(self, sources: int, units: int, gates: int) -> Links:
        if sources != units:
            raise ValueError(
                f"Blocks wires units to units, got {sources} sources for {units} units: "
                "use Dense() or Sparse() for the input."
            )
        if self.size < 1 or units % self.size:
            raise ValueError(f"Blocks(size={self.size}) must divide the number of units, got {units} units.")
        return BlockLinks(units, gates, self.size)


@dataclasses.dataclass(frozen=True)
class Columns(Wiring):
    """Every unit hears itself alone: independent columns, for which SnAp-1 is exact.

    Recurrent wiring only.
    """

    def connect(self, sources: int, units: int, gates: int) -> Links:
        if sources != units:
            raise ValueError(
                f"Columns wires each unit to itself, got {sources} sources for {units} units: "
                "use Dense() or Sparse() for the input."
            )
        return ColumnLinks(units, gates)
