r"""Who influences whom: the structural pattern of a recurrence, and when a sparse influence is exact.

With $D_t = \partial s_t / \partial s_{t-1}$ and $I_t = \partial s_t / \partial\theta$ (immediate), the
influence $J_t = I_t + D_t J_{t-1}$ can be non-zero only where a parameter *reaches*:

$$M_n = \bigvee_{k<n} A^k\, T,$$

with $A$ the pattern of $D$ between units and $T$ the pattern of $I$. SnAp-n keeps $M_n$; it is exact
real-time recurrent learning iff $M_{n+1} = M_n$ (the pattern is *closed*).
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from ._base.static import Static


@dataclasses.dataclass(frozen=True)
class Structure:
    """The pattern of a recurrence over *units*; parameters come in *groups* that touch the same units.

    Everything here is static and hashable.

    - `entry_unit`: int (rows,), the unit that each entry of the flat state belongs to.
    - `reads`: bool-like COO indices (2, edges), `reads[:, e] = (i, j)`: the new state of unit i depends on
      the old state of unit j; or `None` when every unit reads every other. A unit always reads itself.
    - `touches`: COO indices (2, pairs), `(i, g)`: a parameter of group g enters unit i within the step;
      `None`: group g touches unit g alone, the usual bank of units.
    - `group_sizes`: int (groups,), parameters in each group.
    """

    entry_unit: Static
    reads: Static | None
    touches: Static | None
    group_sizes: Static

    @property
    def units(self) -> int:
        return int(self.entry_unit.value.max()) + 1

    @property
    def groups(self) -> int:
        return len(self.group_sizes.value)

    @property
    def rows(self) -> int:
        """Entries of the state, a complex entry counted once."""
        return len(self.entry_unit.value)

    @property
    def parameters(self) -> int:
        return int(self.group_sizes.value.sum())

    def reads_matrix(self) -> np.ndarray:
        """A: bool (units, units), whether the new state of a unit depends on the old state of another."""
        if self.reads is None:
            return np.ones((self.units, self.units), bool)
        matrix = np.eye(self.units, dtype=bool)
        matrix[tuple(self.reads.value)] = True
        return matrix

    def reach(self, n: int) -> np.ndarray:
        """`M_n` between units and groups: bool (units, groups)."""
        return _reach(self, n)

    def closed(self, n: int) -> bool:
        """Whether `M_{n+1} = M_n`: then SnAp-n is exact RTRL."""
        return bool(np.array_equal(_reach(self, n + 1), _reach(self, n)))

    def horizon(self) -> int:
        """The smallest n at which the pattern is closed."""
        n = 1
        while not self.closed(n):
            n += 1
        return n

    def kept(self, n: int) -> int:
        """Entries of J inside `M_n`: a reached unit keeps all its state entries."""
        per_unit = np.bincount(self.entry_unit.value, minlength=self.units)
        return int(per_unit @ self.reach(n) @ self.group_sizes.value)

    def density(self, n: int) -> float:
        """`kept(n)` as a share of the full J, rows x parameters."""
        return self.kept(n) / (self.rows * self.parameters)

    def products(self, n: int) -> int:
        """Multiply-adds of `M_n ∘ (D J)`: for every kept entry of J, the non-zeros of D that feed it."""
        per_unit = np.bincount(self.entry_unit.value, minlength=self.units)
        kept, reads = self.reach(n), self.reads
        entries = round(per_unit.mean())
        own = (per_unit**2) @ kept @ self.group_sizes.value
        if reads is None:
            fed = np.broadcast_to(kept.sum(0), kept.shape)  # every kept unit of the group feeds every other
            fed = fed - kept
        else:
            i, j = reads.value[:, reads.value[0] != reads.value[1]]
            fed = _read(i, j, self.units, kept)
        return int(own + entries * ((fed * kept).sum(0) @ self.group_sizes.value))

    def slopes(self) -> int:
        """The non-zeros of D: each entry of a unit by those of the unit, and by what it reads of each other one."""
        per_unit = np.bincount(self.entry_unit.value, minlength=self.units)
        reads = self.reads_matrix() & ~np.eye(self.units, dtype=bool)
        return int((per_unit**2).sum() + per_unit @ reads.sum(1))

    def diagonal(self) -> bool:
        """Whether no unit reads another one (cheap, and implies `closed(1)`)."""
        if self.touches is not None or self.reads is None:
            return self.units == 1
        rows, columns = self.reads.value
        return bool(np.all(rows == columns))


@functools.lru_cache(maxsize=256)
def _reach(structure: Structure, n: int) -> np.ndarray:
    if n < 1:
        raise ValueError(f"reach(n) needs n >= 1, got n = {n}.")
    units, groups = structure.units, structure.groups
    if n == 1:
        touches = np.zeros((units, groups), bool)
        if structure.touches is None:
            np.fill_diagonal(touches, True)
        else:
            touches[tuple(structure.touches.value)] = True
        return touches
    before = _reach(structure, n - 1)
    if structure.reads is None:
        return np.broadcast_to(before.any(0), before.shape) | before
    i, j = structure.reads.value
    return before | (_read(i, j, units, before) > 0)


def _read(i: np.ndarray, j: np.ndarray, units: int, kept: np.ndarray) -> np.ndarray:
    """The kept groups of all units that a unit reads, counted: unit i reads unit j."""
    from scipy.sparse import csr_matrix  # slow to import, and nets of independent columns do without

    return np.asarray(csr_matrix((np.ones(len(i), np.float32), (i, j)), (units, units)) @ kept.astype(np.float32))
