"""Fuzz of the CSV reader beside the standard library's `csv`, and of files that grow while they are read.

    python tests/data/fuzz_csv.py --files 2000 --grown 300 --out results/fuzz-csv

A file is drawn at random: delimiter, quotes, ends of lines, blank lines, foreign bytes, spellings of numbers and of
missing values, damage. The reference reads it as a whole with `csv` and takes the numbers from its rows; it shares no
code with the reader. Each file is read in blocks of a random size, as a file and as a pipe. What the reference delivers
before the first bad row must come, to the bit; then the reader must refuse, by row, where the reference does.

A grown file is written to a random byte, read, written on to another, and resumed at the place where the reader was:
the rows of all parts must be those of one pass over the whole file.

Every file is a line of `log.jsonl`.
"""

import argparse
import collections
import csv
import io
import json
import math
import os
import re
import tempfile
import threading
from pathlib import Path

import numpy as np

from streamgrad.data import SourceError, blocks, open_source

MISSING = ("", "NA", "nan", "NaN", "null", "None", "?", "#N/A", "<NA>", "-1.#IND", " NA", "n/a ", "NULL")
WORDS = (
    "pump",
    "valve 3",
    "ümlaut",
    "日本",
    'an "inch"',
    "a,b;c\td|e",
    "two\nlines",
    "cr\rlf\r\nend",
    "",
    "  ",
    "12 inch",
)
BAD = ("x7", "1_000", "1,5", "--", "12 V", "0x10", "1e", "inf", "-1e400", "3.4.5")
ENDS = ("\n", "\r\n", "\r")


def number(rng) -> str:
    """A number in a notation of some kind."""
    value = float(rng.normal() * 10.0 ** rng.integers(-8, 9))
    forms = (repr(value), f"{value:.3f}", f"{value:+.2e}", str(int(value)), f" {value:g} ", f"{value:.12G}", "007")
    return forms[rng.integers(len(forms))]


def draw(seed: int) -> tuple[bytes, str]:
    """A file, and the delimiter that it was written with."""
    rng = np.random.default_rng(seed)
    chance = lambda p: rng.random() < p
    delimiter = ",;\t|"[rng.choice(4, p=(0.55, 0.2, 0.15, 0.1))]
    width, rows = int(rng.integers(1, 7)), int(rng.choice((0, 1, 2, 7, 40, 400)))
    ends = ENDS if chance(0.2) else (ENDS[rng.choice(3, p=(0.55, 0.35, 0.1))],)
    quoted, blank, damage = chance(0.5), chance(0.3), chance(0.25)

    def cell(text: str, always: bool = False) -> str:
        if always or any(mark in text for mark in (delimiter, "\n", "\r")) or text.startswith('"'):
            return '"' + text.replace('"', '""') + '"'
        return text

    names = ["y", *(f"column {i}" if chance(0.5) else f"c{i}" for i in range(1, width))]
    if chance(0.15) and width > 2:
        names[-1] = names[-2]  # namesakes that nobody asks for
    if chance(0.15) and width > 1:
        names[-1] = ("", "a,b;c\td", "two\nlines")[rng.integers(3)]
    order = rng.permutation(width)
    out = [delimiter.join(cell(names[j], quoted and chance(0.3)) for j in order)]
    for _ in range(rows):
        cells = [number(rng) if not chance(0.1) else MISSING[rng.integers(len(MISSING))]]
        if chance(0.002) and damage:
            cells = [BAD[rng.integers(len(BAD))]]
        cells += [WORDS[rng.integers(len(WORDS))] if quoted else number(rng) for _ in range(1, width)]
        texts = [cell(cells[j], quoted and chance(0.3)) for j in order]
        if damage and chance(0.004):
            texts = texts[:-1] if chance(0.5) else [*texts, "9"]
        if damage and chance(0.004):
            texts[-1] = '"' + texts[-1]
        out.append(delimiter.join(texts))
        if blank and chance(0.05):
            out.append("")
    text = "".join(line + ends[rng.integers(len(ends))] for line in out)
    if chance(0.3):
        text = text.rstrip("\r\n")
    data = text.encode()
    if quoted and chance(0.2):
        data = data.replace("ümlaut".encode(), "ümlaut".encode("latin-1"))  # foreign bytes in cells that nobody uses
    if damage and chance(0.3):
        data = data[: int(rng.integers(1, len(data) + 1))]
    return (b"\xef\xbb\xbf" if chance(0.1) else b"") + data, delimiter


def plain(text: str) -> float | None:
    """The reference for a cell: a number, NaN where missing, None where it is bad."""
    text = text.encode("latin-1").decode("utf-8", "surrogateescape").strip()
    if text.lower() in {missing.strip().lower() for missing in MISSING}:
        return math.nan
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text):
        return None
    value = float(text)
    return value if abs(value) <= 1e100 else None


def reference(data: bytes, delimiter: str) -> tuple[list[float] | None, bool]:
    """Column y by `csv`, up to the first bad row, and whether there is one. None: there is no such column."""
    text = data.removeprefix(b"\xef\xbb\xbf").decode("latin-1")
    records = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    while records and not "".join(records[0]).strip():
        del records[0]
    if not records or [name.strip() for name in records[0]].count("y") != 1:
        return None, True
    width, j, values = len(records[0]), [name.strip() for name in records[0]].index("y"), []
    for record in records[1:]:
        if width == 1 and not record:
            record = [""]
        if len(record) < 2 and not "".join(record).strip() and width > 1:
            continue
        value = plain(record[j]) if len(record) == width else None
        if value is None:
            return values, True
        values.append(value)
    # A quote that is open at the end holds all that follows: to csv it is a row, to the reader it is damage.
    # With a record after it, it is found by csv itself.
    marked = list(csv.reader(io.StringIO(text.rstrip("\r\n") + "\nend\n", newline=""), delimiter=delimiter))
    return (values, False) if marked[-1] == ["end"] else (values[:-1], True)


