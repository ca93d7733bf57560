"""Columnar-constructive TD(lambda) in plain NumPy, column by column and step by step, from the written equations.

Nothing here uses the library. A column's weights and traces are (4, inputs + 2): a row for each of the gates i, f, g
and o, over the inputs, the column's own output of the last step, and 1.
"""

import dataclasses

import numpy as np

I, F, G, O = range(4)


@dataclasses.dataclass(frozen=True)
class Settings:
    """`prior`, `decay`, `floor`: of all normalisations; `moment`, `start`, `eps`: of RMSProp."""

    gamma: float = 0.9
    lam: float = 0.8
    alpha: float = 1e-2
    moment: float = 0.99
    start: float = 1.0
    eps: float = 1e-8
    decay: float = 0.97
    prior: float = 5.0
    floor: float = 0.01


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


class Statistics:
    """Running mean and variance of each entry."""

    def __init__(self, size, settings):
        self.settings, self.count = settings, np.zeros(size)
        self.mean, self.variance = np.zeros(size), np.full(size, 1.0 if settings.prior > 0 else 0.0)

    def see(self, x):
        self.count = self.count + 1
        w = np.maximum(1 / (self.count + self.settings.prior), 1 - self.settings.decay)
        mean = self.mean + w * (x - self.mean)
        self.variance = (1 - w) * self.variance + w * (x - self.mean) * (x - mean)
        self.mean = mean

    def scale(self):
        return 1 / np.sqrt(np.maximum(self.variance, self.settings.floor))

    def normalised(self, x):
        return (x - self.mean) * self.scale()

    def widen(self, more):
        new = Statistics(more, self.settings)
        for name in ("count", "mean", "variance"):
            setattr(self, name, np.concatenate([getattr(self, name), getattr(new, name)]))


class Trained:
    """Weights with their eligibility and RMSProp's second moment."""

    def __init__(self, value, settings):
        self.settings, self.value = settings, np.array(value, float)
        self.eligibility, self.moment = np.zeros_like(self.value), np.full_like(self.value, settings.start)

    def learn(self, error, alpha):
        s, g = self.settings, -error * self.eligibility
        self.moment = s.moment * self.moment + (1 - s.moment) * g**2
        self.value = self.value - alpha * g / (np.sqrt(self.moment) + s.eps)

    def remember(self, slope):
        self.eligibility = self.settings.gamma * self.settings.lam * self.eligibility + slope

    def append(self, value):
        new = Trained(value, self.settings)
        for name in ("value", "eligibility", "moment"):
            setattr(self, name, np.concatenate([getattr(self, name), getattr(new, name)]))


class Column:
    """One LSTM unit that hears its inputs and itself."""

    def __init__(self, weights, settings):
        self.weights = Trained(weights, settings)
        self.c = self.h = 0.0
        self.by_c, self.by_h = np.zeros_like(weights), np.zeros_like(weights)

    def advance(self, xn, learns):
        theta = self.weights.value
        q = np.concatenate([xn, [self.h, 1.0]])
        z = theta @ q
        i, f, g, o = sigmoid(z[I]), sigmoid(z[F]), np.tanh(z[G]), sigmoid(z[O])
        c = f * self.c + i * g
        if learns:
            a = np.array([g * i * (1 - i), self.c * f * (1 - f), i * (1 - g**2), np.tanh(c) * o * (1 - o)])
            u = theta[:, -2]
            through_cell = a[I] * u[I] + a[F] * u[F] + a[G] * u[G]
            new = f * self.by_c + through_cell * self.by_h
            for k in (I, F, G):
                new[k] += a[k] * q
            by_h = o * (1 - np.tanh(c) ** 2) * new + a[O] * u[O] * self.by_h
            by_h[O] += a[O] * q
            self.by_c, self.by_h = new, by_h
        self.c, self.h = c, o * np.tanh(c)


class Reference:
    """The learner: `add_stage(weights)` at the start and at every growth, `step(x, cumulant)` gives the prediction."""

    def __init__(self, inputs, settings):
        self.settings, self.inputs = settings, inputs
        self.stages, self.statistics = [], []
        self.features = Statistics(0, settings)
        self.readout, self.bias = Trained(np.zeros(0), settings), Trained(0.0, settings)
        self.prediction = None

    @property
    def columns(self):
        return [column for stage in self.stages for column in stage]

    @property
    def newest(self):
        return self.stages[-1]

    def add_stage(self, weights):
        """Weights: (columns, 4, inputs and earlier columns + 2)."""
        self.statistics.append(Statistics(self.inputs + len(self.columns), self.settings))
        self.stages.append([Column(own, self.settings) for own in weights])
        self.features.widen(len(weights))
        self.readout.append(np.zeros(len(weights)))

    def step(self, x, cumulant):
        s, before = self.settings, np.array([column.h for column in self.columns])
        for stage, statistics in zip(self.stages, self.statistics, strict=True):
            learns = stage is self.newest
            seen = np.concatenate([x, before])[: len(statistics.mean)]
            if learns:
                statistics.see(seen)
            for column in stage:
                column.advance(statistics.normalised(seen), learns)
        h = np.array([column.h for column in self.columns])
        self.features.see(h)
        phi = self.features.normalised(h)
        y = self.readout.value @ phi + self.bias.value
        slopes = (self.readout.value * self.features.scale())[-len(self.newest) :]
        if self.prediction is not None:
            error = cumulant + s.gamma * y - self.prediction
            for column in self.newest:
                column.weights.learn(error, s.alpha)
            for part in (self.readout, self.bias):
                part.learn(error, s.alpha / len(h))
        for column, slope in zip(self.newest, slopes, strict=True):
            column.weights.remember(slope * column.by_h)
        self.readout.remember(phi)
        self.bias.remember(1.0)
        self.prediction = y
        return y
