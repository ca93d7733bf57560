"""What `streamgrad learn` is made of: encoding, floors, scores, the forecaster."""

from __future__ import annotations

import numpy as np
import pytest

import streamgrad as sg
from streamgrad.forecast._scores import Scores
from streamgrad.lab.tasks.encoding import Encoder
from streamgrad.lab.tasks.floors import FORGETTING, PRIOR, Floors

RNG = np.random.default_rng(0)


def _rows(n=120, lost=0.1):
    """A target and a feature, with values missing here and there, at the start too."""
    rows = np.stack([50 + np.sin(np.arange(n) / 3), RNG.standard_normal(n)], axis=1)
    rows += 0.1 * RNG.standard_normal((n, 2))
    rows[RNG.random((n, 2)) < lost] = np.nan
    rows[:2, 0] = np.nan
    return rows


# Encoding.


def test_encoding_is_the_same_in_whatever_portions():
    rows = _rows()
    for horizon in (1, 3, 30):
        whole = Encoder(2, 5, horizon)(rows)
        for cut in (1, 2, 7):
            encoder = Encoder(2, 5, horizon)
            parts = [encoder(rows[at : at + cut]) for at in range(0, len(rows), cut)]
            for name, value in whole._asdict().items():
                joined = np.concatenate([getattr(part, name) for part in parts])
                np.testing.assert_array_equal(joined, value, err_msg=name)


def test_encoding_does_not_see_the_future():
    rows = _rows()
    before = Encoder(2, 5, 3)(rows)
    later = rows.copy()
    later[80:] = 1e6
    after = Encoder(2, 5, 3)(later)
    for name, value in before._asdict().items():
        np.testing.assert_array_equal(getattr(after, name)[:80], value[:80], err_msg=name)


def test_encoded_inputs_and_targets_are_what_they_say():
    rows, lags, h = _rows(lost=0.0)[2:], 4, 2
    y, encoder = rows[:, 0], Encoder(2, lags, h)
    encoded = encoder(rows)
    scale = encoded.scale[-1]
    assert (encoded.scale[10:] == scale).all()
    assert encoded.inputs.shape == (len(rows), encoder.size) and encoder.recurrent_size == 3
    t = 50
    level = (y[t] - y[: t + 1].mean()) / y[: t + 1].std()
    feature = (rows[t, 1] - rows[: t + 1, 1].mean()) / rows[: t + 1, 1].std()
    np.testing.assert_allclose(encoded.inputs[t, [0, 2]], [level, feature], rtol=1e-9)
    np.testing.assert_allclose(encoded.inputs[t, 3], (y[t] - y[7]) / 10 / scale)  # from where the scale was known
    steps = [(y[t - j] - y[t - j - 1]) / scale for j in range(lags - 1)]
    np.testing.assert_allclose(encoded.inputs[t, 4:], steps, rtol=1e-9)
    # A forecast is base + scale * output, and learns the output that would have been right.
    right = encoded.base[t - h] + encoded.scale[t - h] * encoded.learn[t]
    np.testing.assert_allclose(right, y[t], rtol=1e-12)


def test_missing_values_are_the_last_seen_and_missing_targets_are_not_learned():
    rows = np.array([[np.nan, 1.0], [3.0, np.nan], [np.nan, np.nan], [4.0, 5.0], [6.0, 5.0]])
    encoder = Encoder(2, 2, 1)
    encoded = encoder(rows)
    np.testing.assert_array_equal(encoded.base, [np.nan, 3, 3, 4, 6])
    assert np.isfinite(encoded.inputs).all()
    assert np.isnan(encoded.learn).all() and not encoded.scale.any()  # no scale yet: the last value is the forecast
    encoder(np.arange(20.0)[:, None] * [2, 1])
    np.testing.assert_array_equal(np.isnan(encoder(rows).learn), [True, False, True, False, False])


def test_constant_columns_and_wide_ranges_stay_finite():
    for rows in (np.full((50, 2), 7.0), np.full((50, 2), np.nan), 1e98 * _rows(50, 0.0)[2:]):
        encoded = Encoder(2, 5, 2)(rows)
        assert np.isfinite(encoded.inputs).all()


def test_one_wild_value_counts_for_a_limited_jump():
    rows = _rows(200, 0.0)[2:]
    outputs = []
    for wild in (1e4, 1e90):
        glitch = rows.copy()
        glitch[100] = wild
        encoded = Encoder(2, 4, 1)(glitch)
        assert abs(encoded.inputs).max() < 200 and abs(np.nan_to_num(encoded.learn)).max() < 200
        assert encoded.base[100] == encoded.truth[100] == wild  # it is scored as it came
        outputs.append((encoded.inputs, encoded.learn))
    for a, b in zip(*outputs):  # how wild it was does not matter
        np.testing.assert_array_equal(a, b)


