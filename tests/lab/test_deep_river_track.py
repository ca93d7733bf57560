"""deep-river's track: the errors against a loop over a forecaster, as river's evaluation makes it."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest

from streamgrad.cli.experiment import main
from streamgrad.lab.experiments import deep_river_track as track


class Trend:
    """Adds the last change as often as there are steps."""

    def __init__(self):
        self.seen = []

    def learn_one(self, y, x=None):
        self.seen.append(y)

    def forecast(self, horizon, xs=None):
        change = self.seen[-1] - self.seen[-2] if len(self.seen) > 1 else 0.0
        return [self.seen[-1] + k * change for k in range(1, horizon + 1)]


def series(n=40):
    return np.cumsum(np.random.default_rng(0).normal(size=n)) + 20


def paths(y):
    model, said = Trend(), []
    for value in y.tolist():
        model.learn_one(value)
        said.append(model.forecast(track.STEPS))
    return np.array(said)


def test_errors_by_a_loop():
    y, model, wrong = series(), Trend(), []
    for t, value in enumerate(y.tolist()):
        if t >= 12 and t + 3 < len(y):
            wrong += [abs(a - b) for a, b in zip(model.forecast(3), y[t + 1 : t + 4].tolist(), strict=True)]
        model.learn_one(value)
    found = track.errors(y, paths(y))
    assert found["track"] == pytest.approx(np.mean(wrong))
    said = paths(y)
    rows = range(12, len(y) - 3)
    assert found["after"] == pytest.approx(np.mean([abs(said[t, :3] - y[t + 1 : t + 4]) for t in rows]))
    assert found["meant"] == pytest.approx(np.mean([abs(said[t - 1, 1:] - y[t + 1 : t + 4]) for t in rows]))
    oracle = np.stack([np.concatenate([y[k:], np.zeros(k)]) for k in range(1, 5)], axis=1)
    perfect = track.errors(y, oracle)
    assert perfect["meant"] == perfect["after"] == 0 < perfect["track"]


@pytest.mark.skipif(importlib.util.find_spec("river") is None, reason="river is not installed")
def test_errors_by_river():
    from river import evaluate, metrics

    y = series()
    loop = evaluate.evaluate([({}, v) for v in y.tolist()], Trend(), metrics.MAE(), 3, np.mean)
    before = track.GRACE
    track.GRACE = 3  # river's own: as many rows as the horizon
    try:
        assert track.errors(y, paths(y))["track"] == pytest.approx(loop.get())
    finally:
        track.GRACE = before


def test_it_runs_on_files_of_a_folder(tmp_path):
    lines = ["month,passengers", *(f"1949-{m},{v}" for m, v in enumerate(np.tile(np.arange(12), 3)))]
    (tmp_path / "airline-passengers.csv").write_text("\n".join(lines))
    out = tmp_path / "run"
    options = ["--quick", "--sets", "airline-passengers", "--folder", str(tmp_path), "--out", str(out)]
    assert main(["deep-river-track", *options]) == 0
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    errors = {row["variant"]["method"]: row for row in rows}
    assert errors["seasonal last value"]["after"] == 0 < errors["last value"]["after"]
    assert main(["deep-river-track", "--folder", str(tmp_path / "none"), "--out", str(tmp_path / "o")]) == 1
