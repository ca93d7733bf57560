"""What a forecaster has to beat: last value, running mean, seasonal last values, least squares on few and many lags.

Each is a function of a whole series and a horizon h: the forecast that it makes at row t, for row t + h, from rows up
to t. `rls` is recursive least squares from a fair start. `rls_of_0_1` is that of version 0.1 of this library: its scale
comes from the first changes, its prior is wide, and no error is clipped. It is kept to be compared with, for ever.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from ._encoder import Encoder, carried

FORGETTING = 0.999
LAGS = (8, 32, 100, 200, 340)
Series = Float[np.ndarray, " n"]


def last_value(y: Series, horizon: int) -> Series:
    """The value last seen."""
    del horizon
    return carried(np.full(1, np.nan), y[:, None])[:, 0]


def running_mean(y: Series, horizon: int) -> Series:
    """The mean of all that was seen."""
    del horizon
    known = np.isfinite(y)
    first = y[known][:1].sum()
    count = np.cumsum(known)
    return np.where(count > 0, first + np.cumsum(np.where(known, y - first, 0.0)) / np.maximum(count, 1), np.nan)


def seasonal(y: Series, horizon: int, period: int) -> Series:
    """The value a whole number of seasons before the row that is forecast; before there is one, the last value."""
    last = last_value(y, horizon)
    back = -(-horizon // period) * period - horizon
    ago = np.concatenate([np.full(min(back, len(y)), np.nan), last])[: len(y)]
    return np.where(np.isfinite(ago), ago, last)


def rls(y: Series, horizon: int, lags: int) -> Series:
    """Least squares on the newest changes and the level, with forgetting, from a fair start: prior .001, errors clipped
    at three deviations, noise that adapts."""
    encoder = Encoder(lags=lags, horizon=horizon)
    encoded = encoder(y[:, None])
    level = encoded.inputs[:, :1]
    ones = np.ones_like(level)
    inputs = np.concatenate([encoded.inputs[:, encoder.parts["lags"]], level, ones], axis=1)
    said = least_squares(inputs, encoded.learn, horizon, prior=1e-3, fair=True)
    return encoded.base + encoded.scale * said


def rls_of_0_1(y: Series, horizon: int, lags: int) -> Series:
    """Least squares on lags as the command line of version 0.1 had it beside its network."""
    filled = last_value(y, horizon)
    steps, scale = _early_scale(y - np.concatenate([[np.nan], filled[:-1]]))
    path = np.cumsum(steps)
    origin = np.concatenate([np.full(min(horizon, len(y)), np.nan), np.where(np.isfinite(filled), path, np.nan)])
    then = np.concatenate([np.ones(horizon), scale])
    learn = np.where(np.isfinite(y), (path - origin[: len(y)]) / then[: len(y)], np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(np.concatenate([np.zeros(lags - 2), steps]), lags - 1)[:, ::-1]
    inputs = np.concatenate([path[:, None] / 10, windows], axis=1) / scale[:, None]
    inputs = np.concatenate([inputs, np.ones((len(y), 1))], axis=1)
    return filled + scale * least_squares(inputs, learn, horizon, prior=0.1, fair=False)


def _early_scale(changes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Changes of at most 20 times their root mean square, and the median of the first eight."""
    count, square, scale, early, steps, scales = 0, 0.0, 1.0, [], [], []
    for step in changes.tolist():
        if step == step:
            if count >= 8 and square > 0:
                bound = 20 * math.sqrt(square)
                step = min(max(step, -bound), bound)
            count += 1
            square += max(1 / count, 1e-4) * (step * step - square)
            if step and len(early) < 8:
                early.append(abs(step))
                scale = float(np.median(early))
        else:
            step = 0.0
        steps.append(step)
        scales.append(scale)
    return np.array(steps), np.array(scales)


def least_squares(
    inputs: Float[np.ndarray, "n size"], learn: Series, horizon: int, *, prior: float, fair: bool
) -> Series:
    """Recursive least squares: what it says at each row, having learned from the pairs that are known by then.

    The covariance P stays within its first trace, for where the data excite nothing it would grow without end. It is
    kept as the upper triangle of P / c, so that forgetting costs nothing."""
    from scipy.linalg import get_blas_funcs  # slow to import, and a forecaster does without

    n, size = inputs.shape
    weight, said = np.zeros(size), np.zeros(n)
    symv, syr = get_blas_funcs(("symv", "syr"), dtype=np.float64)
    root = np.asfortranarray(np.eye(size) * prior)
    c, trace, noise, start = 1.0, prior * size, 1.0, prior * size
    for t in range(n):
        if t >= horizon and math.isfinite(learn[t]):
            x = inputs[t - horizon]
            error = learn[t] - float(x @ weight)
            gain = symv(c, root, x)
            spread = float(x @ gain)
            if fair:
                bound = 3 * math.sqrt(noise + spread)
                clipped = min(max(error, -bound), bound)
            else:
                clipped = error
            norm = noise * FORGETTING + spread
            weight += gain * (clipped / norm)
            root = syr(-1 / (norm * c), gain, a=root, overwrite_a=1)
            trace = (trace - float(gain @ gain) / norm) / FORGETTING
            c, trace = (c / FORGETTING, trace) if trace <= start else (c / FORGETTING * start / trace, start)
            if fair:
                noise = max(0.99 * noise + 0.01 * min(error * error, 9 * noise), 1e-6)
            if not 1e-3 < c < 1e3:
                root *= c
                c = 1.0
        said[t] = float(inputs[t] @ weight)
    return said


def floors(periods: tuple[int, ...]) -> dict[str, tuple]:
    """All of them by name: a function, and its arguments after the series and the horizon."""
    seasons = {f"{period} rows ago": (seasonal, period) for period in periods}
    old = {f"RLS-{lags} of 0.1": (rls_of_0_1, lags) for lags in LAGS}
    fair = {f"RLS-{lags}": (rls, lags) for lags in LAGS}
    return {"last value": (last_value,), "running mean": (running_mean,), **seasons, **old, **fair}
