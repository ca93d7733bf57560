"""Arrow tables as bytes: how rows travel to a shard on Spark, and what a shard's state is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from ._errors import FleetError

#: What the state of a shard holds, sorted by key: the learner's bytes as `apply` gives them, and its last time.
STATES = pa.schema([("key", pa.string()), ("state", pa.binary()), ("last", pa.int64())])


def written(table: pa.Table | pa.RecordBatch) -> bytes:
    """The bytes of a table."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write(table)
    return sink.getvalue().to_pybytes()


def read(parts: Iterable[bytes]) -> pa.Table:
    """One table of the bytes of several."""
    return pa.concat_tables([pa.ipc.open_stream(part).read_all() for part in parts])


def dealt(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The rows of each shard as bytes, one row for a shard of a batch. The first column of rows is their shard."""
    for batch in batches:
        shards = batch.column(0).to_numpy()
        by = np.argsort(shards, kind="stable")
        rows = batch.select(batch.schema.names[1:]).take(pa.array(by))
        some, starts, counts = np.unique(shards[by], return_index=True, return_counts=True)
        parts = [written(rows.slice(start, count)) for start, count in zip(starts, counts, strict=True)]
        yield pa.record_batch([pa.array(some, pa.int32()), pa.array(parts, pa.binary())], ["shard", "rows"])


def states_written(states: dict[str, bytes], last: dict[str, int]) -> bytes:
    """The bytes of a shard's states, the same for any order in which keys came."""
    keys = sorted(states)
    columns = keys, [states[key] for key in keys], [last[key] for key in keys]
    return written(pa.table([pa.array(c, type) for c, type in zip(columns, STATES.types, strict=True)], STATES))


def states_read(data: bytes | None) -> tuple[dict[str, bytes], dict[str, int]]:
    """States and last times of a shard's keys. Raises `FleetError` for bytes that hold something else."""
    if data is None:
        return {}, {}
    table = read([bytes(data)])
    if table.schema != STATES:
        raise FleetError(
            f"The states of a shard hold the columns {', '.join(table.schema.names)}, and this version of streamgrad "
            f"reads {', '.join(STATES.names)}: use the version that wrote the checkpoint."
        )
    keys, states, last = (column.to_pylist() for column in table.columns)
    return dict(zip(keys, states, strict=True)), dict(zip(keys, last, strict=True))
