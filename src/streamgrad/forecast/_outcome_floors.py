"""Forecasts of outcomes that need no learning: what every other forecast has to beat.

Of k classes, with n_c the times that class c came, n_ic those in which it came `horizon` rows after class i:

    running frequencies: (n_c + 1) / (n + k)        after the last value i: (n_ic + 1) / (n_i + k)

An event has two classes. Where more classes may come, any one not seen yet has the probability ε = 1 / (n + k + 1) in
every forecast, and those seen share 1 - ε. Of counts:

    running mean: (Σ y + 1) / (n + 1)        recent mean: m ← m + max(1 / (n + 1), .05) (y - m), from m = 1
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from ._outcome_inputs import CLASSES

FREQUENCIES, MARKOV = "running frequencies", "after the last value"
MEAN, RECENT = "running mean", "recent mean"
FAST = 0.05


class Frequencies:
    """Both floors of classes; called with the codes of n rows, NaN where missing. `state` is all that it remembers."""

    names = (FREQUENCIES, MARKOV)

    def __init__(self, horizon: int, classes: int | None = None):
        self.known, many = classes, classes or CLASSES
        self.state: dict[str, np.ndarray] = {
            "counts": np.zeros(many),
            "pairs": np.zeros((many, many)),
            "ring": np.full(horizon + 1, np.nan),  # the class last seen, of the newest rows
        }

    @property
    def seen(self) -> int:
        """How many classes there are so far."""
        return self.known or int(np.max(np.flatnonzero(self.state["counts"]), initial=-1)) + 1

    def __call__(self, codes: Float[np.ndarray, " n"]) -> tuple[Float[np.ndarray, "n 2 classes"], np.ndarray]:
        """Probabilities said at each row, where a class not seen yet has ε; and which classes were seen."""
        counts, pairs = self.state["counts"].copy(), self.state["pairs"].copy()
        ring = self.state["ring"].tolist()
        said, seen = np.empty((len(codes), 2, len(counts))), np.empty((len(codes), len(counts)), bool)
        for t, code in enumerate(codes.tolist()):
            ring.append(code if code == code else ring[-1])
            before, last = ring[t + 1], ring[-1]
            if code == code:
                counts[int(code)] += 1
                if before == before:
                    pairs[int(before), int(code)] += 1
            there = counts > 0 if self.known is None else np.ones(len(counts), bool)
            n, k = float(counts.sum()), int(there.sum())
            other = another(n, k) if self.known is None else 0.0
            after = pairs[int(last)] if last == last else np.zeros(len(counts))
            for j, each in enumerate((counts, after)):
                said[t, j] = np.where(there, (each + 1) / (each.sum() + k) * (1 - other), other) if k else np.nan
            seen[t] = there
        self.state = {"counts": counts, "pairs": pairs, "ring": np.array(ring[len(codes) :])}
        return said, seen

    def restart(self) -> None:
        """Begin another stream with what was counted."""
        self.state["ring"] = np.full_like(self.state["ring"], np.nan)


def another(n: float, k: int) -> float:
    """ε: the probability of any class not seen in n rows, which had k of them."""
    return 1 / (n + k + 1) if k < CLASSES else 0.0


class Means:
    """Both floors of counts; called with the counts of n rows, NaN where missing. `state` is all it remembers."""

    names, seen = (MEAN, RECENT), 0  # no classes

    def __init__(self):
        self.state: dict[str, np.ndarray] = {"means": np.array([0.0, 0.0, 1.0])}  # n, Σ y, m

    def __call__(self, counts: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 2"]:
        """Rates said at each row."""
        n, total, recent = self.state["means"].tolist()
        said = []
        for y in counts.tolist():
            if y == y:
                n, total = n + 1, total + y
                recent += max(1 / (n + 1), FAST) * (y - recent)
            said.append([(total + 1) / (n + 1), recent])
        self.state = {"means": np.array([n, total, recent])}
        return np.array(said).reshape(-1, 2)

    def restart(self) -> None:
        """Begin another stream: a mean needs nothing else."""
