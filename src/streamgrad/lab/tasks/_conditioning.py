"""Conditioning trials on an endless stream: stimuli, what they foretell, and the best prediction there is.

Time is counted in steps. Trial n is a conditioned stimulus (CS) on one step and its US time, I_n steps later; the CS
of the next trial comes T_n + 1 steps after that:

    cs_n = us_{n-1} + T_n + 1,    us_n = cs_n + I_n,    us_{-1} = -1,

with the interstimulus interval I_n and the intertrial interval T_n uniform on their ranges. The CS is one of several
patterns, each as likely; some of them are valid. On the US time of a valid one the unconditioned stimulus (US) is on
for one step; that of another passes unseen. A learner predicts the discounted sum of the US to come,

    G_t = sum_{k>=0} gamma^k US_{t+1+k}.

**The best prediction.** Let v be the share of valid patterns, p_X(x) the distribution of an interval X, and

    W_X(s) = E[gamma^{X-s-1} | X > s] = sum_{x>s} p_X(x) gamma^{x-s-1} / sum_{x>s} p_X(x)

the discount until an event that has not come in s steps. With V the mean of G_t on a US time, and C that on a CS
before its pattern is known,

    C = W_I(0) (v + gamma V),    V = gamma W_{T+1}(0) C,    so    V = w v / (1 - gamma w),  w = gamma W_I(0) W_{T+1}(0).

Given the stream up to step t, which tells the steps s since the last event that was seen, the mean of G_t is

    W_I(s) (1 + gamma V)      s steps after a valid CS whose US has yet to come,
    gamma W_{T+1}(s) C        s steps after a US,
    gamma W_{I+T+1}(s) C      s steps after a CS that is not valid: its US time is not seen.
"""

from __future__ import annotations

import abc
import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

WAITING, AFTER_US, AFTER_INVALID = range(3)

TRIALS = 1024  # drawn together
STEPS = 4096  # of distractors, drawn together
CHUNK = 1 << 18  # steps scored together


@dataclasses.dataclass(frozen=True)
class Conditioning(abc.ABC):
    """What conditioning tasks have in common.

    - `isi`, `iti`: the shortest and the longest interstimulus and intertrial interval, in steps;
    - `distractors`: inputs that mean nothing. Number j = 1, 2, ... is on with probability 1/(10 j), each step anew.
    """

    isi: tuple[int, int] = (24, 36)
    iti: tuple[int, int] = (80, 120)
    distractors: int = 5

    def __post_init__(self):
        name = type(self).__name__
        for field, low in (("isi", 1), ("iti", 0)):
            shortest, longest = getattr(self, field)
            if not low <= shortest <= longest:
                raise ValueError(f"{name}: {field} must be a range from at least {low}, got {(shortest, longest)}.")
        if self.distractors < 0:
            raise ValueError(f"{name}: distractors must be at least 0, got {self.distractors}.")

    @property
    @abc.abstractmethod
    def patterns(self) -> UInt8[np.ndarray, "patterns bits"]:
        """Every CS, a row each."""

    @property
    @abc.abstractmethod
    def valid_patterns(self) -> int:
        """How many of the patterns are followed by the US."""

    @property
    def in_size(self) -> int:
        """Inputs of a step: the bits of the CS, the US, the distractors."""
        return self.patterns.shape[1] + 1 + self.distractors

    def stream(self, seed: int) -> Stream:
        """The stream of that seed, with its valid patterns."""
        return Stream(self, seed)

    def values(self, gamma: float) -> Float[np.ndarray, "phases steps"]:
        """The mean of G_t by phase (`WAITING`, `AFTER_US`, `AFTER_INVALID`) and steps since the event that opened it.

        NaN where a phase does not last so long."""
        _check_gamma(gamma)
        isi = _uniform(*self.isi)
        pause = np.append(0.0, _uniform(*self.iti))  # T + 1
        w_isi, w_pause, w_both = (_discount(p, gamma) for p in (isi, pause, np.convolve(isi, pause)))
        share = self.valid_patterns / len(self.patterns)
        w = gamma * w_isi[0] * w_pause[0]
        on_us = w * share / (1 - gamma * w)
        on_cs = w_isi[0] * (share + gamma * on_us)
        values = np.full((3, len(w_both)), np.nan)
        values[WAITING, : len(w_isi)] = w_isi * (1 + gamma * on_us)
        values[AFTER_US, : len(w_pause)] = gamma * w_pause * on_cs
        values[AFTER_INVALID] = gamma * w_both * on_cs
        return values


