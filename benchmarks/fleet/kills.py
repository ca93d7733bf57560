"""Kill a fleet with -9 at random instants, start it again, and compare every byte with a run that nobody touched.

    python benchmarks/fleet/kills.py --kills 20 --rows 150000 --out results/fleet-kills

The child reads rows from `fleet.offset` on, cuts its file of predictions there, and goes on: learn, append the
predictions, commit states and offset. Writes a log line for each kill, and whether predictions and states are the
same, to the byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

BATCH, COMMIT = 64, 3  # rows of a call, calls between commits


def rows(start: int, count: int):
    """Rows of a stream that can be read from anywhere: zipf keys, sines with a phase of their own."""
    drawn = [np.random.default_rng([7, k]) for k in range(start, start + count)]
    keys = [int(rng.zipf(1.3)) % 3000 for rng in drawn]
    noise = np.array([rng.normal() for rng in drawn])
    when = np.arange(start, start + count) / 50
    x = np.sin(when + np.array(keys))[:, None]
    return keys, x.astype(np.float32), (np.sin(when + 0.3 + np.array(keys)) + 0.1 * noise)[:, None].astype(np.float32)


def child(folder: Path, total: int, slots: int) -> None:
    import nets

    import streamgrad as sg

    make, update = nets.LEARNERS["lru-16 adam"]
    with sg.Fleet(make, update, loss=sg.losses.mse, slots=slots, store=folder / "fleet.db") as fleet:
        offset = fleet.offset or 0
        file = os.open(folder / "predictions", os.O_RDWR | os.O_CREAT)
        os.ftruncate(file, 4 * offset)
        os.lseek(file, 0, os.SEEK_END)
        calls = 0
        while offset < total:
            count = min(BATCH, total - offset)
            out = fleet.update(*rows(offset, count))
            os.write(file, out.prediction.tobytes())
            offset, calls = offset + count, calls + 1
            if calls % COMMIT == 0 or offset == total:
                os.fsync(file)
                fleet.commit(offset=offset)
        digest = hashlib.sha256(b"".join(repr(key).encode() + fleet.state(key) for key in sorted(fleet)))
        (folder / "states").write_text(digest.hexdigest())


def start(folder: Path, total: int, slots: int, cache: Path) -> subprocess.Popen:
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, __file__, "--child", str(folder), "--rows", str(total), "--slots", str(slots)]
    return subprocess.Popen(command, env=environment)


def digests(folder: Path) -> dict[str, str]:
    predictions = hashlib.sha256((folder / "predictions").read_bytes()).hexdigest()
    return {"predictions": predictions, "states": (folder / "states").read_text()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rows", type=int, default=150_000)
    parser.add_argument("--slots", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/fleet-kills"))
    parser.add_argument("--child", type=Path)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.rows, given.slots)
        return 0
    given.out.mkdir(parents=True, exist_ok=True)
    chance, lines = random.Random(given.seed), []
    with tempfile.TemporaryDirectory() as place:
        whole, killed, cache = (Path(place) / name for name in ("whole", "killed", "cache"))
        whole.mkdir()
        killed.mkdir()
        if start(whole, given.rows, given.slots, cache).wait():
            return 1
        predictions, kills = killed / "predictions", 0
        written = lambda: predictions.stat().st_size // 4 if predictions.exists() else 0
        while kills < given.kills:
            # Some in mid-start, most after a random number of further rows, however fast the machine is.
            goal = 0 if chance.random() < 0.1 else written() + 1 + int(chance.random() * 0.8 * given.rows / given.kills)
            process, begun = start(killed, given.rows, given.slots, cache), time.monotonic()
            while process.poll() is None and written() < goal:
                time.sleep(0.0005)
            time.sleep(chance.random() * (0.01 if goal else 1))
            if process.poll() is not None:
                break  # it came to its end before
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            lines.append({"kill": kills, "after_s": round(time.monotonic() - begun, 3), "rows_written": written()})
            print(json.dumps(lines[-1]), flush=True)
        if start(killed, given.rows, given.slots, cache).wait():
            return 1
        first, second = digests(whole), digests(killed)
    result = {"kills": kills, "rows": given.rows, "slots": given.slots, "same": first == second, "sha256": first}
    (given.out / "kills.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, result]))
    print(json.dumps(result))
    return 0 if first == second else 1


if __name__ == "__main__":
    sys.exit(main())
