"""The same effort for all: learning rates chosen by short runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ._experiment import Trial

#: The seed of tuning runs: none of those that count.
TUNING_SEED = 1000


def tuned(
    variants: list[dict[str, Any]],
    rates: Sequence[float],
    rows: list[dict[str, Any]],
    trial: Callable[[dict[str, Any], bool], Trial],
) -> Iterator[Trial]:
    """Tuned trials: for each variant a short trial at every rate, then the full trial at the best rate. The short trial
    is scored on the validation part: the same effort for all. `trial(variant, tuning)` makes one; the rate is added to
    the variant."""
    for variant in variants:
        rate = rates[0]
        if len(rates) > 1:
            for rate in rates:
                yield trial({**variant, "rate": rate}, True)
            rate = best_rate(variant, rates, rows)
        yield trial({**variant, "rate": rate}, False)


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
