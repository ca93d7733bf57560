"""How fast a fleet is on one core: rows a second, commits, a restart, a million keys.

    python benchmarks/fleet/rates.py rates   [--multi-output]    rows/s by rows a call, and with hot keys
    python benchmarks/fleet/rates.py hot     [--multi-output]    rows/s of a single key
    python benchmarks/fleet/rates.py bytes                       what a learner costs
    python benchmarks/fleet/rates.py commit                      10,000 dirty learners to the disk
    python benchmarks/fleet/rates.py restart [--multi-output]    from the start of a process to a prediction
    python benchmarks/fleet/rates.py million [--multi-output]    a million keys through 100,000 slots, twice

Writes JSON into --out (results/fleet). Times are of one pinned core: CPU seconds of the process (what the work takes
when nothing else runs) and wall seconds beside them; the best of --rounds. `--multi-output` lets XLA's CPU compiler
write several results from one loop.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MULTI_OUTPUT = "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion"
SLOTS = 10_000


def fleet_of(name: str, **options: Any):
    import nets

    import streamgrad as sg

    make, update = nets.LEARNERS[name]
    return sg.Fleet(make, update, loss=sg.losses.mse, **options)


def calls(rng, count: int, size: int, zipf: float | None):
    import numpy as np

    for _ in range(count):
        keys = rng.integers(SLOTS, size=size) if zipf is None else rng.zipf(zipf, size=size) % SLOTS
        x = rng.normal(size=(size, 1)).astype(np.float32)
        yield keys, x, x / 2


def rates(rounds: int) -> list[dict[str, Any]]:
    import numpy as np

    rng, lines = np.random.default_rng(0), []
    for name in ("lru-16 adam", "gru-16 adam", "lru-16 kalman by layer"):
        fleet = fleet_of(name, slots=SLOTS)
        for start in range(0, SLOTS, 500):
            x = np.zeros((500, 1), np.float32)
            fleet.update(np.arange(start, start + 500), x, x)
        uniform = [(size, None) for size in (1, 8, 64, 512, 4096)]
        for size, zipf in [*uniform, (512, 1.3), (4096, 1.3)]:
            many = max(2, min(64, 16384 // size))
            best = wall = float("inf")
            for _ in range(rounds):
                some = list(calls(rng, many, size, zipf))
                cpu, begun = time.process_time(), time.perf_counter()
                for each in some:
                    fleet.update(*each)
                best, wall = min(best, time.process_time() - cpu), min(wall, time.perf_counter() - begun)
            lines.append(
                {
                    "learner": name,
                    "rows_a_call": size,
                    "keys": "uniform" if zipf is None else f"zipf({zipf})",
                    "rows_per_cpu_s": round(many * size / best),
                    "rows_per_wall_s": round(many * size / wall),
                }
            )
            print(json.dumps(lines[-1]), flush=True)
    return lines


def hot(rounds: int) -> list[dict[str, Any]]:
    import numpy as np

    fleet, x = fleet_of("lru-16 adam"), np.ones((4096, 1), np.float32)
    fleet.update(["a"] * 4096, x, x)
    times = []
    for _ in range(rounds):
        cpu = time.process_time()
        fleet.update(["a"] * 4096, x, x)
        times.append(time.process_time() - cpu)
    lines = [{"learner": "lru-16 adam", "keys": "one", "rows_per_cpu_s": round(4096 / min(times))}]
    print(json.dumps(lines[-1]))
    return lines


def sizes(rounds: int) -> list[dict[str, Any]]:
    import nets
    import numpy as np

    one, lines = np.zeros(1, np.float32), []
    for name in nets.LEARNERS:
        kernel = fleet_of(name, like=(one, one), slots=1).kernel
        lines.append({"learner": name, "bytes": 4 * kernel.programs.rows.words})
        print(json.dumps(lines[-1]), flush=True)
    return lines


def commit(rounds: int) -> list[dict[str, Any]]:
    import numpy as np

    lines = []
    with tempfile.TemporaryDirectory() as folder:
        fleet = fleet_of("lru-16 adam", slots=SLOTS, store=Path(folder) / "fleet.db")
        for k in range(rounds + 1):
            x = np.ones((SLOTS, 1), np.float32)
            fleet.update(np.arange(SLOTS), x, x)
            cpu, begun = time.process_time(), time.perf_counter()
            fleet.commit(offset=k)
            lines.append({"learners": SLOTS, "first": k == 0, "wall_s": time.perf_counter() - begun})
            lines[-1]["cpu_s"] = time.process_time() - cpu
            print(json.dumps(lines[-1]), flush=True)
        fleet.close()
    return lines


ASK = """
import sys, time
sys.path.insert(0, {here!r})
import numpy as np
from rates import fleet_of
fleet = fleet_of("lru-16 adam", store={store!r})
print(fleet.predict([7], np.ones((1, 1), np.float32)), len(fleet), time.process_time())
"""


def restart(rounds: int) -> list[dict[str, Any]]:
    import numpy as np

    here, lines = str(Path(__file__).parent), []
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "fleet.db")
        fleet = fleet_of("lru-16 adam", slots=SLOTS, store=store)
        x = np.ones((SLOTS, 1), np.float32)
        fleet.update(np.arange(SLOTS), x, x)
        fleet.commit(offset=1)
        fleet.close()
        for cached in (False, True):
            cache = {"JAX_COMPILATION_CACHE_DIR": folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
            for k in range(rounds):
                begun = time.perf_counter()
                done = subprocess.run(
                    [sys.executable, "-c", ASK.format(here=here, store=store)],
                    env=os.environ | (cache if cached else {}),
                    capture_output=True,
                    text=True,
                    check=True,
                )
                line = {"compilation_cache": cached and k > 0, "wall_s": time.perf_counter() - begun}
                lines.append(line | {"cpu_s": float(done.stdout.split()[-1])})
                print(json.dumps(lines[-1]), flush=True)
    return lines


def million(rounds: int) -> list[dict[str, Any]]:
    import numpy as np

    lines, keys, size = [], 1_000_000, 4096
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "fleet.db"
        fleet = fleet_of("lru-16 adam", slots=100_000, store=store)
        for turn in ("new", "cold"):
            order = np.random.default_rng(1 if turn == "new" else 2).permutation(keys)
            cpu, begun = time.process_time(), time.perf_counter()
            for start in range(0, keys, size):
                some = order[start : start + size]
                x = np.sin(some / 7.0)[:, None].astype(np.float32)
                fleet.update(some, x, x / 2)
                if (start // size) % 25 == 24 or start + size >= keys:
                    fleet.commit(offset=start + len(some))
                    done = min(start + size, keys)
                    line = {"turn": turn, "rows": done, "learners": len(fleet)}
                    line |= {"resident_mb": _resident(), "store_mb": store.stat().st_size / 1e6}
                    line |= {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - begun}
                    lines.append(line)
                    print(json.dumps(line), flush=True)
        begun = time.perf_counter()
        lines.append({"warnings": len(fleet.warnings()), "wall_s": time.perf_counter() - begun})
        lines.append({"peak_resident_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3})
        print(json.dumps(lines[-2:]))
        fleet.close()
    return lines


def _resident() -> float:
    """Megabytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def main() -> None:
    what = {"rates": rates, "hot": hot, "bytes": sizes, "commit": commit, "restart": restart, "million": million}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=what)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--multi-output", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("results/fleet"))
    given = parser.parse_args()
    os.sched_setaffinity(0, {given.core})
    if given.multi_output:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {MULTI_OUTPUT}".strip()
    lines = what[given.what](given.rounds)
    import jax

    head = {"command": given.what, "multi_output": given.multi_output, "rounds": given.rounds, "jax": jax.__version__}
    head |= {"python": platform.python_version(), "machine": platform.machine(), "load": os.getloadavg()}
    given.out.mkdir(parents=True, exist_ok=True)
    name = f"{given.what}{'-multi-output' if given.multi_output else ''}.json"
    (given.out / name).write_text(json.dumps({**head, "rows": lines}, indent=1) + "\n")


if __name__ == "__main__":
    main()