def collect(read) -> tuple[list[float], str]:
    """The values of a pass, and what it said at its end."""
    found: list[np.ndarray] = []
    try:
        for part in read():
            found.append(part[:, 0])
    except SourceError as error:
        return np.concatenate([np.empty(0), *found]).tolist(), str(error)
    return np.concatenate([np.empty(0), *found]).tolist(), ""


def same(a: list[float], b: list[float]) -> bool:
    """Equal to the bit, any NaN like another."""
    return np.array(a).tobytes() == np.array(b).tobytes() or np.array_equal(np.array(a), np.array(b), equal_nan=True)


def through_pipe(data: bytes, rng):
    """The pass over a pipe into which the bytes are written in pieces."""
    read, write = os.pipe()

    def feed():
        at = 0
        try:
            while at < len(data):
                at += os.write(write, data[at : at + int(rng.integers(1, 5000))])
        except BrokenPipeError:
            pass
        os.close(write)

    threading.Thread(target=feed, daemon=True).start()
    try:
        return open_source(f"/dev/fd/{read}").read(["y"])
    finally:
        os.close(read)


def one(seed: int, folder: Path) -> dict:
    """A file, read as a file and as a pipe, beside the reference."""
    data, delimiter = draw(seed)
    path, rng = folder / "file.csv", np.random.default_rng((seed, 1))
    path.write_bytes(data)
    wanted, bad = reference(data, delimiter)
    block, blocks.BLOCK = blocks.BLOCK, int(rng.choice((3, 17, 100, 1000, 1 << 16)))
    try:
        ways = {"file": lambda: open_source(path).read(["y"]), "pipe": lambda: through_pipe(data, rng)}
        got = {name: collect(way) for name, way in ways.items()}
    except Exception as error:  # what no reader may raise
        got = {"file": ([], f"{type(error).__name__}: {error}")}
        return {"seed": seed, "bytes": len(data), "rows": 0, "end": "bad", "wrong": ["foreign exception"], "said": got}
    finally:
        blocks.BLOCK = block
    wrong = []
    for name, (values, said) in got.items():
        if not same(values, wanted or []):
            wrong.append(f"{name}: other rows")
        if bool(said) != bad and not (wanted == [] and said):
            wrong.append(f"{name}: {'refused' if said else 'not refused'}")
    line = {
        "seed": seed,
        "bytes": len(data),
        "rows": len(wanted or []),
        "end": "bad" if bad else "good",
        "wrong": wrong,
    }
    return {**line, "said": {name: said for name, (_, said) in got.items()}} if wrong else line


def grown(seed: int, folder: Path) -> dict:
    """A file that grows from one random byte to the next, resumed each time at the place where the reader was."""
    data, delimiter = draw(seed)
    rng, path = np.random.default_rng((seed, 2)), folder / "grown.csv"
    wanted, bad = reference(data, delimiter)
    stops = sorted({*rng.integers(0, len(data) + 1, int(rng.integers(1, 6))).tolist(), len(data)})
    got: list[float] = []
    place, said = None, ""
    for stop in stops:
        path.write_bytes(data[:stop])
        try:
            source = open_source(path)
            parts = source.read(["y"], place=place)
            values, said = collect(lambda parts=parts: parts)
        except SourceError as error:  # no header yet
            said = str(error)
            continue
        if stop == len(data):
            got += values
        elif source.place is not None:  # the header is whole
            got, place = [*got, *values[: source.place[0] - (place[0] if place else 0)]], source.place
    wrong = [] if same(got, wanted or []) else ["other rows"]
    if bool(said) != bad and not (wanted == [] and said):
        wrong.append("refused" if said else "not refused")
    line = {
        "grown": seed,
        "stops": len(stops),
        "rows": len(wanted or []),
        "end": "bad" if bad else "good",
        "wrong": wrong,
    }
    return {**line, "said": said} if wrong else line


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--files", type=int, default=2000, help="how many files")
    parser.add_argument("--grown", type=int, default=300, help="how many files that grow")
    parser.add_argument("--out", type=Path, required=True, help="the folder of log.jsonl and summary.json")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    counts = collections.Counter()
    with tempfile.TemporaryDirectory() as folder, open(options.out / "log.jsonl", "w") as log:
        for kind, run, many in (("files", one, options.files), ("grown", grown, options.grown)):
            for seed in range(many):
                line = run(seed, Path(folder))
                log.write(json.dumps(line) + "\n")
                counts.update({kind: 1, f"{kind}_rows": line["rows"], f"{kind}_{line['end']}": 1})
                counts[f"{kind}_wrong"] += bool(line["wrong"])
                if line["wrong"]:
                    print("WRONG", json.dumps(line), flush=True)
    (options.out / "summary.json").write_text(json.dumps(counts, indent=1) + "\n")
    print(json.dumps(counts))
    return int(bool(counts["files_wrong"] + counts["grown_wrong"]))


if __name__ == "__main__":
    raise SystemExit(main())
