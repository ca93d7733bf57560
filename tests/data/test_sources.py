"""Streams of rows: every format gives the same rows, and what is wrong is said in one sentence."""

from __future__ import annotations

import gzip
import json
import os

import numpy as np
import pytest

from streamgrad.data import SERIES, SourceError, open_source
from streamgrad.data.blocks import Live
from streamgrad.data.numbers import Numbers
from streamgrad.data.opening import open_text
from streamgrad.data.sources import Layout

pa = pytest.importorskip("pyarrow")

NAMES = ("time", "value", "other")
ROWS = np.array([[0, 1.5, np.nan], [1, -2.25, 1e-3], [2, np.nan, 7.0], [3, 1e10, 0.1]])


def _text(mark: str) -> str:
    lines = [mark.join("" if v != v else repr(float(v)) for v in row) for row in ROWS]
    return "\n".join([mark.join(NAMES), *lines]) + "\n"


def _write(path, kind):
    table = pa.table({n: pa.array(c, from_pandas=True) for n, c in zip(NAMES, ROWS.T)})
    if kind == "parquet":
        import pyarrow.parquet as pq

        pq.write_table(table, path, row_group_size=2)
    elif kind == "arrow":
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=3)
    elif kind == "arrow stream":
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=3)
    elif kind == "feather":
        import pyarrow.feather as feather

        feather.write_feather(table, path)
    elif kind == "jsonl":
        rows = [{n: v for n, v in zip(NAMES, row) if v == v} for row in ROWS.tolist()]
        rows[0] = {"time": 0.0, "value": 1.5, "other": None}
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "csv.gz":
        path.write_bytes(gzip.compress(_text(",").encode()))
    elif kind == "crlf":
        path.write_bytes(_text(",").replace("\n", "\r\n").encode())
    else:
        mark = {"tsv": "\t", "semicolon": ";"}.get(kind, ",")
        text = _text(mark)
        text = text.rstrip("\n") if kind == "no last newline" else text
        path.write_bytes((b"\xef\xbb\xbf" if kind == "bom" else b"") + text.encode())
    return path


