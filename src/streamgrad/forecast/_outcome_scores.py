"""How good probabilities were: running log loss of several forecasters on the same rows, and what people ask beside it.

The log loss of a row is -log of the probability that was given to what came, in nats; of a count that of the Poisson
distribution with the expected count as its mean. Beside it stand, as means over the rows scored:

- accuracy, of classes: how often the most probable one came;
- Brier score, of events: (p - y)²;
- MAE, of counts: |expected count - count|.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from ._scores import Named, Sums

SECOND = {"event": ("brier", "Brier score"), "count": ("mae", "MAE"), "class": ("accuracy", "accuracy")}
SMALLEST = 1e-300  # a probability: what a float holds, so that a log loss is finite


class OutcomeScores(Sums):
    """Log losses of some methods, and their second measure."""

    def __init__(self, methods: Sequence[str]):
        super().__init__(methods, 1 + 2 * len(methods))

    def __call__(self, losses: Float[np.ndarray, "n methods"], second: Float[np.ndarray, "n methods"]) -> None:
        """Score the rows on which all methods have a loss."""
        scored = np.isfinite(losses).all(axis=1)
        if scored.any():
            losses, second = losses[scored], second[scored]
            self.add(np.concatenate([np.ones((len(losses), 1)), losses, second], axis=1))

    def log_loss(self, part: str = "all") -> Named:
        """Mean log loss in nats, per method; `part` as in `Scores`."""
        sums, m = self._sums(part), len(self.methods)
        return self._named(sums[1 : 1 + m] / max(sums[0], 1), sums[0])

    def second(self, part: str = "all") -> Named:
        """Mean of the second measure, per method."""
        sums, m = self._sums(part), len(self.methods)
        return self._named(sums[1 + m :] / max(sums[0], 1), sums[0])


def poisson_loss(count: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """-log of the Poisson probability of counts."""
    from scipy import special  # slow to import, and only counts need it

    return rate - special.xlogy(count, rate) + special.gammaln(count + 1)


def rarity(code: np.ndarray, probabilities: Float[np.ndarray, "n classes"]) -> np.ndarray:
    """-log₁₀ of the probability of this class or of one at most as probable."""
    out = np.full(len(code), np.nan)
    for t in np.flatnonzero(np.isfinite(code) & np.isfinite(probabilities).any(axis=1)):
        p = np.nan_to_num(probabilities[t])
        out[t] = -np.log10(max(p[p <= p[int(code[t])] * (1 + 1e-9)].sum(), SMALLEST))
    return np.maximum(out, 0.0) + 0.0


def count_rarity(count: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """-log₁₀ of the Poisson probability of this count or of one at most as probable."""
    from scipy import special

    out = np.full(len(count), np.nan)
    for t in np.flatnonzero(np.isfinite(count) & np.isfinite(rate)):
        lower, upper = sorted((float(count[t]), _opposite(float(count[t]), float(rate[t]))))
        below = special.pdtr(lower, rate[t]) if lower >= 0 else 0.0
        above = special.pdtrc(upper - 1, rate[t]) if upper >= 1 else 1.0
        tails = below + above
        out[t] = -np.log10(min(max(float(tails), SMALLEST), 1.0))
    return out + 0.0


def _opposite(count: float, mean: float) -> float:
    """The nearest count on the other side of the mode that is no more probable; -1: there is none."""
    mode = math.floor(mean)
    loss = lambda k: mean - (k * math.log(mean) if k else 0.0) + math.lgamma(k + 1)
    most = loss(count) - 1e-9
    # `rare` is no more probable (or -1), `common` is more so; half of what lies between them goes with each step.
    rare, common = (-1.0, mode) if count > mode else (2 * mode + 40 * math.sqrt(mean + 1) + count, mode)
    rare = math.ceil(rare)
    while abs(rare - common) > 1:
        middle = (rare + common) // 2
        rare, common = (middle, common) if loss(middle) >= most else (rare, middle)
    return float(rare)