def test_a_larger_range_is_soon_taken_for_what_it_is():
    rows = _rows(2000, 0.0)[2:, :1] - 50
    rows[1000:] *= 1000
    encoded = Encoder(1, 4, 1)(rows)
    change = np.diff(rows[:, 0])
    right = change[999:] / encoded.scale[999:-1]
    assert np.isnan(encoded.learn[1001])  # a jump at first
    np.testing.assert_allclose(encoded.learn[1100:], right[100:])


# Floors and scores.


def test_floors_against_their_definitions():
    rows, h, period = _rows(90, 0.0)[2:], 5, 3
    y, n = rows[:, 0], len(rows)
    encoder = Encoder(2, 4, h)
    encoded = encoder(rows)
    floors = Floors(encoder.size, h, period)
    forecasts = floors(encoded)
    assert floors.names == ("last value", "seasonal last value", "RLS on lags")
    np.testing.assert_array_equal(forecasts[:, 0], y)
    ahead = np.arange(n) + h - period * 2  # the newest row of that season that is known
    known = ahead >= 0
    np.testing.assert_array_equal(forecasts[known, 1], y[ahead[known]])
    # Least squares in closed form, with what is known at row t only.
    inputs = np.concatenate([encoded.inputs[:, 2:], np.ones((n, 1))], axis=1)
    for t in (h, 40, n - 1):
        known = np.flatnonzero(np.isfinite(encoded.learn[h : t + 1]))
        a, b = inputs[known], encoded.learn[h:][known]
        weights = FORGETTING ** np.arange(len(a))[::-1]
        prior = np.eye(inputs.shape[1]) / PRIOR * FORGETTING ** len(a)
        solved = np.linalg.solve(a.T @ (a * weights[:, None]) + prior, a.T @ (weights * b))
        right = encoded.base[t] + encoded.scale[t] * (inputs[t] @ solved)
        np.testing.assert_allclose(forecasts[t, 2], right, rtol=1e-7)


def test_floors_and_scores_are_the_same_in_whatever_portions():
    encoded = Encoder(2, 4, 5)(_rows())

    def run(cut):
        floors, scores, outs = Floors(encoded.inputs.shape[1], 5, 3), Scores("abc"), []
        for at in range(0, len(encoded.truth), cut):
            part = type(encoded)(*(value[at : at + cut] for value in encoded))
            outs.append(floors(part))
            scores(part.truth, outs[-1])
        return np.concatenate(outs), np.concatenate([scores.state["all"], scores.state["part"]])

    for a, b in zip(run(1), run(1000)):
        np.testing.assert_array_equal(a, b)


def test_least_squares_stays_finite_without_excitation():
    encoder = Encoder(1, 4, 1)
    floors = Floors(encoder.size, 1, None)
    rows = np.concatenate([RNG.standard_normal(50), np.full(60_000, 3.0)])[:, None]
    forecasts = floors(encoder(rows))
    assert np.isfinite(forecasts).all() and np.isfinite(floors.state["variance"]).all()
    np.testing.assert_allclose(forecasts[-1], 3.0, atol=1e-3)


def test_scores_against_numpy():
    truth = RNG.standard_normal(100)
    forecasts = truth[:, None] + RNG.standard_normal((100, 2))
    truth[10], forecasts[20, 1] = np.nan, np.nan  # then nobody is scored on that row
    scores = Scores(["a", "b"])
    assert np.isnan(scores.nrmse()["a"]) and scores.rows == 0
    scores(truth, forecasts)
    keep = np.isfinite(truth) & np.isfinite(forecasts).all(axis=1)
    error = (forecasts - truth[:, None])[keep]
    assert scores.rows == 98
    nrmse = np.sqrt((error**2).mean(axis=0)) / truth[keep].std()
    np.testing.assert_allclose(list(scores.nrmse().values()), nrmse)
    np.testing.assert_allclose(list(scores.mae().values()), abs(error).mean(axis=0))


def test_names_of_algorithms():
    assert sg.algorithms.algorithm("snap-3").n == 3
    for name in ("snap", "snap-0", "tbptt-x", ""):
        with pytest.raises(ValueError, match=r"there is no algorithm|n >= 1"):
            sg.algorithms.algorithm(name)
