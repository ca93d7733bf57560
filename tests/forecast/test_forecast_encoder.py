"""How the default forecaster sees a stream, against a slow definition, row by row."""

from __future__ import annotations

import math

import numpy as np
import pytest

from streamgrad.forecast import _period
from streamgrad.forecast._encoder import Encoder

LAGS, FAR = 5, ((24, 48), (48, 96), (96, 192), (192, 384))


def _rows(n=700, seed=0, lost=0.03):
    """A target with a season of 24 rows and one of 168, and a feature; some values are missing."""
    rng, t = np.random.default_rng(seed), np.arange(n)
    y = np.sin(2 * np.pi * t / 24) * (1 + 0.5 * np.sin(2 * np.pi * t / 168)) + 0.05 * rng.standard_normal(n)
    rows = np.stack([50 + 3 * y, rng.standard_normal(n)], axis=1)
    rows[rng.random((n, 2)) < lost] = np.nan
    rows[:2, 0] = np.nan
    return rows


def _definition(rows, horizon):
    """Every input and target from the whole past of its row, by the words of the module."""
    n, columns = rows.shape
    filled = rows.copy()
    for t in range(1, n):
        gone = np.isnan(filled[t])
        filled[t, gone] = filled[t - 1, gone]
    y, first = filled[:, 0], int(np.flatnonzero(np.isfinite(rows[:, 0]))[0])
    count = log = square = owed = 0.0
    early, path, size = [], [0.0], []
    for t in range(n):
        d = y[t] - y[t - 1] if t > first else 0.0
        cut = d
        if d != 0:
            bound = 20 * math.sqrt(square)
            if count >= 3 and abs(d) > bound:
                cut = np.clip(d + owed, -bound, bound)
                owed += d - cut
            count += 1
            if count <= 16:
                early.append(abs(d))
                square = np.mean(np.minimum(early, 10 * np.median(early)) ** 2)
                log = math.log(np.median(early))
            else:
                log += max(1 / count, 0.05) * np.clip(math.log(abs(d)) - log, -2, 2)
                square += max(1 / count, 1e-3) * (min(d * d, 100 * square) - square)
                square = np.clip(square, math.exp(2 * log) / 9, 1e4 * math.exp(2 * log))
        path.append(path[-1] + cut)
        size.append(math.sqrt(square) if count >= 3 else 0.0)
    path, size = np.array(path[1:]), np.array(size)

    def scores(values):
        seen, mean, variance, out = [], 0.0, 0.0, []
        for t, x in enumerate(values):
            changed = not np.isnan(x) and (t == 0 or x != values[t - 1])
            if changed:
                seen.append(x)
                m = len(seen)
                if m <= 16:
                    mean = np.median(seen)
                    away = np.abs(np.array(seen) - mean)
                    bound = 10 * np.median(away)
                    variance = np.mean((np.minimum(away, bound) if bound > 0 else away) ** 2)
                else:
                    w, bound = max(1 / m, 1e-3), 10 * math.sqrt(variance)
                    away = np.clip(x - mean, -bound, bound)
                    mean, variance = mean + w * away, (1 - w) * (variance + w * away**2)
            out.append((x - mean) / math.sqrt(variance) if variance > 0 else 0.0)
        return np.array(out)

    level = scores(np.where(np.arange(n) < first, np.nan, path))
    others = [scores(filled[:, j]) for j in range(1, columns)]
    short = long = 0
    look, h = 150, horizon
    inputs, learn, anew = [], [], []
    back = lambda t, k: path[t - k] if t - k >= first else 0.0
    change = lambda t, k: back(t, k) - back(t, k + 1)
    told = (False, False)
    for t in range(n):
        s = size[t] or 1.0
        anew.append(told)
        told = (False, False)
        net = [level[t], *(change(t, k) / s * bool(size[t]) for k in range(3)), *(other[t] for other in others)]
        lags = [change(t, k) / s for k in range(LAGS)]
        far = []
        for near, end in FAR:
            window = [path[t - k] for k in range(near, end)] if t - first >= end - 1 else [path[t]]
            far.append(np.mean(window) - path[t])
        seasons = []
        for period, many, beside in ((short, 3, 1), (long, 2, 2)):
            m = 1
            while period and h - m * period + beside > 0:
                m += 1
            for season in range(m, m + many):
                for j in range(-beside, beside + 1):
                    at = t + h - season * period + j
                    seasons.append(path[at] - path[t] if period and at >= first else 0.0)
        old = np.array(far + seasons) / (s * math.sqrt(h))
        known = size[t] > 0
        rest = np.clip(np.concatenate([lags, old]), -20, 20) * known
        inputs.append(np.concatenate([np.clip(np.array(net) / 2, -6, 6), rest]))
        there = t >= h and size[t - h] > 0 and np.isfinite(rows[t, 0])
        learn.append((path[t] - path[t - h]) / (size[t - h] * math.sqrt(h)) if there else np.nan)
        if t - first + 1 == look:
            d = np.diff(path[first : t + 1])
            found = _period.find(d, size[t], (short, long), None)
            told, (short, long) = tuple(np.not_equal(found, (short, long))), found
            look += look // 4
    return np.array(inputs), np.array(learn), size, np.array(anew)


