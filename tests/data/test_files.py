"""Files as people have them: what the reader makes of them is right, or it says in one sentence why not.

The classes are those in which such files go wrong elsewhere: time and memory, rows cut within, reading twice, foreign
exceptions, pipes, headers, missing values. `fuzz_csv.py` compares thousands with the standard library's `csv`.
"""

from __future__ import annotations

import bz2
import contextlib
import csv
import decimal
import gzip
import io
import json
import lzma
import math
import os
import subprocess
import sys
import threading
import time
import zlib
from collections import namedtuple
from pathlib import Path

import fuzz_csv
import numpy as np
import pytest

import streamgrad as sg
from streamgrad.data import Extremes, Numbers, SourceError, open_source, shortest

pa = pytest.importorskip("pyarrow")
NAN = math.nan


def write(folder, content, name="a.data"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def values(source, *columns, **options):
    """Everything that comes, and the sentence at the end."""
    parts, said = [np.empty((0, len(columns)))], ""
    try:
        source = source if hasattr(source, "read") else open_source(source, **options)
        for part in source.read(columns):
            parts.append(part)
    except SourceError as error:
        said = str(error)
    return np.concatenate(parts), said


def column(source, name="y", **options):
    """One column, which has to come whole."""
    found, said = values(source, name, **options)
    assert not said, said
    return found[:, 0].tolist()


def same(a, b):
    np.testing.assert_array_equal(np.array(a, float), np.array(b, float))


# A. Time and memory are linear.


def seconds(path, name="y"):
    start = time.process_time()
    count = sum(len(part) for part in open_source(path).read([name]))
    return time.process_time() - start, count


@pytest.mark.parametrize(
    "row",
    [
        '12" pipe,{}\n',
        '"12"" pipe",{}\n',
        '"two\nlines",{}\n',
        'a"b"c,{}\n',
        "x\ty;z|,{}\n",
        '"' + 'q""' * 200 + '",{}\n',
    ],
)
def test_quotes_cost_what_their_bytes_cost(tmp_path, row):
    plain = "part,y\n" + "".join("p" * (len(row) - 4) + f",{i % 7}\n" for i in range(30_000))
    quoted = "part,y\n" + "".join(row.format(i % 7) for i in range(30_000))
    usual, _ = seconds(write(tmp_path, plain, "plain"))
    took, count = seconds(path := write(tmp_path, quoted))
    assert count == 30_000 and took < 12 * usual + 0.5
    same(column(path)[:14], [0, 1, 2, 3, 4, 5, 6] * 2)


def test_a_cell_of_many_blocks_is_looked_at_a_few_times(tmp_path):
    took = []
    for megabytes in (2, 8):
        cell = ('words ""in quotes"" and\n' * 42_000)[: megabytes << 20].rstrip('"')
        path = write(tmp_path, f'note,y\n"{cell}",1\nb,2\n')
        start = time.process_time()
        same(column(path), [1, 2])
        took.append(time.process_time() - start)
    assert took[1] < 12 * took[0] + 0.5
    assert csv.field_size_limit() == 131_072  # it belongs to the whole process


def test_an_open_quote_is_found_without_taking_the_file_for_a_cell(tmp_path):
    text = 'y,note\n1,a\n2,"12 inch\n' + "".join(f"{i},b\n" for i in range(200_000))
    found, said = values(write(tmp_path, text), "y")
    same(found[:, 0], [1])
    assert "quotation mark is left open in data row 2" in said and "byte 11" in said


# B and C. A row is learned once, whole; reading twice gives the same rows.


def test_a_row_that_was_cut_within_its_number_stays_behind(tmp_path):
    whole = "t,y\n597,18.25\n598,18.317\n599,18.646\n600,19.5\n"
    path = write(tmp_path, whole[: whole.index("8.646")])
    source = open_source(path)
    found = np.concatenate(list(source.read(["y"])))
    same(found[:, 0], [18.25, 18.317, 1])
    assert source.unfinished and source.place == (2, whole.index("599"))
    write(tmp_path, whole)
    again = open_source(path)
    same(np.concatenate(list(again.read(["y"], place=source.place)))[:, 0], [18.646, 19.5])
    assert not again.unfinished and again.place == (4, len(whole))
    write(tmp_path, "a longer name of the first column,y\n1,2\n")
    with pytest.raises(SourceError, match="another header"):
        list(open_source(path).read(["y"], place=source.place))
    write(tmp_path, whole.replace("598,18.317", "598,18.31"))
    with pytest.raises(SourceError, match="no row begins at byte"):
        list(open_source(path).read(["y"], place=source.place))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("cut", range(18))
def test_a_file_may_be_cut_anywhere(tmp_path, end, cut):
    data = f"y{end}1.5{end}2.5{end}3.5{end}".encode()
    path, place, found = tmp_path / "a", None, []
    for part in (data[: cut % len(data)], data):
        path.write_bytes(part)
        try:
            source = open_source(path)
        except SourceError as error:
            assert "is empty" in str(error)
            continue
        rows = np.concatenate([np.empty((0, 1)), *source.read(["y"], place=place)])[:, 0].tolist()
        if part != data and source.place is not None:
            found, place = rows[: source.place[0]], source.place
        elif part == data:
            found += rows
    same(found, [1.5, 2.5, 3.5])


@pytest.mark.parametrize("text", ['{"y": 1}\n{"y": 2}\n{"y": 3}\n', '[{"y": 1}, {"y": 2},\n {"y": 3}]'])
def test_json_may_be_cut_anywhere(tmp_path, text):
    for cut in range(len(text)):
        found, place = [], None
        for part in (text[:cut], text):
            path = write(tmp_path, part)
            try:
                source = open_source(path)
            except SourceError:  # no row yet
                continue
            with contextlib.suppress(SourceError):
                for rows in source.read(["y"], place=place):
                    found += rows[:, 0].tolist()
            place = source.place
            assert place is None or place[0] == len(found)  # a row of JSON ends with its brace
        same(found, [1, 2, 3])


KINDS = {
    "csv": b"y,b\n" + b"1,2\n" * 5000,
    "gz": gzip.compress(b"y,b\n" + b"1,2\n" * 5000),
    "json": b'{"y": 1, "b": 2}\n' * 5000,
}


@pytest.mark.parametrize("kind", [*KINDS, "arrow stream"])
def test_reading_twice_gives_the_same_rows(tmp_path, kind):
    if kind == "arrow stream":
        table = pa.table({"y": np.ones(5000), "b": np.ones(5000)})
        with pa.ipc.new_stream(path := tmp_path / "a", table.schema) as writer:
            writer.write_table(table)
    else:
        path = write(tmp_path, KINDS[kind])
    source = open_source(path)
    next(source.read(["y"]))
    for _ in range(2):
        same(column(source), np.ones(5000))


def test_what_changed_in_between_is_refused(tmp_path):
    source = open_source(path := write(tmp_path, "y,b\n1,2\n"))
    write(tmp_path, "b,y\n1,2\n")
    assert "has changed since it was opened" in values(source, "y")[1]
    path.unlink()
    assert "cannot be read" in values(source, "y")[1] or "has changed" in values(source, "y")[1]


@pytest.mark.parametrize("make", [lambda: iter([{"y": 1.0}] * 3), lambda: ({"y": 1.0} for _ in range(3))])
def test_an_iterator_is_read_once(make):
    source = open_source(make())
    same(column(source), [1, 1, 1])
    assert "can be read only once" in values(source, "y")[1]


# D. No foreign exception: rows before the damage come, and the sentence names file, row and byte.


def packed(kind, data):
    if kind in ("zst", "lz4"):
        buffer = pa.BufferOutputStream()
        with pa.CompressedOutputStream(buffer, {"zst": "zstd"}.get(kind, kind)) as stream:
            stream.write(data)
        return buffer.getvalue().to_pybytes()
    return {"gz": gzip.compress, "bz2": lambda data: bz2.compress(data, 1), "xz": lzma.compress}[kind](data)


TEXT = b"y,b\n" + b"".join(b"%d,%d\n" % (i, i * 7919 % 1000) for i in range(60_000))


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst", "lz4"])
def test_packed_files_whole_cut_and_damaged(tmp_path, kind):
    data = packed(kind, TEXT)
    same(column(write(tmp_path, data)), range(60_000))  # by content: the name says nothing
    if kind in ("gz", "bz2", "zst"):
        many = packed(kind, TEXT[: TEXT.index(b"30000,")]) + packed(kind, TEXT[TEXT.index(b"30000,") :])
        same(column(write(tmp_path, many)), range(60_000))
    cut = data[: len(data) * 2 // 3]
    found, said = values(write(tmp_path, cut), "y")
    same(found[:, 0], range(len(found)))
    assert f"cannot be read beyond data row {len(found)}" in said and "byte" in said, said
    if kind == "gz":  # nothing that can be unpacked is lost
        assert len(found) == zlib.decompressobj(31).decompress(cut).count(b"\n") - 1
    else:
        assert len(found) > 20_000
    if kind in ("gz", "bz2", "xz"):  # with a checksum
        middle = len(data) // 2
        assert values(write(tmp_path, data[:middle] + b"\xff" * 40 + data[middle + 40 :]), "y")[1]
    if kind == "gz":
        found, said = values(write(tmp_path, data[:-8] + bytes([data[-8] ^ 1]) + data[-7:]), "y")
        assert len(found) > 59_000 and "the gzip data is damaged" in said


DAMAGED = {
    "foreign byte in the target": (
        b"y\n1\n2\xb0C\n",
        [1],
        "data row 2, column 'y': the bytes '2\\xb0C' are not UTF-8",
        4,
    ),
    "foreign byte elsewhere": (b"b,y\n2\xb0C,1\n", [1], "", None),
    "400 digits": (b"y\n1\n" + b"9" * 400 + b"\n", [1], "the value is inf", 4),
    "1e400": (b"y\n1\n1e400\n", [1], "the value is inf", 4),
    "json: 5,000 digits": (b'{"y": 1}\n{"y": ' + b"9" * 5000 + b"}\n", [1], "the value is inf", 9),
    "json: nesting": (b'{"y": 1}\n{"y": ' + b"[" * 100_000 + b"}\n", [1], "nested too deeply", 9),
    "json: foreign byte": (b'{"y": 1, "b": "\xb0"}\n{"y": 2}\n', [1, 2], "", None),
    "json: foreign byte in the target": (b'{"y": 1}\n{"y": "2\xb0C"}\n', [1], "data row 2, column 'y'", 9),
    "json: a list": (b'{"y": 1}\n{"y": [1, 2]}\n', [1], "is not a number", 9),
    "json: twice": (b'{"y": 1}\n{"y": 2, "y": 3}\n', [1], "two columns are called 'y'", 9),
    "json: cut": (b'{"y": 1}\n{"y": 2', [1], "cut in the middle of a row", 9),
    "json: no comma": (b'{"y": 1}\n{"y" 2}\n{"y": 3}\n' + b'{"y": 3}\n' * 9, [1], "Expecting ':'", 9),
    "a long cell": (b"y\n1\n" + b"x" * 300_000 + b"\n", [1], "is not a number", 4),
    "zero bytes": (b"t,y\n1,1\n" + b"\0" * 5000, [1], "zero bytes, as a file has after a power cut", 8),
    "cut row": (b"y,b\n1,2\n3", [1], "cut in the middle of a row", 8),
    "a second table": (b"t,y\n1,1\n\na,b,c\n1,2,3\n", [1], "3 values where 2 were expected", 9),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_said_after_the_rows_before_it(tmp_path, name):
    content, good, words, byte = DAMAGED[name]
    found, said = values(path := write(tmp_path, content), "y")
    same(found[:, 0], good)
    assert words in said and bool(words) == bool(said)
    if byte is not None:
        assert str(path) in said and f"byte {byte}." in said and len(said) < 500


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_columns_that_share_a_name_in_parquet_and_arrow(tmp_path, kind):
    table = pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0]), pa.array([3.0])], names=["y", "y", "b"])
    path = tmp_path / "a"
    if kind == "parquet":
        import pyarrow.parquet as pq

        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    same(column(path, "b"), [3])
    assert "two columns are called 'y'" in values(path, "y")[1]


