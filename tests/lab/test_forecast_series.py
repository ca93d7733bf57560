"""The experiment on many real series: which are held out, what is scored, how it is summed up."""

from __future__ import annotations

import json

import numpy as np
import pytest

from streamgrad.cli.experiment import main
from streamgrad.lab.experiments import _series, forecast_series


def test_every_second_name_is_held_out():
    assert _series.NAMES[1::2] == _series.HELD_OUT
    assert len(_series.NAMES) >= 12 and list(_series.NAMES) == sorted(_series.NAMES)


def test_series_are_read_from_a_folder(tmp_path):
    (tmp_path / "taylor.csv").write_text('"Y"\n1.5\n\n2.5\nNA\n4\n')
    np.testing.assert_array_equal(_series.read("taylor", str(tmp_path), 4), [1.5, 2.5, np.nan, 4])
    np.testing.assert_array_equal(_series.read("taylor", str(tmp_path), 2), [1.5, 2.5])
    assert "taylor" in _series.present(str(tmp_path)) and "etth1" not in _series.present(str(tmp_path))
    with pytest.raises(ValueError, match="--folder"):
        _series.read("etth1", str(tmp_path), 9)


def test_an_error_is_of_what_came_due():
    y = np.array([1.0, 2.0, np.nan, 4.0, 6.0, 5.0])
    said = np.array([np.nan, 3.0, 3.0, 7.0, 1e9, 1e9])  # for rows 2 to 7
    whole, late = forecast_series.errors(y, said, 2)
    truth = np.array([4.0, 6.0, 5.0])
    assert whole == late == pytest.approx(np.sqrt((1 + 9 + 4) / 3) / truth.std())


def test_it_runs_and_sums_up(tmp_path):
    assert main(["forecast-series", "--quick", "--out", str(tmp_path / "run")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "results.jsonl").read_text().splitlines()]
    ends = {(r["variant"]["horizon"], r["variant"]["method"]): r for r in rows if r["split"] == "end"}
    assert len(ends) == 8 and all(0 < r["late"] < 3 for r in ends.values())
    summaries = {r["variant"]["method"]: r for r in rows if r["split"] == "summary"}
    assert summaries[forecast_series.REFERENCE]["whole"] == pytest.approx(1)
    ratio = [ends[h, "RLS-8"]["late"] / ends[h, forecast_series.REFERENCE]["late"] for h in (1, 2)]
    assert summaries["RLS-8"]["half"] == pytest.approx(np.sqrt(ratio[0] * ratio[1]))
    best = [min(ends[h, m]["late"] for m in summaries if m != "trees-32") for h in (1, 2)]
    assert {r["variant"]["method"] for r in rows if r["split"] == "frontier"} == {"last value", "trees-32"}
    assert summaries["RLS-8"]["worst"] == pytest.approx(max(ends[h, "RLS-8"]["late"] / best[h - 1] for h in (1, 2)))


@pytest.mark.parametrize("wrong", [["--series", "nile"], ["--methods", "magic"], ["--part", "some"]])
def test_unknown_names_are_refused(wrong, tmp_path):
    with pytest.raises((ValueError, SystemExit)):
        main(["forecast-series", *wrong, "--out", str(tmp_path / "run")])