KINDS = ["csv", "tsv", "semicolon", "crlf", "bom", "no last newline", "csv.gz"]
KINDS += ["jsonl", "parquet", "arrow", "arrow stream", "feather"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", [0, 1, 3, 4])
def test_every_format_gives_the_same_rows(tmp_path, kind, start):
    suffix = ".csv.gz" if kind == "csv.gz" else ".data"
    source = open_source(str(_write(tmp_path / f"rows{suffix}", kind)))
    assert source.columns == NAMES
    rows = np.concatenate([np.empty((0, 2)), *source.read(("other", "value"), start)])
    np.testing.assert_array_equal(rows, ROWS[start:, [2, 1]])


@pytest.mark.parametrize("text", ["", "NA", "NaN", "nan", "null", "None", "?", "N/A"])
def test_spellings_of_missing(tmp_path, text):
    path = tmp_path / "a.csv"
    path.write_text(f"a,b\n1,{text}\n2, 3.5 \n")
    rows = np.concatenate(list(open_source(str(path)).read(["b"])))
    np.testing.assert_array_equal(rows, [[np.nan], [3.5]])


def test_an_empty_line_is_a_missing_value_in_a_single_column(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a\n1\n\n3\n")
    rows = np.concatenate(list(open_source(str(path)).read(["a"])))
    np.testing.assert_array_equal(rows, [[1], [np.nan], [3]])


def test_quotes_and_newlines_within_them(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('note,b\n"one\ntwo, three",1\n"",2\n"say ""hi""",3\n')
    rows = np.concatenate(list(open_source(str(path)).read(["b"])))
    np.testing.assert_array_equal(rows, [[1], [2], [3]])


def test_a_long_file_comes_in_parts(tmp_path):
    path = tmp_path / "a.csv"
    values = np.arange(200_000.0)
    path.write_text("a,b\n" + "".join(f"{v},x\n" for v in values))
    source = open_source(str(path))
    parts = list(source.read(["a"]))
    assert max(len(part) for part in parts) < 60_000
    np.testing.assert_array_equal(np.concatenate(parts)[:, 0], values)
    assert source.fraction() == 1.0


def test_a_live_stream_is_read_as_it_arrives():
    read, write = os.pipe()
    try:
        os.write(write, b"a,b\n1,2\n3")
        source = open_text(Live(read, "the pipe"), Numbers(), Layout())
        rows = source.read(["b"])
        np.testing.assert_array_equal(next(rows), [[2]])
        assert next(rows).shape == (0, 1)  # nothing more for a moment; half a row waits
        os.write(write, b",4\n5,6")
        np.testing.assert_array_equal(next(rows), [[4]])
        os.close(write)
        write = -1
        np.testing.assert_array_equal(np.concatenate(list(rows)), [[6]])
    finally:
        os.close(read)
        if write >= 0:
            os.close(write)


BAD = {
    "text": (
        "a,b\n1,2\n3,x7\n5,6\n",
        "data row 2, column 'b': 'x7' is not a number",
    ),
    "infinite": ("a,b\n1,2\n3,inf\n5,6\n", "data row 2, column 'b': the value is inf,"),
    "absurd": ("a,b\n1,2\n3,-1e200\n5,6\n", "data row 2, column 'b': the value is -1e\\+200"),
    "cut": ("a,b\n1,2\n3", r"data row 2 has 1 value where 2 were expected .*cut in the middle"),
    "too wide": ("a,b\n1,2\n3,4,5\n6,7\n", "data row 2 has 3 values where 2 were expected"),
    "open quote": ('a,b\n1,2\n"3,4\n5,6\n', "quotation mark is left open"),
    "json text": (
        '{"a": 1, "b": 2}\n{"a": 1, "b": "x7"}\n',
        "data row 2, column 'b': 'x7' is not a number",
    ),
    "json cut": ('{"a": 1, "b": 2}\n{"a": 1, "b"', "data row 2 is not a JSON object .*cut in the middle"),
    "json list": ('{"a": 1, "b": 2}\n[1, 2]\n', "data row 2 is not a JSON object"),
    "json infinite": ('{"b": 2}\n{"b": Infinity}\n', "data row 2, column 'b': the value is inf,"),
}


@pytest.mark.parametrize("name", BAD)
def test_good_rows_come_before_the_error_that_names_the_bad_one(tmp_path, name):
    text, message = BAD[name]
    path = tmp_path / "a.data"
    path.write_text(text)
    rows = open_source(str(path)).read(["b"])
    good = []
    with pytest.raises(SourceError, match=message):
        for part in rows:
            good.append(part)
    np.testing.assert_array_equal(np.concatenate([*good, np.empty((0, 1))])[:1], [[2]][: len(good)])


NEVER = {
    "empty": (b"", "is empty"),
    "blank": (b"\n\n", "is empty"),
    "no header": (b"1,2\n3,4\n", "names of the columns were expected"),
    "binary": (bytes(range(256)), "is not text"),
    "latin": ("temp\xe9rature,b\n1,2\n".encode("latin-1"), "not UTF-8"),
    "parquet": (b"PAR1 and then nothing of the kind", "damaged or cut"),
    "arrow": (b"ARROW1 and then nothing of the kind", "damaged or cut"),
    "old feather": (b"FEA1....", "version 1"),
}


@pytest.mark.parametrize("name", NEVER)
def test_files_that_cannot_be_opened(tmp_path, name):
    content, message = NEVER[name]
    path = tmp_path / "a.data"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=message):
        open_source(str(path))


def test_names_that_lead_nowhere(tmp_path):
    (tmp_path / "temps.csv").write_text("a\n1\n")
    with pytest.raises(SourceError, match=r"did you mean .*temps\.csv"):
        open_source(str(tmp_path / "temp.csv"))
    with pytest.raises(SourceError, match="did you mean seattle-temps"):
        open_source("seatle-temps")
    with pytest.raises(SourceError, match="is a folder"):
        open_source(str(tmp_path))
    source = open_source(str(tmp_path / "temps.csv"))
    with pytest.raises(SourceError, match="no column 'A': did you mean 'a'"):
        list(source.read(["A"]))
    with pytest.raises(SourceError, match="ends before data row 5"):
        list(source.read(["a"], 5))


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_columns_of_other_types(tmp_path, kind):
    table = pa.table(
        {
            "when": pa.array([0, 1], pa.timestamp("s")),
            "text": ["1.5", "x7"],
            "whole": pa.array([1, None], pa.int32()),
            "flag": [True, False],
            "kind": pa.array(["1", "2"]).dictionary_encode(),
        }
    )
    path = tmp_path / "a.data"
    if kind == "parquet":
        import pyarrow.parquet as pq

        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    source = open_source(str(path))
    rows = np.concatenate(list(source.read(["whole", "flag", "kind"])))
    np.testing.assert_array_equal(rows, [[1, 1, 1], [np.nan, 0, 2]])
    with pytest.raises(SourceError, match="data row 2, column 'text': 'x7' is not a number"):
        list(source.read(["text"]))
    with pytest.raises(SourceError, match="it holds timestamp"):
        list(source.read(["when"]))


@pytest.mark.parametrize("name", SERIES)
def test_bundled_series(name):
    lengths = {"seattle-temps": 8759, "sf-temps": 8759, "seattle-weather": 1461}
    lengths |= {"co2": 2284, "sunspots": 309, "elnino": 732, "pedestrians": 17539}
    series = SERIES[name]
    rows = np.concatenate(list(open_source(name).read([series.target])))
    assert rows.shape == (lengths[name], 1)
    assert np.isnan(rows).sum() == (59 if name == "co2" else 0)