# E. Pipes.


def test_a_named_pipe_is_opened_once(tmp_path):
    os.mkfifo(path := tmp_path / "pipe")
    thread = threading.Thread(target=lambda: path.write_bytes(b"y\n1\n2\n"), daemon=True)
    thread.start()
    source = open_source(path)
    same(column(source), [1, 2])
    assert source.fraction() is None and "can be read only once" in values(source, "y")[1]


READ = """import sys
from streamgrad.data import open_source
for name in sys.argv[1:]:  # the second time it is at its end
    try:
        print([v for part in open_source(name).read(["y"]) for v in part[:, 0].tolist()])
    except Exception as error:
        print(type(error).__name__)
"""


def test_standard_input():
    data = packed("zst", b"y,b\n1,2\n3,4\n")
    environment = {**os.environ, "PYTHONPATH": str(Path(sg.__file__).parent.parent)}
    command = [sys.executable, "-c", READ, "/dev/stdin", "-"]
    said = subprocess.run(command, input=data, env=environment, capture_output=True, timeout=120)
    assert said.stdout.split(b"\n")[:2] == [b"[1.0, 3.0]", b"SourceError"], said.stderr


def test_rows_of_a_pipe_come_when_they_are_whole():
    read, write_ = os.pipe()
    os.write(write_, b"y\n1\n")
    rows = open_source(f"/dev/fd/{read}").read(["y"])
    try:
        first = [next(rows), next(rows)]
        same(np.concatenate(first), [[1]])
        for n in range(2, 5):
            start = time.monotonic()
            os.write(write_, b"%d\n" % n)
            while not len(part := next(rows)):
                pass
            same(part, [[n]])
            assert time.monotonic() - start < 0.15
        os.write(write_, b"5")
        assert not len(next(rows))
        os.write(write_, b"5.5\n6")
        same(next(rows), [[55.5]])
        os.close(write_)
        same(np.concatenate(list(rows)), [[6]])
    finally:
        os.close(read)


