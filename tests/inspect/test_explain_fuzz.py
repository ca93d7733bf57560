"""A few of the models of `fuzz_explain.py`, which runs thousands: whatever `explain` calls exact is."""

import fuzz_explain
import pytest

# Programs by number: of topologies with a verdict of each kind, small cells, and what vmap and loops make of a step.
PROGRAMS = (1, 2, 4, 5, 9, 13, 15, 16, 25)
WEIGHTS = 4


@pytest.mark.parametrize("number", PROGRAMS)
def test_what_is_called_exact_is_exact(number):
    program = fuzz_explain.Program(number)
    lines = [program.line(seed) for seed in range(WEIGHTS)]
    assert not [line for line in lines if line["wrong"]], lines
    assert any(error is not None for _, error in lines[0]["parts"].values())


def test_every_topology_is_drawn_and_counted():
    made = [{"topology": name, "program": k, "seed": 0, "parts": {"a": ["biased", 0.0], "b": ["exact", 1.0]}}
            for k, name in enumerate(fuzz_explain.TOPOLOGIES)]  # fmt: skip
    rows = fuzz_explain.table([line | {"exact": False, "wrong": ["b"], "timid": ["a"]} for line in made])
    assert len(rows) == len(made) >= 20 and set(fuzz_explain.DOCUMENTED) <= rows.keys()
    assert all(row["wrong_exact"] == row["too_timid"] == row["programs_too_timid"] == 1 for row in rows.values())
    assert "stack *" in fuzz_explain.printed(rows)
