"""Rows a second that a fleet on Spark learns from, by CPU time of Java and Python together, and where the time goes.

    python benchmarks/fleet/spark_rate.py --batch 50000 --keys 2000 --shards 8 --out results/fleet-spark

A local Spark of one partition reads a file a micro-batch. CPU seconds are those of all processes of the run, from the
end of micro-batch `--warm` to that of the last: start and compilation are left out, and what else the machine does
counts little. Wall seconds stand beside them. Each run adds a line to rate.jsonl.

`--what` says what is run: "fleet" is `sg.fleet.spark.learn`; the others learn nothing, and say what Spark alone costs:

- "copy": rows are read and written, without Python;
- "rows": a processor takes the rows of a shard, as Spark hands them over, and says a row for each;
- "hold": `learn` itself, whose `apply` gives back the states as they came and predicts 0.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import spark_kills
from spark_kills import SCHEMA, ended, newest

WHAT = ("fleet", "copy", "rows", "hold")
FLAG = "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion"


def cpu_seconds(session: int) -> Counter[str]:
    """CPU time so far of all processes of a session, by the name of the program."""
    ticks: Counter[str] = Counter()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, tail = stat.read_text().rpartition(")")
        except OSError:  # it has just ended
            continue
        fields = tail.split()
        if int(fields[3]) == session:
            name = "java" if head.partition("(")[2] == "java" else "python"
            ticks[name] += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return ticks


def held() -> Any:
    """A kernel's place taken by nothing: states stay as they came, predictions are 0."""
    from types import SimpleNamespace

    from streamgrad.fleet import spark

    kernel, born = spark_kills.kernel(), {}

    def apply(_, states, keys, xs, targets):
        if not born:
            first, _ = kept(kernel, [None], [keys[0]], xs[:1], targets[:1])
            born["state"] = first[0]
        zeros = np.zeros(len(keys), np.float32)
        out = SimpleNamespace(prediction=zeros[:, None], loss=zeros, learned=np.ones(len(keys), bool))
        return [state or born["state"] for state in states], out

    kept, spark.apply = spark.apply, apply
    return kernel


def rows_alone(rows: Any, shards: int) -> Any:
    """Spark's own way of rows to a processor and back."""
    import pandas as pd
    from pyspark.sql import functions as F
    from pyspark.sql.streaming import StatefulProcessor

    class Through(StatefulProcessor):
        def init(self, handle):
            pass

        def handleInputRows(self, key, rows, timerValues):
            for table in rows:
                yield pd.DataFrame({"sensor": table["sensor"], "n": table["n"], "prediction": table["x"]})

        def close(self):
            pass

    shard = F.pmod(F.xxhash64(F.col("sensor")), F.lit(shards)).cast("int").alias("shard")
    said = "sensor string, n bigint, prediction float"
    wanted = ["sensor", "n", F.col("x").cast("float").alias("x"), F.col("y").cast("float").alias("y")]
    return rows.select(shard, *wanted).groupBy("shard").transformWithStateInPandas(Through(), said, "Append", "None")


def child(given: argparse.Namespace) -> None:
    """Learn from all files that are there."""
    from streamgrad.fleet import spark

    folder = given.child
    driver = spark_kills.session(1)
    driver.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", given.arrow)
    rows = driver.readStream.schema(SCHEMA).option("maxFilesPerTrigger", 1).format(given.format)
    rows = rows.load(str(folder / "rows"))
    if given.what == "copy":
        said = rows
    elif given.what == "rows":
        said = rows_alone(rows, given.shards)
    else:
        make = held if given.what == "hold" else spark_kills.kernel
        said = spark.learn(rows, make, key="sensor", order="n", inputs=["x"], targets=["y"], shards=given.shards)
    write = lambda table, batch: table.write.mode("overwrite").parquet(f"{folder}/said/batch={batch}")
    stream = said.writeStream.foreachBatch(write).option("checkpointLocation", str(folder / "checkpoint"))
    stream.trigger(availableNow=True).start().awaitTermination()


def as_parquet(folder: Path) -> None:
    """The JSON files as Parquet ones of the same order."""
    import pandas as pd

    for file in sorted(folder.glob("*.json")):
        table = pd.read_json(file, lines=True)
        table.to_parquet(file.with_suffix(".parquet"), index=False)
        os.utime(file.with_suffix(".parquet"), (file.stat().st_mtime,) * 2)
        file.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = ("batches", 24), ("batch", 50_000), ("keys", 2000), ("shards", 8), ("warm", 8), ("arrow", 10_000)
    for name, value in numbers:
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--what", choices=WHAT, default="fleet")
    parser.add_argument("--format", choices=("json", "parquet"), default="json", help="of the rows that Spark reads")
    parser.add_argument("--no-flag", action="store_true", help="without XLA's flag of docs/scale.md")
    parser.add_argument("--wrap", default="", help="what stands before the command, such as 'taskset -c 1'")
    parser.add_argument("--out", type=Path, default=Path("results/fleet-spark"))
    parser.add_argument("--child", type=Path)
    given = parser.parse_args()
    if given.child:
        return child(given)
    if not given.no_flag:
        os.environ["XLA_FLAGS"] = FLAG
    marks: dict[int, tuple[Counter[str], float]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "rate"
        spark_kills.write_files(folder / "rows", given.batches, given.batch, given.keys)
        if given.format == "parquet":
            as_parquet(folder / "rows")
        names = "batch", "keys", "shards", "arrow", "what", "format"
        more = [text for name in names for text in (f"--{name}", str(getattr(given, name)))]
        command = [*given.wrap.split(), sys.executable, __file__, "--child", str(folder), *more]
        with ended(spark_kills.started(command, folder)) as process:
            while process.poll() is None and len(marks) < given.batches:
                batch = newest(folder / "checkpoint" / "commits")
                if batch not in marks and batch >= 0:
                    marks[batch] = cpu_seconds(process.pid), time.monotonic()
                time.sleep(0.01)
            if process.wait():
                raise SystemExit((folder.parent / "rate.log").read_text(errors="replace")[-3000:])
    first, last = marks[given.warm], marks[given.batches - 1]
    rows = (given.batches - 1 - given.warm) * given.batch
    spent = {name: last[0][name] - first[0][name] for name in ("java", "python")}
    found = {name: getattr(given, name) for name in (*names, "batches", "warm")} | {"flag": not given.no_flag}
    found |= {"rows_per_cpu_s": round(rows / sum(spent.values()))}
    found |= {f"us_a_row_{name}": round(1e6 * spent[name] / rows, 2) for name in spent}
    found |= {"rows_per_wall_s": round(rows / (last[1] - first[1])), "load": os.getloadavg()}
    cpu = lambda batch: round(sum(marks[batch][0].values()), 2)
    found |= {"cpu_s_until_batch": {batch: cpu(batch) for batch in sorted(marks)}}
    given.out.mkdir(parents=True, exist_ok=True)
    with open(given.out / "rate.jsonl", "a") as file:
        file.write(json.dumps(found) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