# F. Headers.

HEADERS = {
    "delimiters in quotes": ('"a, b; c\td",y\n1,2\n', {}, [2]),
    "line breaks in quotes": ('"a\nb\r\nc",y\n1,2\n', {}, [2]),
    "an empty cell": (",y,\n0,2,\n1,3,\n", {}, [2, 3]),
    "namesakes": ("b,b,y\n1,2,3\n", {}, [3]),
    "sep=": ("sep=;\nb;y\n1;2\n", {}, [2]),
    "sep= that no guess would take": ("sep=:\nb:y\n1:2\n", {}, [2]),
    "comments": ("# made by x\n# on, Monday\nb,y\n1,2\n# a break\n3,4\n", {"comment": "#"}, [2, 4]),
    "a comment with a quote": ('b,y\n1,2\n# a, "b\n3,4\n', {"comment": "#"}, [2, 4]),
    "several marks": ("# x\n% z\nb,y\n1,2\n", {"comment": ("#", "%")}, [2]),
    "a cell that begins like a comment": ('b,y\n"#1",2\n', {"comment": "#"}, [2]),
    "lines to skip": ('Report "x\nof, Monday\nb,y\n1,2\n', {"skip_lines": 2}, [2]),
    "units, skipped as a comment": ("s,y\nsec,degC\n1,2\n", {"comment": "sec,"}, [2]),
    "names given": ("1,2\n3,4\n", {"columns": ("b", "y")}, [2, 4]),
    "a delimiter given": ("b y\n1 2\n", {"delimiter": " "}, [2]),
    "names that are numbers": ("date,0,1,y\n2020-01-01,1,2,3\n", {}, [3]),
    "a name with a number sign": ("t,y\n#1,2\n", {}, [2]),
    "blank lines first": ("\n\r\n \nb,y\n1,2\n", {}, [2]),
    "commas in the cells of semicolons": ("b;y\n1,5;2\n2,5;3\n", {}, [2, 3]),
    "bars": ("b|y\n1|2\n", {}, [2]),
    "spaces around": (" b , y \n 1 , 2 \n", {}, [2]),
    "two byte order marks": (b"\xef\xbb\xbf\xef\xbb\xbfy,b\n2,1\n", {}, [2]),
    "spaces that do not break": ("b,y\n1,\u00a02\u00a0\n", {}, [2]),
    "line ends of other alphabets": ("b,y\n1\u2028\x0c\x85,2\n", {}, [2]),
    "brackets": ("[b],y\n1,2\n", {}, [2]),
    "returns alone": ("b,y\r1,2\r3,4\r", {}, [2, 4]),
    "mixed ends": ("b,y\r\n1,2\n3,4\r5,6", {}, [2, 4, 6]),
    "another alphabet": ("größe,y\n1,2\n", {}, [2]),
    "UTF-16": ("b\ty\r\n1\t2\r\n".encode("utf-16"), {}, [2]),
    "UTF-32": ("b,y\n1,2\n".encode("utf-32"), {}, [2]),
    "the end of a file of DOS": ("b,y\r\n1,2\r\n\x1a", {}, [2]),
    "json: a key that comes later": ('{"b": 1}\n{"b": 2, "y": 3}\n', {}, [NAN, 3]),
    "json: a key that comes very late": ('{"b": 1}\n' * 40_000 + '{"y": 3}\n', {}, [*[NAN] * 40_000, 3]),
    "json: an array": ('[{"y": 1}, {"y": 2}]', {}, [1, 2]),
    "json: an array, indented": (
        json.dumps([{"y": i, "b": [{"y": 0}]} for i in range(9000)], indent=2),
        {},
        range(9000),
    ),
    "json: objects, indented": ('{\n "y": 1\n}\n{\n "y": 2\n}\n', {}, [1, 2]),
    "json: objects in one line": ('{"y": 1}{"y": 2}', {}, [1, 2]),
    "json: separators of records": ('\x1e{"y": 1}\n\x1e{"y": 2}\n', {}, [1, 2]),
    "json: another alphabet": ('{"größe": "ü", "y": 1}\n', {}, [1]),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_and_layouts(tmp_path, name):
    content, options, wanted = HEADERS[name]
    path = write(tmp_path, content)
    same(column(path, **options), wanted)
    if len(content) < 100 and not name.startswith("json: a key"):
        read, write_ = os.pipe()
        os.write(write_, path.read_bytes())
        os.close(write_)
        same(column(f"/dev/fd/{read}", **options), wanted)
        os.close(read)


REFUSED = {
    "a comment first": ("# made by x, on Monday\ny\n1\n", "--comment '#'"),
    "a comment of one word": ("# x\ny\n1\n2\n", "--comment '#'"),
    "a comment within": ("b,y\n1,2\n# a break\n3,4\n", "--comment '#'"),
    "units": (
        "b,y\ns,degC\n1,2\n",
        "data row 1, column 'y': 'degC' is not a number. If this row holds units, skip it with --comment 's,degC'",
    ),
    "no header": ("1,2\n3,4\n", "begins with numbers"),
    "no header, times": ("2020-01-01 00:00,1.5\n2020-01-01 01:00,1.7\n", "begins with numbers"),
    "no header, one column": ("1.5\n2.5\n", "begins with numbers"),
    "spaces": ("t  y\n1  2.5\n2  3.5\n", "divided by spaces"),
    "an open quote": ('b,"y\n1,2\n', "quotation mark is left open in the header"),
    "a decimal comma": ("b;y\n1;2,5\n", "decimal comma"),
    "the header again": ("b,y\n1,2\nb,y\n3,4\n", "remove the header that comes again"),
    "a delimiter at the end of rows": ("b,y\n1,2,\n", "ends with a delimiter, and the header does not"),
    "xlsx": (b"PK\x03\x04" + bytes(100), "a spreadsheet"),
    "xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "Excel file"),
    "pdf": (b"%PDF-1.4\n...", "PDF"),
    "sqlite": (b"SQLite format 3\0" + bytes(50), "SQLite"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"),
    "npy": (b"\x93NUMPY\x01\0v\0{'descr'", "NumPy"),
    "pickle": (b"\x80\x04\x95\x10\0\0\0\0", "pickle"),
    "html": ("<!DOCTYPE html>\n<html>", "HTML"),
    "git lfs": ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
    "UTF-16 without a mark": ("b,y\n1,2\n".encode("utf-16-le"), "UTF-16 without a byte order mark"),
    "a packed spreadsheet": (gzip.compress(b"PK\x03\x04" + bytes(100)), "a spreadsheet"),
    "a packed Parquet file": (gzip.compress(b"PAR1" + bytes(100)), "read by its own path"),
    "json: numbers": ("[1, 2, 3]\n", "is not a JSON object"),
    "json: an empty array": ("[]\n", "without rows"),
    "json: quotes of Python": ("{'y': 1}\n", "is not a JSON object"),
    "json: an array that goes on": ('[{"y": 1}]\n[{"y": 2}]', "something follows the end of the array"),
    "json: an array that is cut": ('[{"y": 1}, {"y": 2},', "without the ] of its array"),
    "json: rows within an object": ('{"data": [{"y": 1}, {"y": 2}]}', "whose 'data' holds a list"),
    "a packed tar archive": (gzip.compress(b"x.csv" + bytes(252) + b"ustar" + bytes(250)), "a tar archive"),
    "a footer": ("b,y\n1,2\n\nSource: me\n", "1 value where 2 were expected"),
    "an open quote at the start of the file": ('"b,y\n1,2\n', "quotation mark is left open in the header"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_table_is_refused_in_one_sentence(tmp_path, name):
    content, words = REFUSED[name]
    _, said = values(write(tmp_path, content), "y")
    assert words in said and len(said) < 400


def test_options_are_for_csv(tmp_path):
    path = write(tmp_path, '{"y": 1}\n')
    with pytest.raises(SourceError, match="skip_lines is for CSV"):
        open_source(path, skip_lines=1)
    with pytest.raises(SourceError, match="has 1 lines, and 3 were to be skipped"):
        open_source(write(tmp_path, "y\n"), skip_lines=3)
    with pytest.raises(SourceError, match="delimiter is for CSV"):
        open_source(np.ones(3), delimiter=";")


def test_names_that_lead_nowhere(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    names = ["", "a\0b", "x" * 5000, str(tmp_path / "loop"), str(tmp_path / "*"), "https://example.org/x.csv"]
    for name in names:
        with pytest.raises(SourceError):
            open_source(name)
    for options in ({"delimiter": "::"}, {"delimiter": ""}, {"delimiter": '"'}, {"skip_lines": -1}, {"comment": ""}):
        with pytest.raises(SourceError, match=r"has to be|name what comments"):
            open_source(write(tmp_path, "b,y\n1,2\n"), **options)


def test_checksums_of_parquet_are_looked_at(tmp_path):
    import pyarrow.parquet as pq

    options = dict(compression="NONE", use_dictionary=False, row_group_size=5000, write_page_checksum=True)
    pq.write_table(pa.table({"y": np.arange(50_000.0)}), path := tmp_path / "a", **options)
    same(column(path), np.arange(50_000))
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 100] = b"\xff" * 100
    found, said = values(write(tmp_path, bytes(data)), "y")
    same(found[:, 0], range(len(found)))
    assert f"cannot be read beyond data row {len(found)}" in said and len(found) > 20_000


# G. One rule for missing values and numbers.

MISSING = [
    "",
    " NA",
    "#N/A",
    "<NA>",
    "-1.#IND",
    "nan",
    "NaN ",
    "-NaN",
    "NULL",
    "none",
    "n/a",
    "?",
    "NaT",
    "unavailable",
    "-200.0",
]
NUMBERS = {" 1.5 ": 1.5, "1e3": 1e3, "+.5": 0.5, "9007199254740993": 2.0**53, "−2": -2.0, "１２": 12.0}
NEVER = ["1_000", "1,000", "0x10", "12 V", "1e", "--", "1d3"]


def everywhere(folder, texts):
    """The same texts in every format and kind of table: the reader of each."""
    import pyarrow.parquet as pq

    buffer = io.StringIO()
    csv.writer(buffer).writerows([["b", "y"], *(["x", text] for text in texts)])
    yield write(folder, buffer.getvalue(), "csv")
    yield write(folder, "".join(json.dumps({"b": 0, "y": text}) + "\n" for text in texts), "json")
    table = pa.table({"y": texts})
    pq.write_table(table, path := folder / "parquet")
    yield path
    yield table
    yield pa.table({"y": pa.array(texts).dictionary_encode()})
    yield np.array([[text] for text in texts], dtype=object)
    yield np.array(texts)
    yield {"y": texts}
    yield [{"y": text} for text in texts]
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("narwhals")
    yield pandas.DataFrame({"y": texts})


def named(table):
    return {"columns": ("y",)} if isinstance(table, np.ndarray) else {}


def test_one_rule_in_every_format(tmp_path):
    texts = [*MISSING, *NUMBERS]
    for table in everywhere(tmp_path, texts):
        found = column(table, missing=("-200", "unavailable"), **named(table))
        same(found, [NAN] * len(MISSING) + [*NUMBERS.values()])
    for text in NEVER:
        for table in everywhere(tmp_path, ["1", text]):
            found, said = values(table, "y", **named(table))
            same(found[:, 0], [1])
            assert "is not a number" in said and "data row 2" in said, (text, said)


def test_declared_numbers_are_missing_in_numbers_of_every_width(tmp_path):
    for kind in (np.float32, np.float64, ">f8", np.float16):
        found = column(np.array([1, -99.9, 3], kind)[:, None], columns=("y",), missing=["-99.9"])
        assert np.isnan(found[1]) or kind is np.float16
    same(column(np.array([1, -200, 3]), "value", missing=[-200]), [1, NAN, 3])
    same(column(np.array([1, np.inf, 3]), "value", missing=["inf"]), [1, NAN, 3])
    same(column(write(tmp_path, '{"y": -200}\n{"y": 1}\n'), missing="-200"), [NAN, 1])


def test_integers_and_decimals_are_rounded_as_text_is(tmp_path):
    rng = np.random.default_rng(0)
    texts = [f"{rng.integers(10**18)}.{rng.integers(10**9):09d}" for _ in range(2000)]
    table = pa.table({"y": pa.array([decimal.Decimal(text) for text in texts])})
    same(column(table), [float(text) for text in texts])
    whole = rng.integers(-(2**63), 2**63, 2000)
    same(column({"y": whole}), [float(int(each)) for each in whole])
    same(column(pa.table({"y": whole})), [float(int(each)) for each in whole])


def test_repeated_extremes_are_pointed_out_once():
    rng = np.random.default_rng(0)
    rows = np.stack([rng.normal(size=3000), rng.normal(size=3000), rng.integers(0, 2, 3000), np.ones(3000)], 1)
    rows[rng.random(3000) < 0.09, 0] = -200
    rows[rng.random(3000) < 0.05, 1] = np.nan
    whole, parts = Extremes("abcd"), Extremes("abcd")
    whole(rows)
    said = []
    for part in np.split(rows, np.sort(rng.integers(0, 3001, 40))):
        parts(part)
    for name in whole.state:
        np.testing.assert_array_equal(whole.state[name], parts.state[name])
    said = parts.notes()
    assert (
        len(said) == 1 and "column 'a' is exactly -200, its smallest value" in said[0] and "--missing -200" in said[0]
    )
    assert parts.notes() == []  # once
    again = Extremes("abcd")
    again.state = parts.state
    again(rows)
    assert again.notes() == []
    # Brute force: extremes, how often they came, and the nearest other values.
    np.testing.assert_array_equal(whole.state["extreme"][0], np.nanmin(rows, 0))
    np.testing.assert_array_equal(-whole.state["extreme"][1], np.nanmax(rows, 0))
    np.testing.assert_array_equal(whole.state["count"][0], (rows == np.nanmin(rows, 0)).sum(0))
    for j in range(3):
        np.testing.assert_array_equal(whole.state["next"][0, j], np.unique(rows[:, j])[1])
        np.testing.assert_array_equal(-whole.state["next"][1, j], np.unique(rows[~np.isnan(rows[:, j]), j])[-2])


# H. What is written can be read back.


def test_the_shortest_form_gives_the_same_double():
    rng = np.random.default_rng(0)
    doubles = rng.integers(0, 2**63, 5000).view(float)
    doubles = [*doubles[np.isfinite(doubles)], 1.7e9 + 0.25, 5.0, -0.0, 1e22, 5e-324, 0.1 + 0.2]
    for value in map(float, doubles):
        assert float(shortest(value)) == value and len(shortest(value)) <= len(repr(value))
    assert shortest(5.0) == "5" and shortest(NAN) == "" and shortest(np.float64(2.5)) == "2.5"


# Tables from Python.


def test_arrays_of_every_kind():
    rows = np.array([[1.0, 2.5], [3.0, np.nan]])
    for kind in (">f8", "<f4", np.float16, np.longdouble):
        same(values(np.asarray(rows, kind), "0", "1")[0], rows)
    same(values(np.asfortranarray(rows)[::-1], "0", "1")[0], rows[::-1])
    masked = np.ma.masked_array(np.array([[1, -9], [3, 4]]), [[0, 1], [0, 0]])
    same(values(masked, "0", "1")[0], [[1, NAN], [3, 4]])
    same(column(np.array([True, False]), "value"), [1, 0])
    records = np.array([(1, 2.5, "x"), (3, 4.5, "z")], dtype=[("a", ">i4"), ("y", "f4"), ("s", "U1")])
    same(values(records, "a", "y")[0], [[1, 2.5], [3, 4.5]])
    import jax.numpy as jnp

    same(column(jnp.arange(3, dtype=jnp.bfloat16), "value"), [0, 1, 2])
    objects = np.array([1, decimal.Decimal("2.5"), None, "NA", np.float32(3), 10**400], dtype=object)
    found, said = values(objects, "value")
    same(found[:, 0], [1, 2.5, NAN, NAN, 3])
    assert "the value is inf" in said
    for bad in (np.array([1j]), np.array(["2020-01-01"], "M8[D]"), np.ones((2, 2, 2)), np.ones(())):
        assert values(bad, "value")[1]
    with pytest.raises(SourceError, match="has 2 columns, and 1 names"):
        open_source(rows, columns=["a"])


def test_rows_from_python():
    Row = namedtuple("Row", "t y")
    same(column([Row(0, 1), Row(1, 2)]), [1, 2])
    same(column([(0, 1), (1, "NA")], columns=("t", "y")), [1, NAN])
    same(column(iter([1, None, 2.5]), "value"), [1, NAN, 2.5])
    same(column([{"t": 0}, {"t": 1, "y": 5}]), [NAN, 5])
    same(column({"t": [1, 2], "y": (3, None)}), [3, NAN])
    found, said = values([{"y": 1}, {"y": object}], "y")
    same(found, [[1]])
    assert "data row 2, column 'y'" in said
    assert "2 values where 1" in values([[1], [2, 3]], "0")[1]
    assert "int came, unlike the first row" in values([[1], 2], "0")[1]
    for bad in ([], 5, object(), {"a": 1}, {"a": [1], "b": [1, 2]}, [{1: 2}]):
        assert values(bad, "y")[1], bad

    # Whoever makes the rows may fail: what came before is there.
    def rows():
        yield {"y": 1}
        raise ConnectionError("gone")

    got = open_source(rows()).read(["y"])
    same(next(got), [[1]])
    with pytest.raises(ConnectionError):
        next(got)
    with pytest.raises(SourceError, match="open already"):
        open_source(open_source([1, 2]))


def test_frames_of_other_libraries():
    pytest.importorskip("narwhals")
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({
        "y": pandas.array([1, None, 3], dtype="Int64"),
        "big": np.array([1, 2, 3], ">f8"),
        "kind": pandas.Categorical(["1", "2", "NA"]),
        "when": pandas.date_range("2020", periods=3),
        "mixed": [1, "x", None],
        "z": [1j, 2, 3],
    })  # fmt: skip
    source = open_source(frame)
    assert source.rows == 3
    same(values(source, "y", "big", "kind")[0], [[1, 1, 1], [NAN, 2, 2], [3, 3, NAN]])
    assert "it holds timestamp" in values(source, "when")[1]
    found, said = values(source, "mixed")
    same(found, [[1]])
    assert "data row 2, column 'mixed': 'x' is not a number" in said and "complex" in values(source, "z")[1]
    twice = pandas.DataFrame([[1, 2]], columns=["y", "y"])
    assert values(twice, "y")[1]
    same(column(frame["big"], "big"), [1, 2, 3])
    same(column(pandas.DataFrame({"y": [1.5]}, index=["a"])), [1.5])
    same(column(pa.table({"y": [1, 2]})), [1, 2])
    reader = pa.table({"y": [1, 2]}).to_reader()
    source = open_source(reader)
    same(column(source), [1, 2])
    assert "only once" in values(source, "y")[1]
    polars = pytest.importorskip("polars")
    same(column(polars.DataFrame({"y": [1, None]})), [1, NAN])
    same(column(polars.LazyFrame({"y": [1, None]})), [1, NAN])


def test_columns_that_hold_no_numbers_are_converted(tmp_path):
    names = ["ham", "eggs", ""]
    rows = [("2020-01-01", 1), ("2020-01-02", 2), ("", 3)]
    day = lambda text: float(np.datetime64(text, "D").astype(int)) if text else NAN
    kind = lambda text: float(names.index(text))
    wanted = [[18262, 0], [18263, 1], [NAN, 2]]
    text = "t,k\n" + "".join(f"{t},{names[i]}\n" for i, (t, _) in enumerate(rows))
    lines = [{"t": t or None, "k": names[i]} for i, (t, _) in enumerate(rows)]
    times = [np.datetime64(t) if t else None for t, _ in rows]
    tables = [write(tmp_path, text), write(tmp_path, "".join(json.dumps(line) + "\n" for line in lines), "b"), lines]
    tables += [pa.table({"t": pa.array([str(t) if t else None for t in times]), "k": names})]
    for table in tables:
        got = np.concatenate(list(open_source(table).read(["t", "k"], convert={"t": day, "k": kind})))
        same(got, wanted)
    with pytest.raises(SourceError, match="data row 1, column 't'"):
        list(open_source(tables[0]).read(["t"]))


def test_the_package_is_there_after_one_import():
    same(column(sg.data.open_source([1, 2]), "value"), [1, 2])
    assert Numbers()("5") == 5


# The fuzz, in short.


@pytest.mark.parametrize("run, seeds", [(fuzz_csv.one, range(5000, 5060)), (fuzz_csv.grown, range(5000, 5060))])
def test_the_fuzz_finds_nothing(tmp_path, run, seeds):
    lines = [run(seed, tmp_path) for seed in seeds]
    assert not [line for line in lines if line["wrong"]]
    assert sum(line["rows"] for line in lines) > 1000 and {line["end"] for line in lines} == {"good", "bad"}
