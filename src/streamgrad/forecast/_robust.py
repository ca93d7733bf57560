"""Running sizes and centres that a few wild values do not move, in any unit.

Only rows at which a value changed count: a sensor that is stuck says nothing, and so moves nothing. The first
`EARLY` of them are judged by medians, later ones by recursions whose steps are clipped.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

EARLY = 16  # changes that are judged by their median
SLOWEST = 1e-3  # weight of a row, once there are many
CLIP = 10.0  # deviations, beyond which a value counts no more
TRUSTED = 3  # changes before a size means anything
RECENT = 64  # newest changes, by which a size that has become far too large is taken anew
APART = 25.0  # times their ninth decile, beyond which it has


class Size:
    """The running root mean square s of a series of changes.

        s² ← s² + w (min(d², 100 s²) - s²),   w = max(1/n, .001)

    A second size q, which errors of any magnitude move by at most a tenth a row, keeps s between q/3 and 100 q: so it
    comes back from a wild start, too. Where s is more than 25 times the ninth decile of the newest 64 changes, it is
    taken anew from these. What is cut off a change is owed, and the next change that would be cut pays it first: a
    value that jumps away and back leaves no trace.
    """

    def __init__(self):
        # n, log q, s², owed, early changes, newest changes
        self.state = np.concatenate([np.zeros(4), np.full(EARLY + RECENT, np.nan)])

    @property
    def value(self) -> float:
        """s; 0: not known yet."""
        return math.sqrt(self.state[2]) if self.state[0] >= TRUSTED else 0.0

    def __call__(self, changes: Float[np.ndarray, " n"], limit: float) -> tuple[np.ndarray, np.ndarray]:
        """The changes, none larger than `limit` times the size before it, and the size after each; 0: none yet."""
        n, log, square, owed = self.state[:4].tolist()
        early = [e for e in self.state[4 : 4 + EARLY].tolist() if e == e]
        recent = [e for e in self.state[4 + EARLY :].tolist() if e == e]
        limited, sizes = [], []
        for d in changes.tolist():
            if d:
                size = abs(d)
                if n >= TRUSTED:
                    bound = limit * math.sqrt(square)
                    if abs(d) > bound:
                        whole = d + owed
                        d = min(max(whole, -bound), bound)
                        owed = whole - d
                n += 1
                if n <= EARLY:
                    early.append(size)
                    middle = float(np.median(early))
                    square = sum(min(e, CLIP * middle) ** 2 for e in early) / n
                    log = math.log(middle)
                else:
                    log += max(1 / n, 0.05) * min(max(math.log(size) - log, -2.0), 2.0)
                    q2 = math.exp(2 * log)
                    square += max(1 / n, SLOWEST) * (min(size * size, CLIP**2 * square) - square)
                    square = min(max(square, q2 / 9), 1e4 * q2)
                recent.append(size)
                if n % (RECENT // 4) == 0 and len(recent) >= RECENT:
                    recent = recent[-RECENT:]
                    newest = np.sort(recent)
                    if square > (APART * newest[9 * RECENT // 10]) ** 2:
                        square = float(np.mean(np.minimum(newest, CLIP * newest[RECENT // 2]) ** 2))
                        log, owed = math.log(newest[RECENT // 2]), 0.0
            limited.append(d)
            sizes.append(math.sqrt(square) if n >= TRUSTED else 0.0)
        recent, gap = recent[-RECENT:], [math.nan]
        filled = [*early, *gap * (EARLY - len(early)), *recent, *gap * (RECENT - len(recent))]
        self.state = np.array([n, log, square, owed, *filled])
        return np.array(limited), np.array(sizes)


class Centre:
    """The running mean and deviation of a column, and its values by them."""

    def __init__(self):
        self.state = np.concatenate([[np.nan], np.zeros(3), np.full(EARLY, np.nan)])  # last, n, mean, variance, early

    def __call__(self, values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """(value - mean) / deviation at each row; 0 where there is no deviation yet. NaN: no value yet."""
        last, n, mean, variance = self.state[:4].tolist()
        early = [e for e in self.state[4:].tolist() if e == e]
        scores = []
        for x in values.tolist():
            if x != last and x == x:
                last, n = x, n + 1
                if n <= EARLY:
                    early.append(x)
                    mean = float(np.median(early))
                    away = [abs(e - mean) for e in early]
                    bound = CLIP * float(np.median(away)) or math.inf
                    variance = sum(min(a, bound) ** 2 for a in away) / n
                else:
                    bound, w = CLIP * math.sqrt(variance), max(1 / n, SLOWEST)
                    away = min(max(x - mean, -bound), bound)
                    mean += w * away
                    variance += w * ((1 - w) * away * away - variance)
            scores.append((x - mean) / math.sqrt(variance) if variance > 0 and x == x else 0.0)
        self.state = np.array([last, n, mean, variance, *early, *[math.nan] * (EARLY - len(early))])
        return np.array(scores)