@pytest.mark.parametrize("horizon", [1, 24, 30])
def test_encoding_is_what_it_says(horizon):
    rows = _rows()
    rows[300:303, 0] = -9999
    encoder = Encoder(2, lags=LAGS, horizon=horizon)
    encoded = encoder(rows)
    inputs, learn, size, anew = _definition(rows, horizon)
    assert encoder.size == inputs.shape[1]
    np.testing.assert_allclose(encoded.inputs, inputs, atol=1e-9)
    np.testing.assert_allclose(encoded.learn, learn, atol=1e-9)
    np.testing.assert_allclose(encoded.scale, size * horizon**0.5, rtol=1e-9)
    np.testing.assert_array_equal(encoded.anew, anew)
    assert encoded.anew.any(axis=0).all() and encoder.state["periods"].tolist() == [24, 168]
    assert np.isfinite(encoded.inputs).all()
    np.testing.assert_array_equal(encoded.truth, rows[:, 0])
    assert np.abs(encoded.inputs[:, encoder.parts["short"]]).max(axis=0).min() > 0  # every column is used


def test_a_target_is_a_change_that_gives_the_truth_back():
    rows, h = _rows(lost=0.0)[2:], 6
    encoded = Encoder(2, lags=LAGS, horizon=h)(rows)
    forecasts = encoded.base[:-h] + encoded.scale[:-h] * encoded.learn[h:]
    known = np.isfinite(encoded.learn[h:])
    assert known[20:].all() and not known[:3].any()
    np.testing.assert_allclose(forecasts[known], rows[h:, 0][known], rtol=1e-9)


@pytest.mark.parametrize("horizon", [1, 24])
def test_the_same_bits_in_whatever_portions_and_after_a_checkpoint(horizon):
    rows = _rows()
    whole = Encoder(2, lags=LAGS, horizon=horizon)(rows)
    for cut in (1, 7, 149, 151):
        encoder, parts = Encoder(2, lags=LAGS, horizon=horizon), []
        for at in range(0, len(rows), cut):
            parts.append(encoder(rows[at : at + cut]))
            parts.append(encoder(rows[:0]))  # a live source has nothing for now
            state = {name: np.array(value) for name, value in encoder.state.items()}
            encoder = Encoder(2, lags=LAGS, horizon=horizon)
            assert {k: (v.shape, v.dtype) for k, v in state.items()} == {
                k: (v.shape, v.dtype) for k, v in encoder.state.items()
            }
            encoder.state = state
        for name, value in whole._asdict().items():
            joined = np.concatenate([getattr(part, name) for part in parts])
            np.testing.assert_array_equal(joined, value, err_msg=f"{name}, {cut} rows at a time")


def test_the_future_changes_nothing_before():
    rows, at = _rows(), 460
    before = Encoder(2, lags=LAGS, horizon=3)(rows)
    later = rows.copy()
    later[at:] = 1e6 * np.random.default_rng(1).standard_normal(later[at:].shape)
    after = Encoder(2, lags=LAGS, horizon=3)(later)
    for name, value in before._asdict().items():
        np.testing.assert_array_equal(getattr(after, name)[:at], value[:at], err_msg=name)


@pytest.mark.parametrize("unit", [1e-12, 1e-3, 0.3, 7e5, 1e12])
@pytest.mark.parametrize("wild", [False, True])
def test_units_change_nothing(unit, wild):
    rows = _rows()
    if wild:
        rows[400:420, 0] = 1e7
    here, there = (Encoder(2, lags=LAGS, horizon=24)(rows * scale) for scale in (1.0, unit))
    np.testing.assert_allclose(there.inputs, here.inputs, atol=1e-7)
    np.testing.assert_allclose(there.learn, here.learn, atol=1e-7)
    np.testing.assert_allclose(there.scale, here.scale * unit, rtol=1e-7)
    np.testing.assert_array_equal(there.anew, here.anew)


