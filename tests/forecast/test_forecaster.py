"""`sg.forecast.Forecaster`: what it says, of whatever rows, and that nothing is silently wrong."""

from __future__ import annotations

import datetime

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import streamgrad as sg
from streamgrad.forecast import Forecaster, Net, RowError
from streamgrad.forecast._experts import Expert
from streamgrad.forecast._feed import csv_lines
from streamgrad.forecast._learners import NAMES, learner

H, N = 3, 420
RNG = np.random.default_rng(0)
T = np.arange(N)
DEMAND = 50 + 3 * np.sin(2 * np.pi * T / 24) + 0.3 * RNG.standard_normal(N)
WIND = RNG.standard_normal(N)
DEMAND[RNG.random(N) < 0.02] = np.nan
TABLE = {"demand": DEMAND, "wind": WIND}
SMALL = {"learner": "light", "horizon": H, "features": "wind"}


def _rows(table):
    return [dict(zip(table, row)) for row in zip(*table.values())]


def _same(a, b):
    for name, column in a.columns().items():
        np.testing.assert_array_equal(column, b.columns()[name], err_msg=name)


@pytest.fixture(scope="module")
def table():
    forecaster = Forecaster("demand", **SMALL)
    return forecaster.run(TABLE), forecaster


def test_rows_may_come_in_any_form(table, tmp_path):
    whole, _ = table
    path = tmp_path / "s.csv"
    lines = [f"{'' if d != d else repr(float(d))},{w!r}" for d, w in zip(DEMAND, WIND.tolist())]
    path.write_text("demand,wind\n" + "\n".join(lines) + "\n")
    forms = [
        path,
        sg.data.open_source(str(path)),
        _rows(TABLE),
        iter(_rows({name: [None if v != v else v for v in column.tolist()] for name, column in TABLE.items()})),
        np.stack([DEMAND, WIND], axis=1),
        np.ma.masked_invalid(np.stack([DEMAND, WIND], axis=1)),
    ]
    for rows in forms:
        _same(Forecaster("demand", **SMALL).run(rows), whole)
    by_number = Forecaster(1, features=0, learner="light", horizon=H)
    np.testing.assert_array_equal(by_number.run(np.stack([WIND, DEMAND], axis=1)).value, whole.value)


def test_one_row_at_a_time_says_the_same(table):
    whole, _ = table
    forecaster = Forecaster("demand", **SMALL)
    for t, row in enumerate(_rows(TABLE)[:150]):
        out = forecaster.update(row)
        np.testing.assert_array_equal(out.value, whole.value[t])
        np.testing.assert_array_equal(out.lower, whole.lower[t])
        np.testing.assert_array_equal(out.surprise, whole.surprise[t])
    assert forecaster.row == 150


def test_a_forecast_is_for_the_row_horizon_later(table):
    whole, forecaster = table
    np.testing.assert_array_equal(whole.due[H:], whole.value[:-H])
    columns = whole.columns()
    np.testing.assert_array_equal(columns["network"][H:], columns["ahead"][:-H])
    np.testing.assert_array_equal(columns["lower_95"][H:], columns["ahead_lower_95"][:-H])
    np.testing.assert_array_equal(columns["last_value"][H + 2 :], DEMAND_FILLED[2:-H])
    scores, truth = forecaster.scores(), DEMAND
    scored = np.isfinite(truth) & np.isfinite(columns["network"])
    wrong = (columns["network"] - truth)[scored]
    assert scores["rows"] == scored.sum()
    np.testing.assert_allclose(scores["nrmse"]["network"], np.sqrt(np.mean(wrong**2)) / truth[scored].std(), rtol=1e-9)
    np.testing.assert_allclose(scores["mae"]["network"], np.mean(abs(wrong)), rtol=1e-9)
    late = wrong[scores["half"] :]
    half = np.sqrt(np.mean(late**2)) / truth[scored].std()
    np.testing.assert_allclose(scores["nrmse_half"]["network"], half, rtol=1e-7)
    assert abs(scores["half"] - scores["rows"] / 2) <= 8
    np.testing.assert_allclose(scores["median"]["network"], np.median(abs(wrong)), rtol=0.05)
    assert scores["mase"]["last value"] == 1 and "network" in scores["verdict"]


