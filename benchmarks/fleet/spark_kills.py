"""Kill a fleet on Spark with -9 in mid-batch, go on, rescale 1 → 3, and compare every byte.

    python benchmarks/fleet/spark_kills.py --kills 3 --files 12 --rows 2000 --out results/fleet-spark

A local Spark learns from files of rows, one a micro-batch. The run that is compared with is one that nobody touched, on
one partition. The other one is killed, Java and Python workers with it, while a micro-batch is under way (its offsets
are written and its commit is not), goes on, and is rescaled to three partitions half way. Predictions and states are
compared with those of the first, and predictions with an embedded `sg.Fleet`, too. Writes a log line for each kill.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

TRIES = 3  # where the machine is so busy that Python workers do not come up in time
HERE = Path(__file__).resolve().parent
SCHEMA = "sensor string, n bigint, x double, y double"


def write_files(folder: Path, files: int, rows: int, keys: int) -> None:
    """Rows as JSON lines: a file for each micro-batch, whose times of modification are their order."""
    folder.mkdir(parents=True)
    for k in range(files):
        rng = np.random.default_rng([11, k])
        name = rng.zipf(1.3, size=rows) % keys
        n = np.arange(k * rows, (k + 1) * rows)
        x = np.sin(n / 50 + name)
        y = np.where(rng.random(rows) < 0.03, np.nan, np.sin(n / 50 + 0.3 + name) + 0.1 * rng.normal(size=rows))
        order = rng.permutation(rows)  # within a micro-batch the processor sorts
        lines = []
        for j in order:
            row = {"sensor": f"s{name[j]}", "n": int(n[j]), "x": float(x[j])}
            lines.append(json.dumps(row if np.isnan(y[j]) else row | {"y": float(y[j])}) + "\n")
        file = folder / f"{k:04}.json"
        file.write_text("".join(lines))
        os.utime(file, (1.7e9 + k, 1.7e9 + k))


def kernel() -> Any:
    """Made in each Python worker of Spark."""
    sys.path.insert(0, str(HERE))
    import nets

    import streamgrad as sg

    make, update = nets.LEARNERS["lru-16 adam"]
    return sg.fleet.Kernel(make, update, loss=sg.losses.mse)


def session(partitions: int) -> Any:
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.master(f"local[{partitions}]").appName("fleet")
    settings = {
        "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.sql.shuffle.partitions": partitions,
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.streaming.stateStore.providerClass": (
            "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider"
        ),
    }
    for name, value in settings.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


def child(given: argparse.Namespace) -> None:
    """Learn from all files that are there, or rescale, or say what came of it."""
    from streamgrad.fleet import spark
    from streamgrad.fleet._tables import states_read

    folder, partitions = given.child, given.partitions
    at = {name: str(folder / name) for name in ("rows", "said", "checkpoint")}
    driver = session(partitions)
    if given.rescale:
        driver._streamingCheckpointManager.repartition(at["checkpoint"], partitions)
        return
    if given.digest:
        said = driver.read.parquet(at["said"]).orderBy("n").collect()
        states = driver.read.format("statestore").option("stateVarName", "learners").load(at["checkpoint"])
        kept = sorted(pair for row in states.collect() for pair in states_read(row.value.learners)[0].items())
        lines = [(r.sensor, r.n, np.float32(r.prediction).tobytes(), np.float32(r.loss).tobytes()) for r in said]
        digest = lambda what: hashlib.sha256(repr(what).encode()).hexdigest()
        predictions = np.array([r.prediction for r in said], np.float32)
        np.save(folder / "predictions.npy", predictions)
        (folder / "digest.json").write_text(
            json.dumps({"rows": len(said), "keys": len(kept), "said": digest(lines), "states": digest(kept)})
        )
        return
    rows = driver.readStream.schema(SCHEMA).option("maxFilesPerTrigger", 1).json(at["rows"])
    said = spark.learn(rows, kernel, key="sensor", order="n", inputs=["x"], targets=["y"], shards=given.shards)
    # A folder for each micro-batch, which a second try of it writes anew. Spark's own file sink keeps a log of batches
    # that has a hole after a rescaling, and cannot be read or compacted then.
    write = lambda table, batch: table.write.mode("overwrite").parquet(f"{at['said']}/batch={batch}")
    begun = time.monotonic()
    stream = said.writeStream.foreachBatch(write).option("checkpointLocation", at["checkpoint"])
    query = stream.trigger(availableNow=True).start()
    query.awaitTermination()
    batches = [(p["batchId"], p["numInputRows"], p["batchDuration"]) for p in map(_progress, query.recentProgress)]
    (folder / "progress.json").write_text(json.dumps({"seconds": time.monotonic() - begun, "batches": batches}))


def _progress(progress: Any) -> Any:
    return json.loads(progress.json) if hasattr(progress, "json") else progress


def start(folder: Path, given: argparse.Namespace, partitions: int, *more: str) -> subprocess.Popen:
    command = [*given.wrap.split(), sys.executable, __file__, "--child", str(folder), "--partitions", str(partitions)]
    return started([*command, "--shards", str(given.shards), *more], folder)


def started(command: list[str], folder: Path) -> subprocess.Popen:
    """A command in a session of its own, which logs beside its folder."""
    cache = {"JAX_COMPILATION_CACHE_DIR": str(folder.parent / "cache"), "NPROC": "1"}
    cache |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
    cache |= {"PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}  # of Python workers, too
    with open(folder.parent / f"{folder.name}.log", "ab") as log:
        return subprocess.Popen(command, env=os.environ | cache, start_new_session=True, stdout=log, stderr=log)


@contextlib.contextmanager
def ended(process: subprocess.Popen) -> Iterator[subprocess.Popen]:
    """A process that does not outlive what goes on here."""
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run(folder: Path, given: argparse.Namespace, partitions: int, *more: str) -> None:
    for _ in range(TRIES):
        with ended(start(folder, given, partitions, *more)) as process:
            if not process.wait():
                return
    log = (folder.parent / f"{folder.name}.log").read_text(errors="replace")
    raise RuntimeError(f"Spark failed:\n{log[-4000:]}")


def newest(folder: Path) -> int:
    """The number of the newest file of a log of Spark, -1 where there is none."""
    return max((int(file.name) for file in folder.glob("*") if file.name.isdecimal()), default=-1)


def kill_in_mid_batch(
    folder: Path, given: argparse.Namespace, partitions: int, chance: random.Random
) -> dict[str, Any] | None:
    """Start, wait until a micro-batch is under way for some time, and kill all; None where it came to its end.

    The first micro-batch of a start takes long (Python workers start, JAX compiles), those after it do not."""
    checkpoint, after = folder / "checkpoint", chance.choice((0, 1, 1, 2))
    committed = lambda: newest(checkpoint / "commits")
    first, wait = committed() + 1, chance.random() * (0.6 if after else 8)
    with ended(start(folder, given, partitions)) as process:
        while process.poll() is None:
            batch = newest(checkpoint / "offsets")
            if batch > committed() and batch >= first + after:
                time.sleep(wait)
                if committed() < batch and process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    found = {"batch": batch, "committed": committed(), "batches_before": batch - first}
                    return {**found, "after_s": round(wait, 3), "partitions": partitions}
            time.sleep(0.005)
    if process.returncode:  # as good as a kill, which Spark saw to itself
        return {"failed": process.returncode, "committed": committed(), "partitions": partitions}
    return None


def embedded(rows: Path) -> np.ndarray:
    """What an `sg.Fleet` in this process says of the same rows."""
    import streamgrad as sg

    found, fleet = [], sg.Fleet.of(kernel())
    for file in sorted(rows.glob("*.json")):
        lines = sorted(map(json.loads, file.read_text().splitlines()), key=lambda line: line["n"])
        x = np.array([[line["x"]] for line in lines], np.float32)
        y = np.array([[line.get("y", np.nan)] for line in lines], np.float32)
        found.append(fleet.update([line["sensor"] for line in lines], x, y).prediction)
    return np.concatenate(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("kills", 3), ("files", 12), ("rows", 2000), ("keys", 300), ("shards", 8), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--out", type=Path, default=Path("results/fleet-spark"))
    parser.add_argument("--wrap", default="", help="what stands before each command, such as 'taskset -c 1'")
    parser.add_argument("--work", type=Path, help="a folder in which an interrupted benchmark goes on")
    parser.add_argument("--child", type=Path)
    parser.add_argument("--partitions", type=int, default=1)
    parser.add_argument("--rescale", action="store_true")
    parser.add_argument("--digest", action="store_true")
    given = parser.parse_args()
    if given.child:
        child(given)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))  # Spark ends with it
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "kills.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if given.work and path.exists() else []

    def log(line: dict[str, Any]) -> None:
        lines.append(line)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        print(json.dumps(line), flush=True)

    with contextlib.ExitStack() as stack:
        place = given.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        whole, killed = place / "whole", place / "killed"
        for folder in (whole, killed):
            if not folder.exists():
                write_files(folder / "rows", given.files, given.rows, given.keys)
        if not (whole / "digest.json").exists():
            run(whole, given, 1)
            run(whole, given, 1, "--digest")
        later = [killed / "rows" / f"{k:04}.json" for k in range(given.files // 2, given.files)]
        for partitions, many in ((1, given.kills - given.kills // 2), (3, given.kills)):
            rescaled = any("rescaled" in line for line in lines)
            if partitions == 1 and rescaled:
                continue
            for file in later:  # they come after the rescaling
                ways = (killed / "later" / file.name, file) if rescaled else (file, killed / "later" / file.name)
                ways[1].parent.mkdir(exist_ok=True)
                if ways[0].exists():
                    ways[0].rename(ways[1])
            done = lambda: sum("kill" in line for line in lines)
            chance = random.Random(f"{given.seed} {done()}")
            while done() < many and (found := kill_in_mid_batch(killed, given, partitions, chance)):
                log(found if "failed" in found else {"kill": done() + 1, **found})
                if sum("failed" in line for line in lines) > 2 * TRIES:
                    raise RuntimeError((place / "killed.log").read_text(errors="replace")[-4000:])
            run(killed, given, partitions)
            if partitions == 1:
                run(killed, given, 3, "--rescale")
                log({"rescaled": "1 -> 3", "batch": newest(killed / "checkpoint" / "commits")})
        run(killed, given, 3, "--digest")
        first, second = (json.loads((folder / "digest.json").read_text()) for folder in (whole, killed))
        progress = json.loads((whole / "progress.json").read_text())
        predictions = embedded(whole / "rows")
        same_embedded = bool(np.array_equal(predictions, np.load(whole / "predictions.npy"), equal_nan=True))
    warm = [1000 * rows / took for _, rows, took in progress["batches"][1:] if rows]
    rate = round(float(np.median(warm))) if warm else None
    result = {"kills": done(), "rows": given.files * given.rows, "shards": given.shards, "same": first == second}
    result |= {"same_as_embedded": same_embedded, "rows_per_s_a_batch": rate, **first}
    log(result)
    return 0 if first == second and same_embedded else 1


if __name__ == "__main__":
    sys.exit(main())
