"""Rows a second that a fleet on Spark learns from, by CPU time of Java and Python together.

    python benchmarks/fleet/spark_rate.py --files 8 --rows 20000 --keys 2000 --shards 16 --out results/fleet-spark

A local Spark of one partition reads a file a micro-batch. CPU seconds are those of all processes of the run, from the
end of the second micro-batch to that of the last: start and compilation are left out, and what else the machine does
counts little. Wall seconds stand beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from spark_kills import ended, newest, start, write_files


def cpu_seconds(session: int) -> float:
    """CPU time so far of all processes of a session."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[3]) == session:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("files", 8), ("rows", 20_000), ("keys", 2000), ("shards", 16)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--out", type=Path, default=Path("results/fleet-spark"))
    given = parser.parse_args()
    given.wrap = ""
    marks: dict[int, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "rate"
        write_files(folder / "rows", given.files, given.rows, given.keys)
        with ended(start(folder, given, 1)) as process:
            while process.poll() is None and newest(folder / "checkpoint" / "commits") < given.files - 1:
                batch = newest(folder / "checkpoint" / "commits")
                if batch not in marks:
                    marks[batch] = cpu_seconds(process.pid), time.monotonic()
                time.sleep(0.02)
            marks[given.files - 1] = cpu_seconds(process.pid), time.monotonic()
            if process.wait():
                raise SystemExit((folder.parent / "rate.log").read_text(errors="replace")[-3000:])
    first, last = marks[1], marks[given.files - 1]
    rows = (given.files - 2) * given.rows
    found = {name: getattr(given, name) for name in ("files", "rows", "keys", "shards")}
    found |= {
        "rows_per_cpu_s": round(rows / (last[0] - first[0])),
        "rows_per_wall_s": round(rows / (last[1] - first[1])),
    }
    found |= {"batches": {batch: [round(x, 2) for x in mark] for batch, mark in marks.items()}, "load": os.getloadavg()}
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "rate.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