DEMAND_FILLED = np.array(
    [DEMAND[: t + 1][np.isfinite(DEMAND[: t + 1])][-1] if np.isfinite(DEMAND[: t + 1]).any() else np.nan for t in T]
)


def test_no_forecast_sees_what_comes_after_it(table):
    later = {**TABLE, "demand": np.where(T < 300, DEMAND, 1e6)}
    said, (whole, _) = Forecaster("demand", **SMALL).run(later), table
    for name, column in whole.columns().items():
        np.testing.assert_array_equal(said.columns()[name][:300], column[:300], err_msg=name)


def test_saved_and_loaded_goes_on_to_the_bit(table, tmp_path):
    whole, _ = table
    forecaster = Forecaster("demand", **SMALL)
    rows = _rows(TABLE)
    forecaster.run(rows[:211])
    forecaster.save(tmp_path)
    loaded = Forecaster.load(tmp_path)
    rest = loaded.run(rows[211:])
    for name, column in rest.columns().items():
        np.testing.assert_array_equal(column, whole.columns()[name][211:], err_msg=name)
    with pytest.raises(sg.checkpoint.CheckpointError, match="holds no forecaster"):
        sg.checkpoint.save(tmp_path / "other", {"a": np.ones(2)}, step=1)
        Forecaster.load(tmp_path / "other")
    with pytest.raises(sg.checkpoint.CheckpointError, match="no valid checkpoint"):
        Forecaster.load(tmp_path / "nowhere")