def test_a_shift_that_is_exact_changes_not_a_bit():
    rows = np.round(_rows() * 64) / 64
    here, there = (Encoder(2, lags=LAGS, horizon=2)(rows + np.array([shift, 0])) for shift in (0.0, 2.0**20))
    for name in ("inputs", "learn", "scale", "anew"):
        np.testing.assert_array_equal(getattr(there, name), getattr(here, name), err_msg=name)


WILD = {
    "three at the start": (0, [-9999.0] * 3),
    "a hundred at the start": (0, [-9999.0] * 100),
    "three soon": (12, [-9999.0] * 3),
    "three in the middle": (1000, [-9999.0] * 3),
    "a hundred in the middle": (1000, [-9999.0] * 100),
    "one huge": (1000, [99999999.0]),
    "there and back": (1000, [-9999.0, 9999.0] * 50),
    "noise at the start": (0, (1e6 * np.random.default_rng(3).standard_normal(100)).tolist()),
    "noise in the middle": (1000, (1e6 * np.random.default_rng(3).standard_normal(100)).tolist()),
}


@pytest.mark.parametrize("case", WILD)
def test_wild_rows_are_forgotten(case):
    """Inputs of least squares are as without them 200 rows later, but for what is seen far back."""
    at, values = WILD[case]
    y = _rows(2500, lost=0.0)[2:, :1]
    wild = y.copy()
    wild[at : at + len(values), 0] = values
    clean, seen = (Encoder(lags=LAGS, horizon=2)(rows) for rows in (y, wild))
    settled = slice(at + len(values) + 200, None)
    ratio = seen.scale[settled] / clean.scale[settled]
    noise = "noise" in case or "there" in case
    assert ratio.max() < (60 if noise else 1.6) and ratio.min() > 0.6
    np.testing.assert_allclose(seen.learn[settled] * ratio[:], clean.learn[settled], atol=0.5 + 0.1 * (at == 0))
    far = Encoder(lags=LAGS).parts["far"]
    late = slice(at + len(values) + 400, None)
    ratio = (seen.scale[late] / clean.scale[late])[:, None]
    np.testing.assert_allclose(seen.inputs[late, far] * ratio, clean.inputs[late, far], atol=1e-6)


@pytest.mark.parametrize("stuck", ["start", "middle", "whole"])
def test_a_stuck_sensor_moves_nothing(stuck):
    y = _rows(3000, lost=0.0)[2:, 0]
    rows = {"start": [5.0] * 20000 + [*y], "middle": [*y, *[y[-1]] * 20000, *y], "whole": [5.0] * 500}[stuck]
    encoded = Encoder(lags=LAGS, horizon=2)(np.array(rows)[:, None])
    assert np.isfinite(encoded.inputs).all() and np.abs(encoded.inputs).max() <= 20
    scale = encoded.scale
    if stuck == "whole":
        assert not encoded.inputs.any() and np.isnan(encoded.learn).all()
    else:
        assert scale[-1] == pytest.approx(Encoder(lags=LAGS, horizon=2)(y[:, None]).scale[-1], rel=0.05)


@pytest.mark.parametrize(
    ("periods", "expected"), [((24,), (24, 0)), ((24, 168), (24, 168)), ((7,), (7, 0)), ((53,), (53, 0)), ((), (0, 0))]
)
def test_periods_are_found(periods, expected):
    rng, t = np.random.default_rng(5), np.arange(3000)
    y = 0.3 * rng.standard_normal(3000)
    for k, period in enumerate(periods):
        y += rng.standard_normal(period)[t % period] / 2.0**k
    encoder = Encoder(horizon=2)
    encoded = encoder(y[:, None])
    short, long = encoder.state["periods"].tolist()
    multiple = short and expected[1] == 0 and long % short == 0  # as good as none
    assert short == expected[0] and (long == expected[1] or multiple)
    assert not encoded.anew[1500:].any()  # what was found stays
    given = Encoder(horizon=2, period=12)
    assert not given(y[:, None]).anew[:, 0].any() and given.state["periods"][0] == 12


def test_periods_of_bundled_series():
    from streamgrad.data import SERIES, open_source

    for name, short in (("seattle-temps", 24), ("sf-temps", 24), ("elnino", 12)):
        encoder = Encoder()
        encoder(np.concatenate(list(open_source(name).read((SERIES[name].target,)))))
        assert encoder.state["periods"][0] == short, name


@pytest.mark.parametrize("wrong", [{"columns": 0}, {"lags": 0}, {"horizon": 0}, {"period": 1}])
def test_what_cannot_be_meant_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Encoder(**wrong)
