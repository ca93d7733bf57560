"""A fleet on Spark: `sg.fleet.apply` under Structured Streaming, exactly once, on as many machines as there are.

    from streamgrad.fleet import spark

    said = spark.learn(rows, kernel, key="sensor", order="when", inputs=["x"], targets=["y"], shards=64)
    write = lambda table, batch: table.write.mode("overwrite").parquet(f"said/batch={batch}")
    said.writeStream.foreachBatch(write).option("checkpointLocation", "checkpoint").start()

Spark's checkpoint makes states and offsets of the source one, and a micro-batch that is tried again is written anew.
Keys are dealt out to `shards` by their hash; all rows of a shard in a micro-batch are one call of `apply`, and a
shard's states are one value in Spark's state store. Spark deals shards out to partitions: more machines take over
shards with their states, and no bit changes. Rows travel to their shard as Arrow tables: Spark's Python worker would
take them one by one.

Within a micro-batch rows of a key are put in order by the column `order`. From one micro-batch to the next that is the
source's duty: Kafka keeps the order of a partition, so send a key always to the same one; Spark's file source takes
files by their time of modification. A row that is not after its key's last one is refused, or left out and marked.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ._apply import apply
from ._clocks import Clocks
from ._errors import FleetError
from ._kernel import Kernel

try:
    import pandas as pd
    from pyspark.sql import DataFrame, functions as F, types as T  # pyright: ignore[reportMissingImports]
    from pyspark.sql.streaming import StatefulProcessor  # pyright: ignore[reportMissingImports]

    from ._tables import dealt, read, states_read, states_written
except ImportError as error:
    raise ImportError(f"{error.name} is not installed: pip install 'streamgrad[spark]' brings Spark.") from error

ADVICE = 'Order between micro-batches is the source\'s duty; late="skip" leaves such rows out and marks them.'
STATE = "learners binary not null"  # of a shard, as `states_written` makes them
_TIMES, _NUMBERS = (T.TimestampType, T.TimestampNTZType, T.DateType), T.ArrayType(T.FloatType())


def learn(
    rows: DataFrame,
    kernel: Callable[[], Kernel],
    *,
    key: str,
    order: str,
    inputs: Sequence[str],
    targets: Sequence[str],
    shards: int = 64,
    late: str = "refuse",
) -> DataFrame:
    """What each key's learner says of its rows: predict, then learn, in a stream of Spark.

    - `rows`: a streaming data frame; `key`: its column of keys, which are texts here;
    - `kernel`: a function without arguments that makes the `sg.fleet.Kernel`, once in each Python worker;
    - `order`: a column of whole numbers or times that grow from row to row of a key;
    - `inputs`, `targets`: columns that make a row's x and target, as float32; null is NaN, and as a target missing;
    - `shards`: fixed for the life of a checkpoint. A shard that gets a row is read and written whole, so some hundred
      keys a shard are right;
    - `late`: `"refuse"` a row that is not after its key's last one, or `"skip"` it and say so.

    Returns a streaming data frame of `key`, `order`, `prediction` (an array), `loss`, `learned` and `late`.

    Raises `ValueError` for columns that are not there, a key of another type, and what cannot be meant.
    """
    columns = [key, order, *inputs, *targets]
    if lacking := [name for name in columns if name not in rows.columns]:
        raise ValueError(f"rows have no column {lacking[0]!r}: their columns are {', '.join(rows.columns)}.")
    if len(set(columns)) < len(columns):
        raise ValueError(f"a column is the key, the order, an input or a target, and one of these only: got {columns}.")
    if late not in ("refuse", "skip"):
        raise ValueError(f'late must be "refuse" or "skip", got {late!r}.')
    if isinstance(shards, bool) or not isinstance(shards, int) or shards < 1:
        raise ValueError(f"shards must be an integer >= 1, got {shards!r}.")
    if not isinstance(rows.schema[key].dataType, T.StringType):
        raise ValueError(f"the key {key!r} must be a text, got {rows.schema[key].dataType.simpleString()}: cast it.")
    given = rows.schema[order].dataType
    as_number = F.unix_micros(F.col(order).cast("timestamp")) if isinstance(given, _TIMES) else F.col(order)
    if not isinstance(given, (T.IntegralType, *_TIMES)):
        raise ValueError(f"the order {order!r} must be whole numbers or times, got {given.simpleString()}.")
    wanted = [F.col(key), as_number.cast("bigint").alias(order)]
    wanted += [F.col(name).cast("float").alias(name) for name in (*inputs, *targets)]
    shard = F.pmod(F.xxhash64(F.col(key)), F.lit(shards)).cast("int")
    processor = Shard(kernel, uuid.uuid4().hex, (key, order, tuple(inputs), tuple(targets)), late == "skip")
    said = T.StructType().add(key, T.StringType()).add(order, T.LongType()).add("prediction", _NUMBERS)
    said = said.add("loss", T.FloatType()).add("learned", T.BooleanType()).add("late", T.BooleanType())
    tables = rows.select(shard, *wanted).mapInArrow(dealt, "shard int, rows binary")
    return tables.groupBy("shard").transformWithStateInPandas(processor, said, "Append", "None")


_kernels: dict[str, Kernel] = {}  # of a worker, which serves many tasks, by call of `learn`


class Shard(StatefulProcessor):
    """The learners of the keys whose hashes are alike."""

    def __init__(self, make: Callable[[], Kernel], token: str, columns: tuple[Any, ...], skips: bool):
        self._make, self._token, self._columns, self._skips = make, token, columns, skips

    def init(self, handle: Any) -> None:
        """Spark's call at the begin of a task."""
        self._states = handle.getValueState("learners", STATE)

    def handleInputRows(self, key: Any, rows: Iterator[pd.DataFrame], timerValues: Any) -> Iterator[pd.DataFrame]:
        """Spark's call for the rows of a shard in a micro-batch."""
        name, order, inputs, targets = self._columns
        table = read(bytes(each) for some in rows for each in some["rows"])
        if table[name].null_count or table[order].null_count:
            raise FleetError(f"A row has no {name!r} or no {order!r}: each needs both. Leave such rows out before.")
        # By time first: learners whose rows alternate take steps together.
        table = table.sort_by([(order, "ascending"), (name, "ascending")])
        keys, times = table[name].to_pylist(), table[order].to_numpy()
        (before,) = self._states.get() or (None,)
        states, last = states_read(before)
        late = self._late(keys, times, last)
        on_time = np.flatnonzero(~late)
        mine = [keys[k] for k in on_time]
        old = [states.get(each) for each in mine]
        columns = lambda names: np.array([table[each].to_numpy() for each in names], np.float32)
        numbers = lambda names: columns(names).reshape(len(names), len(keys)).T[on_time]
        if self._token not in _kernels:
            _kernels[self._token] = self._make()
        after, out = apply(_kernels[self._token], old, mine, numbers(inputs), numbers(targets))
        states.update(zip(mine, after, strict=True))
        self._states.update((states_written(states, last),))
        prediction, loss, learned = [None] * len(keys), np.full(len(keys), np.nan, np.float32), ~late
        for k, y in zip(on_time, np.asarray(out.prediction, np.float32), strict=True):
            prediction[k] = y.reshape(-1)
        loss[on_time], learned[on_time] = out.loss, out.learned
        said = {"prediction": prediction, "loss": loss, "learned": learned, "late": late}
        yield pd.DataFrame({name: keys, order: times, **said})

    def _late(self, keys: list[str], times: np.ndarray, last: dict[Any, int]) -> np.ndarray:
        """Which rows, sorted by time, are not after their key's last one; `last` is brought up to date."""
        clocks = Clocks("skip" if self._skips else "refuse", 0, ADVICE)
        try:
            on_time, newest = clocks.look(keys, times, lambda some: {key: last[key] for key in some if key in last})
        except ValueError as error:
            raise FleetError(str(error)) from None
        last.update(newest)
        return ~on_time

    def close(self) -> None:
        """Spark's call at the end of a task."""
