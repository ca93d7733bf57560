"""The same effort for all: learning rates chosen by short runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ._experiment import Trial

#: The seed of tuning runs: none of those that count.
TUNING_SEED = 1000
#: Rates that a list may be continued by, where the best of it is its first or its last.
BEYOND = 3


def tuned(
    variants: list[dict[str, Any]],
    rates: Sequence[float],
    rows: list[dict[str, Any]],
    trial: Callable[[dict[str, Any], bool], Trial],
) -> Iterator[Trial]:
    """Tuned trials: for each variant a short trial at every rate, then the full trial at the best rate. The short trial
    is scored on the validation part: the same effort for all. A best rate at the edge of the list is no optimum, so
    that the list is continued there (`BEYOND`). `trial(variant, tuning)` makes one; the rate is added to the variant.
    """
    for variant in variants:
        rate = rates[0]
        if len(rates) > 1:
            for rate in rates:
                yield trial({**variant, "rate": rate}, True)
            tried = list(rates)
            rate = best_rate(variant, tried, rows)
            while (further := next_rate(tried, rate)) is not None and len(tried) < len(rates) + BEYOND:
                yield trial({**variant, "rate": further}, True)
                tried.append(further)
                rate = best_rate(variant, tried, rows)
        yield trial({**variant, "rate": rate}, False)


def next_rate(rates: Sequence[float], best: float) -> float | None:
    """The rate beyond the edge of the list that `best` stands at, in the list's own steps (.001, .003, .01: .03 or
    .0003); None for a best rate between two others."""
    ordered = sorted(set(rates))
    if len(ordered) < 2 or ordered[0] < best < ordered[-1]:
        return None
    if best == ordered[0]:
        ordered.reverse()
    period = min(2, len(ordered) - 1)  # half-decades alternate between 3 and 10 / 3
    further = ordered[-period] * ordered[-1] / ordered[-1 - period]
    return float(f"{further:.3g}")


def best_rate(variant: Mapping[str, Any], rates: Sequence[float], rows: list[dict[str, Any]]) -> float:
    """The rate with the least mean loss among the tuning rows of a variant."""

    def loss(rate):
        wanted = {**variant, "rate": rate}
        found = [row["loss"] for row in rows if row["split"] == "tuning" and row["variant"] == wanted]
        return float(np.mean([np.inf if value is None else value for value in found] or [np.inf]))

    return min(rates, key=loss)


def tuning_views(rates: Sequence[float], length: str, keys: list[str]) -> list[dict[str, Any]]:
    """The table of the tuning runs, if there was a choice."""
    if len(rates) < 2:
        return []
    title = f"Tuning: loss after {length}"
    return [{"view": "table", "title": title, "rows": [*keys, "rate"], "metrics": ["loss"], "split": "tuning"}]
