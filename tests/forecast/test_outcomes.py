"""Events, counts and classes: what is said of them beside what is known of the stream, and that nothing is refused late
or silently wrong."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
from scipy import stats

import streamgrad as sg
from streamgrad.cli.learn import main
from streamgrad.forecast import Forecaster, RowError
from streamgrad.forecast._journal import Journal
from streamgrad.forecast._outcome_floors import Frequencies, Means
from streamgrad.forecast._outcome_scores import count_rarity, rarity

N = 3000
RNG = np.random.default_rng(0)
NAMES = ("sun", "rain, heavy", "7")
P = np.array([[0.75, 0.15, 0.1], [0.1, 0.3, 0.6], [0.45, 0.5, 0.05]])  # of the next row, given the row before this one


def chain(p, n):
    codes = [0, 1]
    while len(codes) < n:
        codes.append(int(RNG.choice(len(p), p=p[codes[-2]])))
    return np.array(codes)


CODES = chain(P, N)
TEXTS = [NAMES[code] for code in CODES]
HOLED = [None if k % 17 == 3 else text for k, text in enumerate(TEXTS)]
SMALL = {"outcome": "class", "learner": "light", "horizon": 2, "features": ("x",)}
ROWS = [{"w": text, "x": float(x)} for text, x in zip(HOLED[:260], RNG.normal(size=260))]


def same(a, b, first=0, last=None):
    for name, column in a.columns().items():
        np.testing.assert_array_equal(column[first:last], b.columns()[name][first:last], err_msg=name)


def told(n):
    """A forecaster of classes after that many rows, and its table: whatever the chain, they fit together."""
    forecaster = Forecaster("w", outcome="class")
    table = forecaster.run([{"w": text} for text in TEXTS[:n]])
    found = forecaster.scores()
    assert table.classes == tuple(dict.fromkeys(TEXTS)) == tuple(found["classes"])
    best = [table.classes[k] for k in np.nan_to_num(table.probabilities[:-1]).argmax(axis=1)]
    assert list(table.value[:-1]) == best and list(table.due[1:]) == best
    right = np.mean([due == text for due, text in zip(table.due[1:], TEXTS[1:n])])
    np.testing.assert_allclose(found["accuracy"]["network"], right)
    return table, found


@pytest.mark.full
def test_the_most_probable_class_is_the_forecast():
    table, _ = told(300)
    np.testing.assert_allclose(table.probabilities[100:-1].sum(axis=1), 1, atol=0.02)


@pytest.mark.full
def test_classes_of_a_chain_are_as_probable_as_they_are():
    """A chain whose last value says little, and the one before all: nearly its entropy rate, below the floors."""
    table, found = told(N)
    true = P[CODES[:-2], CODES[2:]]
    own = -np.log(true[-(found["rows"] - found["half"]) :]).mean()
    stationary = np.linalg.matrix_power(P, 99)[0]
    rate = -(stationary[:, None] * P * np.log(P)).sum()
    assert abs(own / rate - 1) < 0.03  # the sample is what the chain is
    losses = found["log_loss_half"]
    assert own < losses["network"] < 1.03 * own
    assert all(losses["network"] < 0.9 * losses[floor] for floor in losses if floor != "network")
    assert "wins over running frequencies and after the last value in the second half" in found["verdict"]
    said = table.probabilities[1500:-1]
    order = [NAMES.index(name) for name in table.classes]
    np.testing.assert_allclose(said.sum(axis=1), 1, atol=1e-3)  # what is left is for a class not seen yet
    assert abs(said - P[CODES[1499:-2]][:, order]).mean() < 0.04


def test_events_have_their_probability():
    p = np.array([[0.92, 0.08], [0.3, 0.7]])
    events = chain(p, 2000)
    forecaster = Forecaster("e", outcome="event", learner="light")
    table = forecaster.run({"e": events})
    true = p[events[:-2], events[2:]]
    found = forecaster.scores()
    own = -np.log(true[-(found["rows"] - found["half"]) :]).mean()
    losses = found["log_loss_half"]
    assert own < losses["network"] < 1.05 * own
    assert losses["network"] < 0.9 * min(losses["running frequencies"], losses["after the last value"])
    assert abs(table.value[1000:-1] - p[events[999:-2], 1]).mean() < 0.05
    due = table.due[1:]
    np.testing.assert_allclose(found["log_loss"]["network"], -np.log(np.where(events[1:], due, 1 - due)).mean())
    np.testing.assert_allclose(found["brier"]["network"], ((due - events[1:]) ** 2).mean())


@pytest.mark.parametrize("size", [1.0, 2000.0])
def test_counts_follow_their_season(size):
    mean = size * np.exp(np.sin(2 * np.pi * np.arange(1500) / 12))
    counts = RNG.poisson(mean)
    counts[700] = 10**7  # a wild one
    forecaster = Forecaster("c", outcome="count", learner="light", period=12)
    table = forecaster.run({"c": counts})
    found = forecaster.scores()
    losses, half = found["log_loss_half"], slice(1500 - (found["rows"] - found["half"]), None)
    due = table.due[half]
    np.testing.assert_allclose(losses["network"], -stats.poisson.logpmf(counts[half], due).mean(), rtol=1e-9)
    # From one season after the wild count on nothing is left of it.
    assert np.sqrt(np.mean((np.log(table.value[1000:-1]) - np.log(mean[1001:])) ** 2)) < 0.4
    assert losses["network"] < 0.95 * min(losses["running mean"], losses["recent mean"])
    np.testing.assert_allclose(found["mae_half"]["network"], abs(due - counts[half]).mean())


@pytest.mark.parametrize(("horizon", "known"), [(1, None), (2, None), (2, 3)])
def test_floors_of_classes_are_counted(horizon, known):
    codes = CODES[:60].astype(float)
    codes[[5, 6, 20]] = np.nan
    floors = Frequencies(horizon, known)
    parts = [floors(part) for part in (codes[:7], codes[7:8], codes[8:])]
    said, seen = (np.concatenate(each) for each in zip(*parts))
    held = codes.copy()
    for t in range(1, 60):
        held[t] = held[t - 1] if np.isnan(held[t]) else held[t]
    for t in range(60):
        past = codes[: t + 1]
        classes = range(known) if known else [c for c in range(said.shape[2]) if c in past]
        n, k = np.isfinite(past).sum(), len(classes)
        share = 1.0 if known else 1 - 1 / (n + k + 1)
        assert np.flatnonzero(seen[t]).tolist() == list(classes)
        pairs = [(held[s - horizon], past[s]) for s in range(horizon, t + 1) if np.isfinite(past[s])]
        after = [to for at, to in pairs if at == held[t]]
        for c in classes:
            np.testing.assert_allclose(said[t, 0, c], share * ((past == c).sum() + 1) / (n + k), rtol=1e-12)
            np.testing.assert_allclose(said[t, 1, c], share * (after.count(c) + 1) / (len(after) + k), rtol=1e-12)
        if not known:
            np.testing.assert_allclose(said[t][:, ~seen[t]], 1 / (n + k + 1))


def test_floors_of_counts_are_means():
    counts = np.array([3.0, np.nan, 0.0, 5.0, 1.0] * 12)
    means = Means()
    said = np.concatenate([means(counts[:9]), means(counts[9:])])
    recent, n = 1.0, 0
    for t, y in enumerate(counts):
        if y == y:
            n += 1
            recent += max(1 / (n + 1), 0.05) * (y - recent)
        np.testing.assert_allclose(said[t], [(np.nansum(counts[: t + 1]) + 1) / (n + 1), recent], rtol=1e-12)


def test_surprise_is_the_probability_of_what_is_as_rare():
    every = np.arange(20_000)
    for rate in (0.01, 0.7, 4.0, 4.5, 5000.0):
        p = stats.poisson.pmf(every, rate)
        counts = np.unique([0, 1, 2, *np.round(rate * np.array([0.5, 0.97, 1, 1.01, 1.03, 2]))])
        want = [-math.log10(max(p[p <= p[int(c)] * (1 + 1e-9)].sum(), 1e-300)) for c in counts]
        found = count_rarity(counts, np.full(len(counts), rate))
        close = np.array(want) < 290
        np.testing.assert_allclose(found[close], np.array(want)[close], atol=1e-6, rtol=1e-5)
    p = np.array([[0.5, 0.2, 0.3]] * 4)
    np.testing.assert_allclose(rarity(np.array([0, 1, 2, np.nan]), p), [0, -math.log10(0.2), -math.log10(0.5), np.nan])


def test_portions_and_a_saved_forecaster_say_the_same(tmp_path):
    whole, cut = Forecaster("w", **SMALL), Forecaster("w", **SMALL)
    table = whole.run(ROWS)
    for row in ROWS[:20]:
        out = cut.update(row)
    same_row = table.at(19)
    assert out.value == same_row.value
    np.testing.assert_equal(out.surprise, same_row.surprise)
    for name, p in out.probabilities.items():
        assert p == same_row.probabilities[name]
    cut.run(ROWS[20:201])
    cut.save(tmp_path)
    loaded = Forecaster.load(tmp_path)
    assert loaded.columns.classes.texts == whole.columns.classes.texts and loaded.outcome == "class"
    rest = loaded.run(ROWS[201:])
    np.testing.assert_array_equal(rest.probabilities, table.probabilities[201:])
    np.testing.assert_array_equal(rest.surprise, table.surprise[201:])
    assert loaded.scores() == whole.scores()


def test_nothing_is_known_before_its_time_and_what_is_missing_teaches_nothing():
    later = [{"w": NAMES[0], "x": 9.0} if k >= 150 else row for k, row in enumerate(ROWS)]
    a, b = Forecaster("w", **SMALL).run(ROWS), Forecaster("w", **SMALL).run(later)
    same(a, b, last=150)
    assert (a.probabilities[150:] != b.probabilities[150:]).any()
    forecaster = Forecaster("w", **SMALL)
    table = forecaster.run(ROWS)
    missing = [k for k, row in enumerate(ROWS) if row["w"] is None]
    assert np.isnan(table.surprise[missing]).all()
    given = np.array([row["w"] is not None for row in ROWS])
    assert forecaster.scores()["rows"] == given[2:].sum()  # the first forecast is made at row 0, for row 2
    assert forecaster.missing[0] == len(missing)
    model = lambda: [np.asarray(leaf) for leaf in forecaster.targets[0].learner._learner.model(
        forecaster.targets[0].learner.memory).readout.weight]  # fmt: skip
    before = model()
    forecaster.run([{"w": None, "x": 1.0}] * 9)
    np.testing.assert_array_equal(model(), before)


def test_fit_learns_several_times():
    forecaster = Forecaster("w", **SMALL)
    forecaster.fit(ROWS, passes=2)
    assert forecaster.scores()["rows"] == 0 and forecaster.row == len(ROWS)
    assert math.isfinite(forecaster.run(ROWS[:20]).surprise[-1])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"outcome": "kind"}, "there is no outcome 'kind': there are number, event, count, class"),
        ({"path": 3}, "path does not go with outcome='class'"),
        ({"target": ("a", "b")}, "goes with one target, got 2"),
        ({"beside": ("frozen",)}, "beside does not go with"),
        ({"levels": (0.5,)}, "levels does not go with"),
        ({"learner": "adam"}, "is forecast by the learner 'mixture'"),
        ({"net": sg.forecast.Net()}, "net does not go with"),
        ({"horizon": 0}, "horizon must be"),
    ],
)
def test_what_does_not_go_together_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Forecaster(**{"target": "y", "outcome": "class", **given})


@pytest.mark.parametrize(
    ("outcome", "bad", "message"),
    [
        ("event", 0.5, "is no event: 1 or 0"),
        ("event", "yes", "is not a number"),
        ("count", -1, "is no count: a whole number"),
        ("count", 1.5, "is no count: a whole number"),
        ("class", "x" * 81, "printable text of up to 80 bytes"),
        ("class", "a\nb", "printable text"),
    ],
)
def test_what_is_no_outcome_is_refused(outcome, bad, message):
    forecaster = Forecaster("y", outcome=outcome, learner="light")
    with pytest.raises(RowError, match=message):
        forecaster.update({"y": bad})
    assert forecaster.row == 0


def test_a_seventeenth_class_is_refused_by_name():
    forecaster = Forecaster("y", outcome="class", learner="light")
    for k in range(16):
        forecaster.update({"y": k})
    with pytest.raises(RowError, match="'new' is a 17th class, beside '0', '1', "):
        forecaster.update({"y": "new"})
    out = forecaster.update({"y": 3.0})  # 3, 3.0 and "3" are one
    assert len(out.probabilities) == 16 and sum(out.probabilities.values()) == pytest.approx(1)


def test_a_journal_grows_by_columns_and_is_cut_back(tmp_path):
    column = lambda *values: np.array(values, float)
    journal = Journal(tmp_path, ["row", "p_a"])
    journal.predictions({"row": column(0, 1), "p_a": column(1, 2)})
    lengths = journal.sync()
    journal.predictions({"row": column(2), "p_a": column(3), "p_b,c": column(4)})
    journal.predictions({"row": column(3), "p_a": column(5), "p_b,c": column(6)})
    journal.close()
    path = tmp_path / "predictions.csv"
    assert path.read_text() == 'row,p_a,"p_b,c"\n0,1,\n1,2,\n2,3,4\n3,5,6\n'
    Journal(tmp_path, ["row", "p_a"], lengths).close()
    assert path.read_text() == "row,p_a\n0,1\n1,2\n"


def test_the_command_line_writes_what_python_says(tmp_path, capsys):
    texts = ["b, c" if k >= 250 and k % 5 == 0 else text for k, text in enumerate(HOLED[:330])]
    path, out = tmp_path / "s.csv", tmp_path / "out"
    lines = lambda n: "w\n" + "".join(f'"{text or ""}"\n' for text in texts[:n])
    path.write_text(lines(240))
    run = [str(path), "--target", "w", "--outcome", "class", "--light", "--out", str(out)]
    assert main([*run]) == 0
    path.write_text(lines(330))  # it goes on, with a class of which the files knew nothing
    assert main([*run, "--resume", "--predictions", "parquet"]) == 0
    said = capsys.readouterr().out
    assert "accuracy" in said and "after the last value" in said and "'b, c'" in said
    table = Forecaster("w", outcome="class", learner="light").run(path)
    table.to_csv(tmp_path / "own.csv")
    assert (out / "predictions.csv").read_bytes() == (tmp_path / "own.csv").read_bytes()
    with open(out / "predictions.csv", newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["truth"] for row in found] == [text or "" for text in texts]
    assert found[240]["p_b, c"] == "" and float(found[-1]["p_b, c"]) > 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["classes"] == list(table.classes) and summary["config"]["outcome"] == "class"
    assert (out / "forecast.png").stat().st_size > 10_000 and (out / "predictions.parquet").exists()
    path.write_text("w\n" + "sun\n" * 30)
    assert main([*run, "--overwrite"]) == 1
    assert "is sun in every row" in capsys.readouterr().err


def test_backtest_compares_log_losses():
    rows = [{"w": text} for text in TEXTS[:300]]
    found = sg.forecast.backtest(rows, {"target": "w", "outcome": "class", "learner": "light", "horizon": [1, 2]})
    assert [result["settings"]["horizon"] for result in found] == [1, 2] or found[0]["log_loss_half"] > 0
    assert found[0]["log_loss_half"] <= found[1]["log_loss_half"] and "accuracy" in found[0]
    with pytest.raises(ValueError, match="outcomes of several kinds"):
        sg.forecast.backtest(rows, {"target": "w", "outcome": ["class", "number"]})
