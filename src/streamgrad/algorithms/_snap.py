"""SnAp-n: the sparse n-step approximation to real-time recurrent learning."""

from __future__ import annotations

import equinox as eqx

from ._structured import Structured


class SnAp(Structured):
    r"""Sparse n-step approximation: keep the entries of J that a parameter reaches within n steps.

    $$J_t = M_n \circ (I_t + D_t J_{t-1}), \qquad M_n = \bigvee_{k<n} A^k\, \mathrm{pattern}(I), \qquad
      g_t = \frac{\partial L_t}{\partial s_t} J_t$$

    The pattern is structural, never taken from values. The gradient is exact when $M_{n+1} = M_n$: for
    diagonal cells and columns at n = 1, for dense cells at n = 2. SnAp-1 keeps each parameter's effect on its
    own unit, at the cost of a few passes over the weights; a reached unit keeps all its state entries.

    - `n`: how many steps, at least 1.

    Raises `ValueError` for n < 1 and, when bound, `TypeError` for a core that cannot be linearised.

    Reference: Menick et al., A practical sparse approximation for real time recurrent learning, 2020
    (2006.07232).
    """

    n: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        if isinstance(self.n, bool) or not isinstance(self.n, int) or self.n < 1:
            raise ValueError(f"SnAp(n) needs an integer n >= 1, got {self.n!r}: SnAp(1) is the cheapest.")

    @property
    def order(self):
        return self.n

    def traits(self, core):
        return self._traits(core, "Menick et al. 2020, arXiv 2006.07232")