@pytest.mark.parametrize("unit", [1e-12, 1e-3, 1e12])
def test_units_change_nothing(table, unit):
    whole, _ = table
    scaled = Forecaster("demand", **SMALL).run({"demand": DEMAND * unit, "wind": WIND / unit})
    for name in ("value", "lower", "upper", "due"):
        np.testing.assert_allclose(getattr(scaled, name) / unit, getattr(whole, name), rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(scaled.surprise, whole.surprise, atol=0.02)


def test_several_targets_are_each_as_good_as_alone():
    both = Forecaster(("demand", "wind"), learner="light", horizon=H)
    table = both.run(TABLE)
    assert table.value.shape == (N, 2) and table.lower.shape == (N, 2, 2) and len(both.scores()) == 2
    alone = Forecaster("wind", features="demand", learner="light", horizon=H, seed=1).run(TABLE)
    np.testing.assert_array_equal(table.value[:, 1], alone.value)
    out = both.update({"demand": 50, "wind": 0})
    assert out.value.shape == (2,) and out.upper.shape == (2, 2) and out.changed.shape == (2,)
    assert {"truth_demand", "network_wind", "ahead_lower_80_wind"} <= table.columns().keys()


def test_columns_known_in_advance_are_read_ahead():
    """The price of the row to be forecast decides it: only who is told it can say so."""
    price = RNG.standard_normal(1500)
    table = {"y": price + 0.05 * RNG.standard_normal(1500), "price": price}
    told = Forecaster("y", known="price", learner="light", horizon=2)
    said = told.run(table)
    untold = Forecaster("y", features="price", learner="light", horizon=2).run(table)
    error = lambda said: np.sqrt(np.mean((said.due - said.truth)[700:] ** 2))
    assert error(said) < 0.2 and error(untold) > 0.9
    row_by_row = Forecaster("y", known="price", learner="light", horizon=2)
    for t in range(100):
        out = row_by_row.update({"y": table["y"][t], "price": price[t]}, ahead={"price": price[t + 2]})
        np.testing.assert_array_equal(out.value, said.value[t])


@pytest.mark.full
def test_categories_and_the_calendar_tell_something():
    n = 2400
    start = datetime.datetime(2024, 3, 1)
    times = [(start + datetime.timedelta(hours=k)).isoformat() for k in range(n)]
    shop = RNG.choice(["north", "south"], n)
    y = (shop == "north") * 4.0 + 0.1 * RNG.standard_normal(n)
    plain = Forecaster("y", learner="light", levels=()).run({"y": y})
    hour = np.array([(start + datetime.timedelta(hours=k + 1)).hour for k in range(n)])
    clock = np.where(hour < 8, 5.0, 0.0) * (1 + 0.01 * RNG.standard_normal(n))
    told = Forecaster("y", time="when", learner="light", levels=())
    said = told.run({"y": np.roll(clock, 1), "when": times})
    assert np.isfinite(said.value[10:]).all() and told.clock.remarks() == []
    shops = Forecaster("y", categorical="shop", learner="light", levels=())
    with_shop = shops.run({"y": np.roll(y, 1), "shop": shop})  # the shop tells the next value
    error = lambda said: np.sqrt(np.mean((said.due - said.truth)[1200:] ** 2))
    assert error(with_shop) < 0.3 * error(plain)


def test_times_are_checked():
    day = 86400.0
    rows = lambda times: [{"y": float(k), "t": t} for k, t in enumerate(times)]
    make = lambda: Forecaster("y", time="t", learner="light")
    with pytest.raises(RowError, match=r"data row 4: time goes back: 1973-03-15 .* comes after 1973-03-16"):
        make().run(rows([1e8 + day * k for k in (10, 11, 13, 12)]))
    forecaster = make()
    forecaster.run(rows([1e8 + day * k for k in (0, 1, 2, 3, 3, 4, 9, 10)] + [None]))
    assert [remark[:5] for remark in forecaster.clock.remarks()] == ["1 gap", "1 row", "1 row"]
    with pytest.raises(RowError, match="'yesterday' is no time"):
        make().update({"y": 1, "t": "yesterday"})


def test_several_passes_over_a_history():
    long = {"demand": np.tile(DEMAND_FILLED[48:384], 2)}
    half = {"demand": long["demand"][:336]}
    fitted = Forecaster("demand", learner="light", horizon=H)
    fitted.fit(half, passes=3)
    assert fitted.row == 336 and fitted.scores()["rows"] == 0
    fitted.run({"demand": long["demand"][336:]})
    once = Forecaster("demand", learner="light", horizon=H)
    once.fit(half, passes=1)
    once.run({"demand": long["demand"][336:]})
    assert fitted.scores()["nrmse"]["network"] < 1.02 * once.scores()["nrmse"]["network"]
    with pytest.raises(ValueError, match="passes must be at least 1"):
        once.fit(half, passes=0)


def test_a_change_is_noticed():
    n = 1500
    y = RNG.standard_normal(n)
    y[1000:] *= 5
    forecaster = Forecaster("y", learner="light")
    said = forecaster.run({"y": y})
    (alarm,) = np.flatnonzero(said.changed)
    assert 1000 < alarm < 1050 and forecaster.history[0].changes == [alarm]


def test_an_outlier_is_surprising():
    y = RNG.standard_normal(800)
    y[700] = 30
    said = Forecaster("y", learner="light").run({"y": y})
    assert said.surprise[700] == np.nanmax(said.surprise) > 3
    assert np.nanmean(said.surprise[100:700]) == pytest.approx(1 / np.log(10), abs=0.1)


def _path(y, steps, cut=None, **more):
    forecaster = Forecaster("y", path=steps, learner="light", **more)
    parts = [forecaster.run({"y": y[at : at + (cut or len(y))]}) for at in range(0, len(y), cut or len(y))]
    return forecaster, parts


def test_a_path_has_every_step():
    """A season of 12 rows and noise: each step is forecast as well as the noise lets it."""
    n, steps = 1200, 12
    y = 5 * np.sin(2 * np.pi * np.arange(n) / 12) + 0.1 * np.random.default_rng(1).standard_normal(n)
    forecaster, (said,) = _path(y, steps)
    assert said.value.shape == (n, steps) and said.lower.shape == (n, steps, 2)
    for j in range(1, steps + 1):
        np.testing.assert_array_equal(said.due[j:, j - 1], said.value[:-j, j - 1])
        wrong = (said.due[:, j - 1] - y)[600:]
        assert np.sqrt(np.mean(wrong**2)) < 0.2
        low, high = (np.concatenate([np.full(j, np.nan), ends[:-j, j - 1, 1]]) for ends in (said.lower, said.upper))
        assert abs(np.mean(((low <= y) & (y <= high))[300:]) - 0.95) < 0.09  # it still improves
    assert list(forecaster.scores()["steps"]) == [1, 2, 4, 8, 12]
    assert forecaster.scores()["steps"][12]["nrmse"]["network"] < 0.1
    columns = said.columns()
    np.testing.assert_array_equal(columns["network_12"][12:], columns["ahead_12"][:-12])
    assert forecaster.update({"y": 0.0}).value.shape == (steps,)


def test_a_path_in_portions_and_from_a_checkpoint_is_the_same(tmp_path):
    y = DEMAND[:300]
    _, (whole,) = _path(y, 5)
    forecaster, parts = _path(y, 5, 37)
    np.testing.assert_array_equal(np.concatenate([part.value for part in parts]), whole.value)
    np.testing.assert_array_equal(np.concatenate([part.upper for part in parts]), whole.upper)
    forecaster.save(tmp_path)
    loaded = Forecaster.load(tmp_path)
    np.testing.assert_array_equal(loaded.update(50.0).value, forecaster.update(50.0).value)
    later = np.where(np.arange(300) < 200, y, 1e6)
    np.testing.assert_array_equal(_path(later, 5)[1][0].value[:200], whole.value[:200])


def test_readouts_that_share_a_covariance_are_least_squares():
    """Of each step, with a prior in units of its own noise: against NumPy, a readout at a time."""
    from streamgrad.forecast._encoder import Encoder
    from streamgrad.forecast._experts import Expert
    from streamgrad.forecast._steps import Shared

    encoder, steps, rng = Encoder(lags=4, horizon=3), 3, np.random.default_rng(0)
    shared = Shared(Expert(lags=4, far=False, forgetting=0.99), encoder.parts, steps)
    known = shared.init(jax.random.key(0))
    learn = jax.jit(shared.learn)
    size = shared.size
    p, w, square = 0.01 * np.eye(size), np.zeros((steps, size)), np.ones(steps)
    for t in range(200):
        x, path = rng.standard_normal(encoder.size), rng.standard_normal(steps)
        path[t % 7 == 0] = np.nan
        if t % 5 == 0:
            path[1] = np.nan
        known = learn(known, jnp.asarray(x), jnp.asarray(path))
        lags = x[encoder.parts["lags"]]
        phi = np.concatenate([lags, x[:1], [1.0]])
        if np.isfinite(path).any():
            s = 1 + phi @ p @ phi
            k = p @ phi / s
            e = np.where(np.isfinite(path), path - w @ phi, 0)
            w = w + np.outer(np.clip(e, -3 * np.sqrt(square * s), 3 * np.sqrt(square * s)), k)
            new = np.maximum(square + 0.01 * (np.minimum(e**2, 9 * square) - square), 1e-3)
            square = np.where(np.isfinite(path), new, square)
            p = p - np.outer(k, k) * s
            c = np.sqrt(np.minimum(1 / 0.99, 0.3 / np.diag(p)))
            p = p * np.outer(c, c)
        np.testing.assert_allclose(known.weight, w, atol=1e-9)


def test_a_backtest_is_a_run_of_each_setting():
    grid = {"target": "demand", "features": ("wind",), "horizon": H, "learner": "light", "period": [None, 24]}
    found = sg.forecast.backtest(iter(_rows(TABLE)), grid)
    assert {result["settings"]["period"] for result in found} == {None, 24}
    (plain,) = (result for result in found if result["settings"]["period"] is None)
    np.testing.assert_allclose(plain["nrmse"], _scores(TABLE)["nrmse"]["network"], rtol=1e-12)
    assert found[0]["nrmse_half"] <= found[1]["nrmse_half"] and set(plain["coverage"]) == {0.8, 0.95}
    with pytest.raises(ValueError, match="did you mean 'mixture'"):
        sg.forecast.backtest(TABLE, {"target": "demand", "learner": ["light", "mixtur"]})
    with pytest.raises(ValueError, match="no setting to try"):
        sg.forecast.backtest(TABLE, [])


def _scores(table):
    forecaster = Forecaster("demand", **SMALL)
    forecaster.run(table)
    return forecaster.scores()


REFUSED = {
    "target must": ({"target": ()}, "at least one column"),
    "twice": ({"target": "a", "features": ("b", "a")}, "column 'a' is named twice"),
    "horizon": ({"target": "a", "horizon": 0}, "horizon must be a whole number"),
    "horizon too long": ({"target": "a", "horizon": 10**9}, "horizon must be a whole number of rows from 1 to 100,000"),
    "period": ({"target": "a", "period": 1}, "period must be 2 to"),
    "path": ({"target": "a", "path": 0}, "path must be a whole number"),
    "path and horizon": ({"target": "a", "path": 4, "horizon": 2}, "a path has all horizons"),
    "path and known": ({"target": "a", "path": 4, "known": "b"}, "go with one horizon"),
    "path and learner": ({"target": "a", "path": 4, "learner": "adam"}, "by the learner 'mixture' or 'light' alone"),
    "levels": ({"target": "a", "levels": (80.0,)}, "levels are shares between 0 and 1"),
    "learner": ({"target": "a", "learner": "mixtur"}, "did you mean 'mixture'"),
    "beside": ({"target": "a", "beside": ("light",)}, "one learner alone can stand beside"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_meant_is_refused(name):
    settings, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        Forecaster(**settings)
    with pytest.raises(ValueError, match="units must be at least 1"):
        Net(units=0)


BAD_ROWS = {
    "lacks": ({"demand": 1.0}, "the row lacks 'wind'; it has 'demand'"),
    "text": ({"demand": "x7", "wind": 1}, "column 'demand': 'x7' is not a number"),
    "underscore": ({"demand": "1_000", "wind": 1}, "'1_000' is not a number"),
    "infinite": ({"demand": np.inf, "wind": 1}, "infinite or too large"),
    "length": ([1.0], "the row has 1 value, and 2 were expected: demand, wind"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_teaches_nothing(table, name):
    row, message = BAD_ROWS[name]
    _, forecaster = table
    before = forecaster.row
    with pytest.raises(RowError, match=message):
        forecaster.update(row)
    assert forecaster.row == before


def test_every_learner_has_a_name():
    for name in NAMES:
        assert all(isinstance(expert, Expert) for expert in learner(name, Net()).values())
    assert learner("adam", Net(algorithm="frozen"))["adam"].learns == ""


def test_numbers_are_written_in_the_shortest_form_that_gives_them_back():
    values = np.array([0.1, 1 / 3, 1.7e9 + 0.25, 1.2e11, 5e-324, -0.0, np.nan, 3.0])
    lines = csv_lines({"a": values, "b": np.arange(8), "c": values > 1}).splitlines()
    back = [float(line.split(",")[0] or "nan") for line in lines]
    np.testing.assert_array_equal(back, values)
    assert lines[3] == "120000000000,3,1" and lines[6] == ",6,0"


def test_the_picture_has_what_was_said(table, tmp_path):
    _, forecaster = table
    figure = forecaster.plot(tmp_path / "p.png", title="demand")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    labels = [axes.get_title(loc="left") for axes in figure.axes]
    assert labels[0].startswith("demand: the newest 240 rows") and labels[-1] == "weight of each expert"
