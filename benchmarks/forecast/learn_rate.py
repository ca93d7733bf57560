"""What a row of `streamgrad learn` takes, from file to file: rows a second of a long series, default and light, and the
part of each piece of it.

    python benchmarks/forecast/learn_rate.py --rows 1000000 --out results/forecast-cost/learn-rate.json

One series (a season, a walk, noise) in a CSV file, one process for each learner, pinned to one core. Parts are clocked
around calls of 200 rows; what they leave is reading, progress, fingerprints and checkpoints.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

PARTS = {
    "compiled loop": ("_portions", "Portions", "learned"),
    "text of the predictions": ("_journal", "Journal", "predictions"),
    "intervals": ("_intervals", "Intervals", "__call__"),
    "encoding": ("_encoder", "Encoder", "__call__"),
    "picture's history": ("_history", "History", "__call__"),
    "scores": ("_scores", "Scores", "__call__"),
    "checkpoints": ("_record", "Record", "_keep"),
}


def series(path: Path, rows: int) -> None:
    """A season, a walk and noise."""
    rng, t = np.random.default_rng(0), np.arange(rows)
    y = 3 * np.sin(2 * np.pi * t / 24) + rng.standard_normal(rows) + 0.1 * rng.standard_normal(rows).cumsum()
    path.write_text("y\n" + "\n".join(f"{value:.4f}" for value in y) + "\n")


def clocked(arguments: list[str]) -> dict[str, float]:
    """Seconds of each part of one run of the command; that of the compiled loop includes its compilation."""
    import importlib

    from streamgrad.cli.learn import main

    seconds = dict.fromkeys(PARTS, 0.0)

    def clock(name, module, kind, method):
        owner = getattr(importlib.import_module(f"streamgrad.forecast.{module}"), kind)
        call = getattr(owner, method)

        def timed(*args, **kwargs):
            began = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                seconds[name] += time.perf_counter() - began

        setattr(owner, method, timed)

    for name, place in PARTS.items():
        clock(name, *place)
    main(arguments)
    return seconds


def run(learner: str, path: Path, rows: int) -> dict:
    """One learner: rows a second as the command says, and microseconds of a row by part."""
    folder = path.parent / learner
    arguments = [str(path), "--target", "y", "--learner", learner, "--out", str(folder), "--overwrite"]
    code = f"import json, sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import learn_rate; "
    code += f"print(json.dumps(learn_rate.clocked({arguments!r})))"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    seconds = json.loads(said.splitlines()[-1])
    rate = next(line for line in said.splitlines() if "rows/s" in line).split()[-2]
    micros = {name: value / rows * 1e6 for name, value in seconds.items()}
    return {"rows_a_second": float(rate.replace(",", "")), "microseconds_a_row": micros}


def main() -> None:
    """Measure both learners."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=Path("results/forecast-cost/learn-rate.json"))
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    found = {"rows": options.rows}
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "series.csv"
        series(path, options.rows)
        for learner in ("light", "mixture"):
            found[learner] = run(learner, path, options.rows)
            print(learner, json.dumps(found[learner], indent=1), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
