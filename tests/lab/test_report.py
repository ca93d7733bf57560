"""`streamgrad report`: the numbers of the tables, what is selected, damaged folders, and a page that stands alone."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from streamgrad import cli
from streamgrad.lab.report.figures import against, curves
from streamgrad.lab.report.page import link, make_chapters, to_page, to_text
from streamgrad.lab.report.plot import Line, Panel, _apart, draw
from streamgrad.lab.report.runs import RunError, read_run, read_runs
from streamgrad.lab.report.schema import Metric
from streamgrad.lab.report.tables import make_table, plain, to_markdown
from streamgrad.lab.report.values import choices, in_order, rows_of, spread

LOSSES = {"online": (0.31, 0.25, 0.28), "bptt": (0.2, 0.26, 0.35)}
METRICS = {
    "loss": {"label": "cross-entropy per bit (nats)", "better": "lower", "floors": {"chance": 0.693}},
    "accuracy": {"label": "bit accuracy", "better": "higher", "floors": {"chance": 0.5}, "percent": True},
}
TABLE = {"view": "table", "title": "Final", "rows": ["mode"], "metrics": ["loss", "accuracy"], "split": "test"}
CURVES = {"view": "curves", "title": "Learning", "metric": "loss", "by": ["mode"], "split": "valid", "log": False}
AGAINST = {"view": "against", "title": "Depths", "x": "depth", "metric": "loss", "by": ["mode"], "split": "test"}
SELECT = {"by": ["mode"], "over": ["rate"], "metric": "loss", "split": "valid"}


def row(mode, seed, step, split, loss, *, final=False, accuracy=0.9, **more):
    """A line of results.jsonl."""
    variant = {"mode": mode, **more}
    values = {"variant": variant, "seed": seed, "step": step, "split": split, "loss": loss, "accuracy": accuracy}
    return values | {"final": final}


def rows(losses=LOSSES, **more):
    found = []
    for mode, values in losses.items():
        for seed, loss in enumerate(values):
            found += [row(mode, seed, step, "valid", 0.7 - step * 1e-4, **more) for step in (100, 200, 300)]
            found.append(row(mode, seed, 300, "test", loss, final=True, accuracy=1 - (loss or 0), **more))
    return found


def write(folder, lines, **more):
    """A run folder with these lines."""
    folder.mkdir(parents=True, exist_ok=True)
    run = {
        "schema": 1,
        "experiment": "copy-memory",
        "title": "Copy memory",
        "description": "Bits are copied.",
        "command": "streamgrad experiment copy-memory --seeds 3",
        "config": {"task": {"bits": 8}, "seeds": 3},
        "versions": {"streamgrad": "0.1.0", "jax": "0.9.0"},
        "machine": "AMD EPYC, 2 cores",
        "started": "2026-11-20T10:00:00+00:00",
        "finished": "2026-11-20T11:00:00+00:00",
        "metrics": METRICS,
        "views": [TABLE, CURVES],
    }
    (folder / "run.json").write_text(json.dumps(run | more))
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def made(folder, lines, view, **more):
    """The run in that folder, and its only view."""
    run = read_run(write(folder, lines, views=[view], **more))
    return run, run.views[0]


# Numbers.


def test_a_table_has_the_mean_and_the_sample_standard_deviation_of_the_final_rows(tmp_path):
    table = make_table(*made(tmp_path / "a", rows(), TABLE))
    assert table.keys == ("mode",) and table.seeds == (3, 3)
    assert table.metrics == ("cross-entropy per bit (nats)", "bit accuracy (%)")
    for (_, cells), values in zip(table.lines, LOSSES.values()):
        np.testing.assert_allclose(cells[0].spread.mean, np.mean(values))
        np.testing.assert_allclose(cells[0].spread.sd, np.std(values, ddof=1))
        np.testing.assert_allclose(cells[1].spread.mean, 1 - np.mean(values))
    # By hand: 0.84 / 3, and the root of (0.03² + 0.03² + 0) / 2.
    (online, (loss, accuracy)), (bptt, others) = table.lines
    assert (online, loss.text, accuracy.text) == (("online",), "0.280 ± 0.030", "72.0 ± 3.0")
    assert (bptt, others[0].text) == (("bptt",), "0.270 ± 0.075")
    assert not loss.best and others[0].best and others[1].best and not accuracy.best  # lower, and higher
    assert table.floors == (("chance", ("0.693", "50.0")),)
    assert "| bptt | **0.270 ± 0.075** | **73.0 ± 7.5** |" in to_markdown(table)
    page = to_page(make_chapters([read_run(tmp_path / "a")]), tmp_path)
    assert '<td class="number"><strong>0.270 ± 0.075</strong></td>' in page


def test_only_final_rows_count_and_of_them_the_last(tmp_path):
    lines = [row("a", 0, step, "test", step, final=step != 400, depth=1) for step in (300, 100, 200, 400)]
    lines.append(row("b", 0, 300, "test", 1.0))
    table = make_table(*made(tmp_path / "a", lines, TABLE))
    assert [(names, cells[0].spread.mean) for names, cells in table.lines] == [(("a",), 300)]
    picture = against(*made(tmp_path / "a", lines, AGAINST))
    assert picture.words.endswith("At the right: a 300.") and "Not shown" not in picture.caption


def test_one_seed_has_no_spread_and_small_numbers_keep_their_digits(tmp_path):
    losses = {"a": (0.123456,), "b": (3.2e-7,)}
    table = make_table(*made(tmp_path / "a", rows(losses), TABLE))
    assert [cells[0].text for _, cells in table.lines] == ["0.1235", "3.2e-07"]
    assert "One seed." in to_text(make_chapters([read_run(tmp_path / "a")]))


def test_what_is_not_finite_is_counted_and_is_never_best(tmp_path):
    lines = rows(
        {"a": (0.1, 0.1, None), "b": (0.5, 0.6, 0.7), "c": (None, math.nan, math.inf)} | {"d": (0.9,)}, depth=1
    )
    for line in lines:
        line["accuracy"] = 0.5
    table = make_table(*made(tmp_path / "a", lines, TABLE))
    a, b, c, d = [cells[0] for _, cells in table.lines]
    assert a.text == "0.10 ± 0.00 (2 of 3 finite)" and not a.best
    assert b.text == "0.60 ± 0.10" and b.best
    assert c.text == "not finite (3 seeds)" and d.text == "0.90 (n = 1)"
    assert "1 to 3 seeds" in to_text(make_chapters([read_run(tmp_path / "a")]))


def test_variants_that_a_view_does_not_tell_apart_are_not_averaged(tmp_path):
    lines = [*rows(depth=1, rate=0.1), *rows({"online": (0.9, 0.8)}, depth=2, rate=0.1)]
    table = make_table(*made(tmp_path / "a", lines, TABLE))
    assert table.keys == ("mode", "depth") and len(table.lines) == 3
    picture = curves(*made(tmp_path / "a", lines, CURVES))
    assert "online, depth 2 " in picture.words and picture.seeds == (2, 3)


def test_groups_are_in_order_of_numbers_and_of_appearance():
    groups = [("b", 10), ("a", 2), ("b", 2), ("a", None)]
    assert in_order(groups) == [("b", 2), ("b", 10), ("a", 2), ("a", None)]


def test_the_spread_against_numpy():
    values = [0.5, 0.25, 4.0, math.nan]
    found = spread(values)
    np.testing.assert_allclose([found.mean, found.sd], [np.mean(values[:3]), np.std(values[:3], ddof=1)])
    assert (found.low, found.high, found.n, found.lost) == (0.25, 4.0, 3, 1)


# Selection.


def grid(valid, test):
    """Final rows of modes and rates, of two seeds."""
    lines = []
    for split, values in (("valid", valid), ("test", test)):
        for (mode, rate), losses in values.items():
            lines += [row(mode, s, 300, split, v, final=True, rate=rate) for s, v in enumerate(losses)]
    return lines


VALID = {("a", 0.1): (0.3, 0.3), ("a", 0.2): (0.2, 0.2), ("a", 0.4): (0.1, None), ("b", 0.1): (0.1, 0.1)}
VALID |= {("b", 0.2): (0.4, 0.4), ("b", 0.4): (0.4, 0.4)}
TEST = {key: (1 - losses[0], 1 - losses[0]) for key, losses in VALID.items()}  # the opposite


def test_selection_goes_by_the_validation_split_and_not_by_the_test_split(tmp_path):
    lines = [*grid(VALID, TEST), row("a", 0, 100, "valid", 0.0, rate=0.8)]  # on its way
    run, view = made(tmp_path / "a", lines, TABLE | {"selected": True}, select=SELECT)
    shown = {(r.variant["mode"], r.variant["rate"]) for r in rows_of(run, view)}
    assert shown == {("a", 0.2), ("b", 0.1)}  # 0.4 is lower, but not finite with one seed
    table = make_table(run, view)
    assert table.keys == ("mode",)
    assert [cells[0].spread.mean for _, cells in table.lines] == [0.8, 0.9]
    assert choices(run).endswith("on split valid: rate 0.2 (a); rate 0.1* (b). * at the edge of what was tried.")
    assert choices(run) in to_text(make_chapters([run])).replace("\\", "")
    # Without `selected` every rate is there.
    run, view = made(tmp_path / "a", grid(VALID, TEST), TABLE, select=SELECT)
    assert len(make_table(run, view).lines) == 6


def test_selection_takes_the_highest_where_higher_is_better(tmp_path):
    lines = [line | {"accuracy": line["loss"]} for line in grid(VALID, TEST)]
    select = SELECT | {"metric": "accuracy"}
    run, view = made(tmp_path / "a", lines, TABLE | {"selected": True}, select=select)
    assert {(r.variant["mode"], r.variant["rate"]) for r in rows_of(run, view)} == {("a", 0.1), ("b", 0.2)}


# Reading.


def test_a_half_written_last_line_is_left_out_with_a_notice(tmp_path):
    folder = write(tmp_path / "a", rows(), finished=None)
    whole = read_run(folder)
    with open(folder / "results.jsonl", "a") as file:
        file.write('{"variant": {"mode": "online"}')
    cut = read_run(folder)
    assert cut.rows == whole.rows
    assert [n for n in cut.notices if n not in whole.notices] == [
        "Line 25 of results.jsonl, the last one, was cut off and is left out."
    ]
    page = to_page(make_chapters([cut]), tmp_path)
    assert 'class="notice"' in page and "This run is not finished" in page and "Line 25" in page


@pytest.mark.parametrize(
    "line, words",
    [
        ('{"variant": {"mode"', "line 2 cannot be read: it is not JSON"),
        ("[1]", "line 2 .* where an object with 'variant' was expected"),
        ('{"variant": {}, "seed": 0, "split": "test"}', "line 2 .* it has no 'step', a whole number"),
        ('{"variant": {}, "seed": 0.5, "step": 1, "split": "test"}', "line 2 .* 'seed' is 0.5, expected a whole"),
        ('{"variant": {"a": []}, "seed": 0, "step": 1, "split": "a"}', "'a' of the variant is \\[\\]"),
        ('{"variant": {}, "seed": 0, "step": 1, "split": "a", "loss": "x"}', "'loss' is \"x\", expected a number"),
    ],
)
def test_a_damaged_line_is_refused_by_its_number(tmp_path, line, words):
    folder = write(tmp_path / "a", rows())
    lines = (folder / "results.jsonl").read_text().splitlines()
    (folder / "results.jsonl").write_text("\n".join([lines[0], line, *lines[1:]]) + "\n")
    with pytest.raises(RunError, match=words) as error:
        read_run(folder)
    assert "results.jsonl" in str(error.value) and "Put the file back" in str(error.value)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"schema": 2}, "schema 2, and this version of streamgrad reads schema 1: use the version that wrote it"),
        ({"schema": None}, "schema None"),
        ({"command": 3}, "'command' is 3, expected text"),
        ({"metrics": None}, "'metrics' is null, expected an object"),
        ({"metrics": {"loss": {"better": "more"}}}, "'better' of the metric 'loss' is 'more'"),
        ({"views": [{"view": "pie"}]}, "view 1 is a 'pie', expected one of table, curves, against"),
        ({"views": [TABLE | {"metrics": ["los"]}]}, "view 1 asks for the metric 'los', and 'metrics' has loss, acc"),
        ({"views": [TABLE | {"selected": True}]}, "view 1 shows what was selected, and there is no 'select'"),
        ({"views": [TABLE | {"rows": "mode"}]}, "'rows' is \"mode\", expected a list"),
        ({"select": SELECT | {"metric": "x"}}, "'select' asks for the metric 'x'"),
    ],
)
def test_what_run_json_may_not_say_is_refused(tmp_path, change, words):
    with pytest.raises(RunError, match=words) as error:
        read_run(write(tmp_path / "a", rows(), **change))
    assert str(tmp_path / "a" / "run.json") in str(error.value)


def test_what_is_not_a_run_folder_is_refused_by_name(tmp_path):
    with pytest.raises(RunError, match=r"none is not there: give a folder that `streamgrad experiment` wrote"):
        read_run(tmp_path / "none")
    folder = write(tmp_path / "all" / "a", rows())
    with pytest.raises(RunError, match=r"run.json is a file: give a folder"):
        read_run(folder / "run.json")
    with pytest.raises(RunError, match=r"all is not a run folder, .* Did you mean .*all/a\?"):
        read_run(tmp_path / "all")
    (folder / "results.jsonl").unlink()
    with pytest.raises(RunError, match=r"results.jsonl cannot be read \(No such file"):
        read_run(folder)
    (folder / "run.json").write_text("{")
    with pytest.raises(RunError, match=r"run.json is damaged, it is not JSON"):
        read_run(folder)


def test_a_row_written_twice_counts_once(tmp_path):
    lines = [*rows(), row("online", 0, 300, "test", 0.5, final=True)]
    table = make_table(*made(tmp_path / "a", lines, TABLE))
    np.testing.assert_allclose(table.lines[0][1][0].spread.mean, (0.5 + 0.25 + 0.28) / 3)
    assert read_run(tmp_path / "a").notices == ("1 row of results.jsonl is there twice: the later one counts.",)


# Several folders.


def test_runs_that_differ_in_their_seeds_alone_are_merged(tmp_path):
    first = write(tmp_path / "a", rows())
    other = [line | {"seed": line["seed"] + 2} for line in rows()]  # seed 2 is in both
    second = write(tmp_path / "b", other[:-2], config={"task": {"bits": 8}, "seeds": [2, 3, 4]}, command="second")
    third = write(tmp_path / "c", rows(), config={"task": {"bits": 9}, "seeds": 3})
    merged, alone = read_runs([first, second, third, first])
    assert (len(merged.origins), len(alone.origins)) == (2, 1)
    assert [origin.folder.name for origin in merged.origins] == ["a", "b"]
    table = make_table(merged, merged.views[0])
    np.testing.assert_allclose(table.lines[0][1][0].spread.mean, np.mean([0.31, 0.25, 0.28, 0.25, 0.28]))
    assert table.seeds == (4, 5)
    assert merged.notices == ("Several of the merged folders hold the same variant and seed: it is counted once.",)
    page = to_page(make_chapters([merged, alone]), tmp_path / "a" / "report")
    assert page.count("<code>second</code>") == 3  # below each view, and in the setting
    assert 'href="../../b/results.jsonl"' in page and 'href="../results.jsonl"' in page
    assert "2 experiments" in page


def test_links_are_relative_and_are_left_out_where_nothing_is_shared(tmp_path):
    assert link(tmp_path / "a b" / "c#.jsonl", tmp_path / "out") == "../a%20b/c%23.jsonl"
    assert link(tmp_path / "x", tmp_path.__class__("/elsewhere")) is None


# Figures.


def lines_of(folder, monkeypatch, view, lines, make, **more):
    """What `make` would draw: the panels."""
    seen = {}

    def fake(metric, panels, x_label, *, log, steps):
        seen.update(panels=panels, x=x_label, log=log, steps=steps)
        return b"", []

    monkeypatch.setattr("streamgrad.lab.report.figures.draw", fake)
    picture = make(*made(folder, lines, view, **more))
    return picture, seen


def test_curves_are_means_over_seeds_at_each_step(tmp_path, monkeypatch):
    lines = [row("a", s, step, "valid", s + step / 100) for s in (0, 1, 2) for step in (200, 100)]
    picture, seen = lines_of(tmp_path / "a", monkeypatch, CURVES, lines, curves)
    ((line,),) = [panel.lines for panel in seen["panels"]]
    assert (line.name, line.x, seen["x"], seen["steps"]) == ("a", (100, 200), "step", True)
    assert [(s.mean, s.low, s.high, s.n) for s in line.spreads] == [(2, 1, 3, 3), (3, 2, 4, 3)]
    assert picture.seeds == (3, 3) and picture.words.endswith("At the right: a 3.")


def test_against_shows_final_values_and_names_who_has_no_x(tmp_path, monkeypatch):
    lines = [line for d in (4, 1) for line in rows({"a": (d, d + 1.0)}, depth=d)] + rows({"b": (1.0,)})
    picture, seen = lines_of(tmp_path / "a", monkeypatch, AGAINST, lines, against)
    ((line,),) = [panel.lines for panel in seen["panels"]]
    assert (line.x, [s.mean for s in line.spreads], seen["x"]) == ((1, 4), [1.5, 4.5], "depth")
    assert "Not shown, as they have no depth: b." in picture.caption
    assert against(*made(tmp_path / "a", lines, AGAINST | {"split": "none"})) is None


def test_against_another_metric_shows_a_point_for_each_value_of_the_keys(tmp_path, monkeypatch):
    lines = [
        row(mode, seed, 100, "test", loss, final=True, accuracy=10 * loss)
        for mode, losses in (("a", (1.0, 3.0)), ("b", (5.0,)))
        for seed, loss in enumerate(losses)
    ]
    view = {**AGAINST, "x": "accuracy"}
    picture, seen = lines_of(tmp_path / "a", monkeypatch, view, lines, against)
    (panel,) = seen["panels"]
    assert [(line.name, line.x, line.spreads[0].mean) for line in panel.lines] == [("a", (20,), 2), ("b", (50,), 5)]
    assert "Value at place: a 2 at 20; b 5 at 50." in picture.words


def test_other_keys_get_panels_and_names_keep_their_style(tmp_path, monkeypatch):
    lines = [line for d in (1, 2) for line in rows(depth=d)]
    _, seen = lines_of(tmp_path / "a", monkeypatch, CURVES, lines, curves)
    assert [panel.title for panel in seen["panels"]] == ["depth 1", "depth 2"]
    assert [[(line.name, line.style) for line in panel.lines] for panel in seen["panels"]] == [
        [("online", 0), ("bptt", 1)]
    ] * 2
    lines = [line for d in range(20) for line in rows(depth=d)]  # too many panels
    _, seen = lines_of(tmp_path / "a", monkeypatch, CURVES, lines, curves)
    assert [len(panel.lines) for panel in seen["panels"]] == [40] and seen["panels"][0].lines[
        0
    ].name == "online, depth 0"


FLAT = (spread([1.0, 2.0]), spread([1.5, 2.5]))
GAP = (spread([1.0, 2.0]), spread([1.0, math.nan]))
ZERO = (spread([0.0, 0.0]), spread([0.0, 0.0]))


@pytest.mark.parametrize(
    "metric, panels, x, log, words",
    [
        (Metric("m", "$m$", "lower", {"$floor_": 1.0}), [("", ("a", "$b_"), FLAT)], (1, 2), True, ""),
        (Metric("m", "m", None, {"far": 1e9}), [("", ("a",), FLAT)], (1, 2), False, "floor far .* outside"),
        (Metric("m", "m"), [("", ("a",), GAP)], (1, 2), False, "a is not drawn where 1 of 2 .* first at x 2"),
        (Metric("m", "m", None, {"f": 0.0}), [("", ("a",), ZERO)], (1, 2), True, ""),
        (Metric("m", "m"), [("", ("a",), (spread([math.nan]),) * 2)], (1, 2), True, "not drawn"),
        (
            Metric("m", "m", "higher", {"f": -1.0}),
            [("p", "abc", FLAT), ("q", "bd", GAP), ("r", "a", FLAT)],
            (1, 100),
            True,
            "axis",
        ),
        (Metric("m", "m"), [("", ("a", "b"), FLAT)], ("one", "two"), False, ""),
    ],
)
@pytest.mark.parametrize("steps", [True, False])
def test_every_kind_of_figure_is_drawn(metric, panels, x, log, words, steps):
    x = (1, 2) if steps and isinstance(x[0], str) else x
    shown = [Panel(t, tuple(Line(n, x, s, k) for k, n in enumerate(names))) for t, names, s in panels]
    png, notes = draw(metric, shown, "x", log=log, steps=steps)
    assert png.startswith(b"\x89PNG") and re.search(words, " ".join(notes))
    assert bool(notes) == bool(words)


def test_names_are_moved_apart_as_little_as_may_be():
    np.testing.assert_allclose(_apart([0.5, 0.1, 0.52], 0.1), [0.46, 0.1, 0.56])
    moved = _apart(list(np.linspace(0.4, 0.5, 8)), 0.06)
    np.testing.assert_allclose(np.diff(moved), 0.06)
    np.testing.assert_allclose(np.mean(moved), 0.45)


# The page and the command.


class Tags(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_stands_alone_and_escapes_all_text(tmp_path):
    bad = "<script>alert('&')</script>"
    metrics = {"loss": {"label": bad, "better": "lower", "floors": {bad: 0.5}}}
    lines = [row(mode, 0, 1, "test", 0.5, final=True, **{bad: k}) for mode in (bad, "b") for k in (1, 2)]
    views = [
        TABLE | {"title": bad, "note": bad, "metrics": ["loss"], "rows": ["mode", bad]},
        AGAINST | {"title": bad, "x": bad},
        AGAINST | {"title": "https://example.org", "x": "none", "split": bad},
    ]
    names = ("title", "description", "command", "machine", "started", "finished", "experiment")
    more = dict.fromkeys(names, bad) | {"versions": {bad: bad}, "config": {bad: {bad: bad}}}
    run = read_run(write(tmp_path / "a", lines, metrics=metrics, views=views, **more))
    page = to_page(make_chapters([run]), tmp_path / "a" / "report")
    tags = Tags(page)
    assert not tags.open and not {"script", "link", "iframe", "object"} & {tag for tag, _ in tags.tags}
    assert "<script" not in page and page.count("&lt;script&gt;") > 15
    for tag, attributes in tags.tags:
        for name in ("src", "href", "srcset", "style"):
            value = attributes.get(name) or ""
            assert not re.match(r"\s*(\w+:)?//|\w+:", value) or value.startswith("data:image/png;base64,"), (tag, value)
        assert not any(name.startswith("on") for name in attributes)
    assert sum(tag == "img" for tag, _ in tags.tags) == 1 and "url(" not in page and "@import" not in page


def test_below_each_view_are_the_command_the_seeds_and_the_raw_file(tmp_path):
    run = read_run(write(tmp_path / "a", rows()))
    page = to_page(make_chapters([run]), tmp_path / "a" / "report")
    feet = re.findall(r'<p class="source">(.*?)</p>', page)
    assert (
        feet
        == [
            "<code>streamgrad experiment copy-memory --seeds 3</code><br>3 seeds · "
            '<a href="../results.jsonl">a/results.jsonl</a>'
        ]
        * 2
    )


def test_a_view_without_rows_says_so(tmp_path):
    run = read_run(write(tmp_path / "a", rows(), views=[TABLE | {"split": "other"}]))
    text = to_text(make_chapters([run]))
    assert "No final row has loss or accuracy on split other. Splits with rows: valid, test." in text
    empty = read_run(write(tmp_path / "b", [], finished=None))
    assert "Splits with rows: none." in to_text(make_chapters([empty]))


def test_markdown_takes_text_as_it_is():
    assert plain("a|b *c* _d_ e_f <g>\n\x1b[0m`") == "a\\|b \\*c\\* \\_d\\_ e_f \\<g\\>  \\[0m\\`"


def test_the_command_writes_the_page_the_figures_and_the_tables(tmp_path, capsys):
    folder = write(tmp_path / "a", rows())
    assert cli.main(["report", str(folder)]) == 0
    out = folder / "report"
    assert {p.name for p in out.iterdir()} == {"report.html", "tables.md", "1-2-copy-memory-learning.png"}
    assert (out / "1-2-copy-memory-learning.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "report.html").read_text("utf-8").startswith("<!DOCTYPE html>")
    assert "(1-2-copy-memory-learning.png)" in (out / "tables.md").read_text("utf-8")
    said = capsys.readouterr().out
    assert "0.280 ± 0.030" in said and f"{out / 'report.html'}" in said
    assert cli.main(["report", str(folder), "--out", str(tmp_path / "x" / "y")]) == 0
    assert (tmp_path / "x" / "y" / "report.html").exists()


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    assert cli.main(["report"]) == 2
    assert "which runs?" in capsys.readouterr().err
    assert cli.main(["report", str(tmp_path / "none")]) == 1
    assert "none is not there: give a folder" in capsys.readouterr().err
    folder = write(tmp_path / "a", rows())
    assert cli.main(["report", str(folder), "--out", str(folder / "run.json")]) == 1
    assert "could not be written" in capsys.readouterr().err