class Stream:
    """The stream of one seed, from step 0 without end; any range of steps, in any order, is always the same.

    `valid` tells which of the task's patterns are followed by the US. Trials are drawn as far as they are needed and
    kept (24 bytes per trial); distractors are drawn anew at each call.
    """

    def __init__(self, task: Conditioning, seed: int):
        self.task, self.seed = task, seed
        self._patterns = task.patterns
        self.valid: Bool[np.ndarray, " patterns"] = np.zeros(len(self._patterns), bool)
        self.valid[self._rng(0).permutation(len(self.valid))[: task.valid_patterns]] = True
        # A trial that is over when the stream begins.
        self._cs, self._us = np.array([-1 - task.isi[0]]), np.array([-1])
        self._pattern = np.array([np.argmax(self.valid)])

    def inputs(self, start: int, stop: int) -> UInt8[np.ndarray, "steps in_size"]:
        """The inputs of the steps from `start` up to `stop`: the bits of the CS, the US, the distractors."""
        cs, _, pattern = self._trials(start, stop)
        bits = self._patterns.shape[1]
        xs = np.zeros((stop - start, self.task.in_size), np.uint8)
        seen = cs >= start
        xs[cs[seen] - start, :bits] = self._patterns[pattern[seen]]
        xs[:, bits] = self.cumulants(start, stop)
        if self.task.distractors:
            chance = 0.1 / np.arange(1, self.task.distractors + 1)
            for block in range(start // STEPS, -(-stop // STEPS)):
                first = block * STEPS
                low, high = max(start, first), min(stop, first + STEPS)
                draws = self._rng(2, block).random((STEPS, self.task.distractors))
                xs[low - start : high - start, bits + 1 :] = draws[low - first : high - first] < chance
        return xs

    def cumulants(self, start: int, stop: int) -> UInt8[np.ndarray, " steps"]:
        """The US of the steps from `start` up to `stop`, which is one of the inputs too."""
        _, us, pattern = self._trials(start, stop)
        cumulants = np.zeros(stop - start, np.uint8)
        us = us[self.valid[pattern]]
        cumulants[us[(us >= start) & (us < stop)] - start] = 1
        return cumulants

    def returns(self, start: int, stop: int, gamma: float) -> Float[np.ndarray, " steps"]:
        """G_t of the steps from `start` up to `stop`, with what comes after `stop`, until gamma^k is below 1e-300.

        With u the first US after t, G_t = gamma^{u-t-1} (1 + gamma G_u)."""
        _check_gamma(gamma)
        ahead = math.ceil(-300 / math.log10(gamma)) if gamma else 1
        _, us, pattern = self._trials(start, stop + ahead)
        us = np.append(us[self.valid[pattern]], np.inf)  # after the last one: none
        discount = (gamma ** (np.diff(us[:-1]) - 1)).tolist()
        after = [0.0] * len(us)  # G_u
        for i in reversed(range(len(discount))):
            after[i] = discount[i] * (1 + gamma * after[i + 1])
        steps = np.arange(start, stop)
        following = np.searchsorted(us, steps, side="right")
        return gamma ** (us[following] - steps - 1) * (1 + gamma * np.array(after)[following])

    def phases(self, start: int, stop: int) -> tuple[Int[np.ndarray, " steps"], Int[np.ndarray, " steps"]]:
        """What the stream has told by each step from `start` up to `stop`: the phase (`WAITING` for the US,
        `AFTER_US`, `AFTER_INVALID`) and the steps since the event that opened it. It begins with step -1 as a US."""
        cs, us, pattern = self._trials(start, stop)
        steps = np.arange(start, stop)
        trial = np.searchsorted(cs, steps, side="right") - 1
        valid, came = self.valid[pattern][trial], steps >= us[trial]
        phase = np.where(valid, np.where(came, AFTER_US, WAITING), AFTER_INVALID)
        return phase, steps - np.where(phase == AFTER_US, us[trial], cs[trial])

    def bayes(self, start: int, stop: int, gamma: float) -> Float[np.ndarray, " steps"]:
        """The mean of G_t given the stream up to and including t, for one who knows the task and the valid patterns.

        No prediction has a lower mean squared error."""
        return self.task.values(gamma)[self.phases(start, stop)]

    def _trials(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """CS steps, US times and patterns from the trial under way on `start` to the last whose CS is before `stop`."""
        if not 0 <= start <= stop:
            raise ValueError(f"A stream has no steps from {start} up to {stop}.")
        self._draw(stop)
        part = slice(np.searchsorted(self._cs, start, side="right") - 1, np.searchsorted(self._cs, stop))
        return self._cs[part], self._us[part], self._pattern[part]

    def _draw(self, stop: int) -> None:
        """Draw trials until one has its CS on step `stop` or later."""
        drawn = []
        last_cs, last_us, count = self._cs[-1], self._us[-1], len(self._cs) - 1
        while last_cs < stop:
            rng = self._rng(1, count // TRIALS)
            pattern = rng.integers(len(self.valid), size=TRIALS)
            isi, iti = (rng.integers(*span, size=TRIALS, endpoint=True) for span in (self.task.isi, self.task.iti))
            us = last_us + np.cumsum(iti + 1 + isi)
            drawn.append((us - isi, us, pattern))
            last_cs, last_us, count = us[-1] - isi[-1], us[-1], count + TRIALS
        if drawn:
            self._cs, self._us, self._pattern = (
                np.concatenate(parts) for parts in zip((self._cs, self._us, self._pattern), *drawn)
            )

    def _rng(self, *key: int) -> np.random.Generator:
        """A generator for one purpose and one block of it."""
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))


def zero_error(stream: Stream, start: int, stop: int, gamma: float) -> float:
    """Mean squared error of predicting 0 on the steps from `start` up to `stop`.

    About v / ((1 - gamma^2) E[I + T + 1]), with v the share of valid patterns."""
    return _mean(lambda low, high: stream.returns(low, high, gamma) ** 2, start, stop)


def bayes_error(stream: Stream, start: int, stop: int, gamma: float) -> float:
    """Mean squared error of the best prediction there is on the steps from `start` up to `stop`."""
    return _mean(
        lambda low, high: (stream.returns(low, high, gamma) - stream.bayes(low, high, gamma)) ** 2, start, stop
    )


def _mean(values, start: int, stop: int) -> float:
    """The mean over steps of `values(low, high)`, a chunk at a time."""
    if start >= stop:
        raise ValueError(f"There are no steps from {start} up to {stop} to take a mean over.")
    return sum(float(values(low, min(low + CHUNK, stop)).sum()) for low in range(start, stop, CHUNK)) / (stop - start)


def _uniform(shortest: int, longest: int) -> Float[np.ndarray, " x"]:
    """p(x) from x = 0 to the longest."""
    p = np.zeros(longest + 1)
    p[shortest:] = 1 / (longest + 1 - shortest)
    return p


def _discount(p: Float[np.ndarray, " x"], gamma: float) -> Float[np.ndarray, " s"]:
    """W_X(s) of every s below the largest x, by sums from the end."""
    total, left, w = 0.0, 0.0, np.empty(len(p) - 1)
    for s in reversed(range(len(w))):
        total, left = p[s + 1] + gamma * total, p[s + 1] + left
        w[s] = total / left
    return w


def _check_gamma(gamma: float) -> None:
    if not 0 <= gamma < 1:
        raise ValueError(f"gamma must be from 0 to below 1, got {gamma}.")
