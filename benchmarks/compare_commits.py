"""`streamgrad bench` of two commits in turn: the time of each program now over its time at the base.

    make bench-compare BASE=v0.1 ROWS="dense sparse python"
    python benchmarks/compare_commits.py BASE dense sparse python --rounds 3 --out results/bench/against-BASE.json

Both run in this environment, each from its own source. Their order changes from round to round; the figure of a program
is the ratio of its medians over rounds. Rows that the base does not have are left out, and named.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
ROWS = ("dense", "bandwidth", "sparse", "streams", "rtrl", "columns", "block-128", "chunk-128", "python")


def bench(source: Path, row: str, rounds: int, folder: Path) -> dict[str, float] | None:
    """Median microseconds a step by program; None where there is no such row."""
    out = folder / "row.json"
    out.unlink(missing_ok=True)
    command = [sys.executable, "-W", "ignore", "-m", "streamgrad.cli", "bench", row]
    environment = {**os.environ, "PYTHONPATH": str(source / "src")}
    done = subprocess.run(
        [*command, "--rounds", str(rounds), "--out", str(out)], env=environment, capture_output=True, text=True
    )
    if done.returncode or not out.exists():
        print(f"{row}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    (found,) = json.loads(out.read_text())["rows"]
    return {name: time["median"] for name, time in found["microseconds_a_step"].items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="a commit, tag or branch")
    parser.add_argument("rows", nargs="*", default=[])
    parser.add_argument("--rounds", type=int, default=3, help="how often both take turns")
    parser.add_argument("--inner", type=int, default=5, help="rounds within one bench")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        subprocess.run(["git", "worktree", "add", "--detach", base, options.base], cwd=ROOT, check=True)
        try:
            for row in options.rows or ROWS:
                times = {"base": {}, "now": {}}
                for k in range(options.rounds):
                    for which in ("base", "now") if k % 2 == 0 else ("now", "base"):
                        source = base if which == "base" else ROOT
                        for program, time in (bench(source, row, options.inner, Path(folder)) or {}).items():
                            times[which].setdefault(program, []).append(time)
                found[row] = {}
                for program in times["base"].keys() & times["now"].keys():
                    before, now = (float(np.median(times[which][program])) for which in ("base", "now"))
                    found[row][program] = {"base": before, "now": now, "ratio": now / before}
                    print(f"{row:12} {program:36} {before:9.2f} {now:9.2f} µs  {now / before:5.2f}", flush=True)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", base], cwd=ROOT, check=True)
    if options.out:
        options.out.write_text(json.dumps({"base": options.base, "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
