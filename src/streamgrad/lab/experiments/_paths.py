"""Every step of a path, 1 to H rows ahead, of several channels: least squares whose steps share a covariance, mixed.

Each channel has its own filters. What a filter sees comes from `Encoder`, so that it is free of units; with s the
channel's running size of a change, step k is learned as

    u_k = (y_{t+k} - y_t) / (s_t √k)

A path is learned from when its last step has come, H rows later; that goes for the mixture, too.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ... import cells
from ...forecast import Encoded, Encoder
from ...train import Mixed, Mixing

LAGS = 192
OWN, TOGETHER = 48, 84  # changes of the own channel, and of all channels
UNITS = 32  # of the reservoir
RATE, DECAY = 30.0, 0.01  # of the mixture, one step ahead
DOUBT, FORGET = 30.0, 0.9995  # of the trust in it: rows that speak for the last value, and forgetting

Series = Float[np.ndarray, "rows channels"]
Paths = Float[np.ndarray, "rows channels steps"]


def following(values: Series, steps: int) -> Paths:
    """The values 1 to `steps` rows after each row; NaN where not all of them are there."""
    late = len(values) - steps
    windows = np.lib.stride_tricks.sliding_window_view(values[1:], steps, axis=0) if late > 0 else np.empty((0,))
    out = np.full((*values.shape, steps), np.nan)
    out[: max(late, 0)] = windows
    return out


def repeated(values: Series, steps: int) -> Paths:
    """The last value, as the forecast of each step."""
    return np.repeat(values[:, :, None], steps, axis=2)


class Inputs:
    """What filters see of each channel, and the scale that they learn in."""

    def __init__(self, values: Series, steps: int):
        self.values, self.channels = values, values.shape[1]
        encoder = Encoder(lags=LAGS, horizon=steps)
        self.parts = encoder.parts
        self.rows: list[Encoded] = [
            Encoder(lags=LAGS, horizon=steps)(values[:, c : c + 1]) for c in range(self.channels)
        ]
        size = np.stack([rows.scale for rows in self.rows], axis=1) / steps**0.5
        self.unit = np.where(size > 0, size, 1.0)[:, :, None] * np.sqrt(np.arange(1, steps + 1))
        self.targets = (following(values, steps) - values[:, :, None]) / self.unit

    def forecasts(self, learned: Paths) -> Paths:
        """What u stands for, in the unit of the values."""
        return self.values[:, :, None] + self.unit * learned

    def _lags(self, channel: int, many: int) -> np.ndarray:
        return self.rows[channel].inputs[:, self.parts["lags"]][:, :many]

    def own(self, lags: int, *parts: str) -> Float[np.ndarray, "rows channels size"]:
        """The newest changes of a channel, other parts of its encoding, its level and a constant."""
        each = []
        for channel, rows in enumerate(self.rows):
            others = [rows.inputs[:, self.parts[name]] for name in parts]
            level, one = rows.inputs[:, :1], np.ones((len(rows.inputs), 1))
            each.append(np.concatenate([self._lags(channel, lags), *others, level, one], axis=1))
        return np.stack(each, axis=1)

    def together(self) -> Float[np.ndarray, "rows channels size"]:
        """More changes of the own channel, a few of every channel, and all levels."""
        few = max(1, TOGETHER // self.channels)
        levels = [rows.inputs[:, :1] for rows in self.rows]
        all_ = np.concatenate([*(self._lags(c, few) for c in range(self.channels)), *levels], axis=1)
        one = np.ones((len(all_), 1))
        return np.stack([np.concatenate([self._lags(c, OWN), all_, one], axis=1) for c in range(self.channels)], axis=1)

    def drawn(self, seed: int) -> Float[np.ndarray, "rows channels features"]:
        """The outputs of a recurrent net whose weights stay as they were drawn, the same for all channels."""
        heard = self.parts["net"]
        cell = cells.RTU(heard.stop - heard.start, UNITS, key=jax.random.key(seed))

        def step(state, x):
            state = cell(state, x)
            return state, cell.output(state, x)

        run = jax.jit(lambda xs: jax.lax.scan(step, cell.init_state(), xs)[1])
        return np.stack([np.asarray(run(jnp.asarray(r.inputs[:, heard])), float) for r in self.rows], axis=1)


def least_squares(
    inputs: Float[np.ndarray, "rows channels size"],
    targets: Paths,
    *,
    prior: float | Float[np.ndarray, " size"],
    forgetting: float = 0.9998,
) -> Paths:
    """What recursive least squares says at each row: a filter for each channel, one covariance for all its steps.

    `targets` of row t are learned at row t + steps. Errors count up to three running deviations of their step, and a
    covariance stays within its first trace."""
    (n, channels, size), steps = inputs.shape, targets.shape[2]
    covariance = np.tile(np.diag(np.broadcast_to(np.asarray(prior, float), size)), (channels, 1, 1))
    most = np.trace(covariance[0])
    weight, noise, said = np.zeros((channels, size, steps)), np.ones((channels, steps)), np.empty_like(targets)
    for t in range(n):
        if t >= steps and np.isfinite(targets[t - steps]).all():
            x = inputs[t - steps]
            error = targets[t - steps] - np.matmul(x[:, None], weight)[:, 0]
            gain = np.matmul(covariance, x[:, :, None])[:, :, 0]
            spread = np.sum(x * gain, axis=1, keepdims=True)
            bound = 3 * np.sqrt(noise * (1 + spread))
            scaled = gain / (forgetting + spread)
            weight += scaled[:, :, None] * np.clip(error, -bound, bound)[:, None]
            noise = np.maximum(0.99 * noise + 0.01 * np.minimum(error * error, 9 * noise), 1e-6)
            covariance -= scaled[:, :, None] * gain[:, None]
            trace = np.trace(covariance, axis1=1, axis2=2)
            covariance *= np.minimum(1 / forgetting, most / trace)[:, None, None]
        said[t] = np.matmul(inputs[t][:, None], weight)[:, 0]
    return said


def experts(values: Series, steps: int, seen: Inputs) -> dict[str, Paths]:
    """Forecasts of every step at each row by what draws nothing: the last value, and least squares on changes."""
    said = {
        "RLS on 96 changes": least_squares(seen.own(96), seen.targets, prior=1e-3),
        "own past": least_squares(seen.own(LAGS), seen.targets, prior=1e-3),
        "all channels": least_squares(seen.together(), seen.targets, prior=1e-3),
        "slow": least_squares(seen.own(96), seen.targets, prior=1e-4, forgetting=1.0),
    }
    return {"last value": repeated(values, steps)} | {name: seen.forecasts(u) for name, u in said.items()}


def reservoir(seen: Inputs, seed: int) -> Paths:
    """Forecasts by least squares on the outputs of a recurrent net that is not learned, on changes and on seasons."""
    features, others = seen.drawn(seed), seen.own(OWN, "far", "short", "long")
    prior = np.concatenate([np.full(features.shape[2], 0.01), np.full(others.shape[2], 1e-3)])
    return seen.forecasts(least_squares(np.concatenate([features, others], axis=2), seen.targets, prior=prior))


def mixed(said: Mapping[str, Paths], values: Series) -> Paths:
    """One path from those of several experts: a mixture for each channel and step."""
    each = np.stack(list(said.values()), axis=-1)
    steps = each.shape[2]
    truth = following(values, steps)
    pad = lambda paths: np.concatenate([np.full((steps, *paths.shape[1:]), np.nan), paths])[: len(paths)]
    return np.asarray(_mix(jnp.asarray(each), jnp.asarray(pad(each)), jnp.asarray(pad(truth))), float)


def trusted(said: Paths, values: Series) -> Paths:
    """The last value, and of the change that a path foretells as much as past paths deserved, γ from 0 to 1:

        γ = Σ d c / (Σ d² + 30 mean c²)        d: a change that was foretold, c: the one that came

    for each channel and step, by sums that forget. Where nothing can be foretold this is the last value."""
    last, changes = values[:, :, None], following(values, said.shape[2]) - values[:, :, None]
    foretold = said - last
    sums, count, trust = np.zeros((3, *said.shape[1:])), 0.0, np.zeros_like(said)
    for t in range(len(said)):
        then = t - said.shape[2]
        if then >= 0 and np.isfinite(foretold[then]).all() and np.isfinite(changes[then]).all():
            d, c = foretold[then], changes[then]
            sums, count = sums * FORGET + np.stack([d * c, d * d, c * c]), count * FORGET + 1
        size = sums[1] + DOUBT / max(count, 1.0) * sums[2]
        trust[t] = np.clip(sums[0] / np.where(size > 0, size, 1.0), 0, 1)
    return last + trust * foretold


@jax.jit
def _mix(now: Array, then: Array, truth: Array) -> Array:
    """Mixtures along rows: of the forecasts made now, having learned from those made `steps` rows ago."""
    _, channels, steps, count = now.shape
    mixing = lambda k: Mixing(rate=RATE, decay=DECAY / steps**0.5, horizon=k)
    over = lambda f: jax.vmap(jax.vmap(f), in_axes=(None, 0, 0, 0) if f is update else (None, 0, 0))

    def update(k, state, made, target):
        return mixing(k).update(state, made, target)

    def forecast(k, state, forecasts):
        return mixing(k).forecast(state, forecasts)

    ahead = jnp.arange(1.0, steps + 1)

    def step(memory, row):
        state, both = memory
        forecasts, before, target = row
        made = Mixed(jnp.zeros_like(target), both[0], before)
        state = over(update)(ahead, state, made, target)
        made = over(forecast)(ahead, state, forecasts)
        return (state, jnp.concatenate([both[1:], made.both[None]])), made.forecast

    state = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (channels, steps, *leaf.shape)), mixing(1.0).init(count))
    return jax.lax.scan(step, (state, jnp.full((steps, channels, steps, 2), jnp.nan)), (now, then, truth))[1]
