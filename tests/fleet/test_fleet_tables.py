"""Arrow tables as bytes, which a fleet on Spark sends to shards and keeps as their states."""

import numpy as np
import pytest

from streamgrad.fleet import FleetError

pa = pytest.importorskip("pyarrow")


def test_rows_are_dealt_to_their_shards_in_order():
    from streamgrad.fleet._tables import dealt, read

    shards, n = np.array([2, 0, 2, 2, 0], np.int32), np.arange(5)
    rows = pa.record_batch([shards, n, [0.5, None, 1.5, 2.5, 3.5]], ["shard", "n", "x"])
    first, second, nothing = dealt([rows[:3], rows[3:], rows[:0]])
    assert first.column("shard").to_pylist() == [0, 2] and nothing.num_rows == 0
    parts = [table.column("rows")[k].as_py() for table, k in ((first, 1), (second, 1))]
    assert read(parts).to_pydict() == {"n": [0, 2, 3], "x": [0.5, 1.5, 2.5]}
    assert read([first.column("rows")[0].as_py()]).to_pydict() == {"n": [1], "x": [None]}


def test_states_of_a_shard_come_back_and_others_are_refused():
    from streamgrad.fleet._tables import states_read, states_written, written

    states, last = {"b": b"2", "a": b"1"}, {"a": 7, "b": -3}
    data = states_written(states, last)
    assert states_read(data) == (states, last) and states_read(None) == ({}, {})
    assert data == states_written(dict(sorted(states.items())), last)
    with pytest.raises(FleetError, match="hold the columns key, state, and this version"):
        states_read(written(pa.table({"key": ["a"], "state": [b""]})))
