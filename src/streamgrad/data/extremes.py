"""A number that stands for "missing" without saying so: the same extreme value again and again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamgrad.data.numbers import shortest

SHARE = 0.01  # of the rows, above which a repeated extreme is pointed out
LEAST = 10  # times that it has come


class Extremes:
    """The extremes of each column, and how often each came: -200 in 9% of the rows is seldom a measurement.

    `extremes(rows)` takes rows of shape (n, columns), NaN where missing. `notes()` says, once for each value, which
    column has an extreme that repeats exactly in more than 1% of its rows. Columns of one or two values are left out:
    there an extreme says nothing. The result does not depend on how the rows are portioned.

    `state` is all that it knows, as a dict of arrays: put it in a checkpoint, and set it to go on.
    """

    def __init__(self, columns: Sequence[str]):
        self.columns = tuple(columns)
        n = len(self.columns)
        # The smallest, then the largest: of the values themselves, and of their negatives.
        self.state = {
            "rows": np.zeros(n, np.int64),
            "extreme": np.full((2, n), np.inf),
            "count": np.zeros((2, n), np.int64),
            "next": np.full((2, n), np.inf),  # the nearest other value
            "said": np.full((2, n), np.nan),
        }

    def __call__(self, rows: np.ndarray) -> None:
        """Count the extremes of more rows."""
        state = {name: leaf.copy() for name, leaf in self.state.items()}
        for j in range(len(self.columns)):
            values = rows[:, j]
            values = values[values == values]
            state["rows"][j] += len(values)
            for side, signed in enumerate((values, -values)):
                self._side(state, side, j, signed)
        self.state = state

    @staticmethod
    def _side(state: dict[str, np.ndarray], side: int, j: int, values: np.ndarray) -> None:
        if not len(values):
            return
        least, before = values.min(), state["extreme"][side, j]
        above = values[values > least]
        others = [state["next"][side, j], above.min() if len(above) else np.inf]
        if least < before:
            state["extreme"][side, j], state["count"][side, j] = least, 0
            others.append(before)
        elif least > before:
            others.append(least)
        state["count"][side, j] += np.count_nonzero(values == state["extreme"][side, j])
        state["next"][side, j] = min(others)

    def notes(self) -> list[str]:
        """Sentences for the extremes that repeat; each is given once."""
        found, state = [], self.state
        lowest, highest = state["extreme"][0], -state["extreme"][1]
        several = (state["next"][0] < highest) & (lowest < highest)  # three values or more
        often = (state["count"] > SHARE * state["rows"]) & (state["count"] >= LEAST) & several
        said = state["said"].copy()
        for side, j in np.argwhere(often & (said != state["extreme"])):
            value = shortest(float((lowest, highest)[side][j]))
            share = state["count"][side, j] / state["rows"][j]
            which = ("smallest", "largest")[side]
            found.append(
                f"column {self.columns[j]!r} is exactly {value}, its {which} value, in {share:.1%} of its rows: if "
                f"that stands for a missing value, say --missing {value}."
            )
            said[side, j] = state["extreme"][side, j]
        self.state = {**state, "said": said}
        return found
