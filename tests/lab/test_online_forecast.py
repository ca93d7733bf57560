"""Paths under the leak-free protocol: what is scored, what is known when, and the filters against plain algebra."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from streamgrad.cli.experiment import main
from streamgrad.lab.experiments import _paths, online_forecast

ROOT = Path(__file__).parents[2]


def waves(n, channels, seed=0):
    rng = np.random.default_rng(seed)
    t = np.arange(n)[:, None]
    return np.cumsum(rng.normal(size=(n, channels)), axis=0) / 3 + np.sin(t * 2 * np.pi / 12 + np.arange(channels))


def test_the_protocol_by_loops():
    raw = waves(60, 2)
    rules = online_forecast.protocol(raw, (20, 30, 50), "test")
    z = (raw[:50] - raw[:20].mean(0)) / raw[:20].std(0)
    np.testing.assert_allclose(rules.values, z)
    squares = [
        (z[t + k, c] - z[t, c]) ** 2 for t in range(29, 50 - 3) for k in (1, 2, 3) for c in range(2)
    ]  # targets of every path lie in rows 30 to 49
    assert rules.error(_paths.repeated(z, 3)) == pytest.approx(np.mean(squares))
    assert rules.error(_paths.following(z, 3)) == 0  # an oracle
    assert len(online_forecast.protocol(raw, (20, 30, 50), "validation").values) == 30
    shares = online_forecast.protocol(waves(7588, 1), (0.2, 0.25, 1.0), "test")
    assert (len(shares.values), shares.begin) == (7588, 7588 - 5691)
    with pytest.raises(ValueError, match="no parts"):
        online_forecast.protocol(raw[:20], (20, 30, 50), "test")


def test_nothing_is_known_before_it_has_come():
    steps, at = 3, 110
    y = waves(120, 2)
    other = np.concatenate([y[: at + 1], 50 * waves(120 - at - 1, 2, 1)])

    def said(values):
        seen = _paths.Inputs(values, steps)
        paths = _paths.experts(values, steps, seen) | {"reservoir": _paths.reservoir(seen, 0)}
        mixture = _paths.mixed(paths, values)
        return paths | {"mixture": mixture, "trusted": _paths.trusted(mixture, values)}

    one, two = said(y), said(other)
    assert set(online_forecast.MIXED) < set(one)
    for name, paths in one.items():
        np.testing.assert_array_equal(paths[: at + 1], two[name][: at + 1], err_msg=name)
        assert np.isfinite(paths[1:]).all(), name
        assert not np.array_equal(paths[at + 1 :], two[name][at + 1 :]), name


def test_a_path_is_learned_when_its_last_step_has_come():
    n, steps, size = 60, 4, 3
    rng = np.random.default_rng(2)
    x, w = rng.normal(size=(n, 2, size)), rng.normal(size=(2, size, steps))
    u = np.einsum("ncp,cph->nch", x, w) + 0.01 * rng.normal(size=(n, 2, steps))
    u[n - steps :] = np.nan
    said = _paths.least_squares(x, u, prior=0.5, forgetting=1.0)
    for t in (3, 4, 20, n - 1):  # against ridge regression on the pairs that are known by then
        known = max(0, t - steps + 1)
        for c in range(2):
            gram = x[:known, c].T @ x[:known, c] + np.eye(size) / 0.5
            ridge = np.linalg.solve(gram, x[:known, c].T @ u[:known, c]) if known else np.zeros((size, steps))
            np.testing.assert_allclose(said[t, c], x[t, c] @ ridge, atol=0.15 if known < 20 else 1e-2)
    np.testing.assert_array_equal(said[:steps], 0)


def test_trust_is_a_regression_on_what_had_come():
    n, steps = 50, 2
    y, said = waves(n, 1), waves(n, 1, 3)[:, :, None] + np.zeros((1, 1, steps))
    found = _paths.trusted(said, y)
    t, k = 40, 1
    rows = np.arange(t - steps + 1)
    weight = _paths.FORGET ** (rows[-1] - rows)
    d, c = said[rows, 0, k] - y[rows, 0], y[rows + k + 1, 0] - y[rows, 0]
    trust = (weight * d * c).sum() / ((weight * d * d).sum() + 30 / weight.sum() * (weight * c * c).sum())
    expected = y[t, 0] + np.clip(trust, 0, 1) * (said[t, 0, k] - y[t, 0])
    np.testing.assert_allclose(found[t, 0, k], expected)


def test_it_runs(tmp_path):
    assert main(["online-forecast", "--quick", "--horizons", "2", "--out", str(tmp_path / "run")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "results.jsonl").read_text().splitlines()]
    errors = {row["variant"]["method"]: row["mse"] for row in rows}
    assert errors["trusted mixture"] < errors["last value"] and set(errors) == set(online_forecast.METHODS)


def test_what_is_not_there_is_refused(tmp_path, capsys):
    with pytest.raises(ValueError, match="no set 'nile'"):
        online_forecast.Settings(sets=("nile",))
    assert main(["online-forecast", "--sets", "etth2", "--folder", "nowhere", "--out", str(tmp_path / "o")]) == 1
    assert "etth2.csv" in capsys.readouterr().err


def test_the_last_value_of_the_published_runs():
    path = ROOT / "results" / "online-forecast" / "results.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    found = {
        (row["variant"]["set"], row["variant"]["steps"]): round(row["mse"], 3)
        for row in rows
        if row["variant"]["method"] == "last value"
    }
    exchange = {("exchange", 1): 0.009, ("exchange", 24): 0.086, ("exchange", 48): 0.165}
    assert found == {("etth2", 1): 0.404, ("etth2", 24): 1.818, ("etth2", 48): 2.852} | exchange
