"""What a picture of a run needs, in memory that does not grow: the newest rows, and a thinned curve of errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ._target import Said

NEWEST = 240  # rows
BLOCKS = 128  # points of the curve; when there are so many, two become one
WIDTH = 64  # rows of a block, at first
CHANGES = 64  # newest alarms


class History:
    """The newest rows, and sums of errors for blocks of all rows, for pictures of a long stream. `state` (a dictionary
    of arrays) has the newest rows, and for each block of rows the sums of squared errors (or log losses) and the
    weights of the experts at its end."""

    def __init__(self, methods: int, experts: int):
        self.state: dict[str, np.ndarray] = {
            "newest": np.full((NEWEST, 3 + methods), np.nan),  # truth, each method, ends of the widest interval
            "rows": np.zeros(1, np.int64),
            "width": np.array([WIDTH, 0], np.int64),  # of a block, and how many are complete
            "now": np.zeros(1 + methods),  # rows scored in this block, sums of losses
            "errors": np.zeros((BLOCKS, 1 + methods)),
            "weights": np.zeros((BLOCKS, experts)),
            "changes": np.full(CHANGES, -1, np.int64),
        }

    @property
    def room(self) -> int:
        """Rows until the block is complete."""
        width = int(self.state["width"][0])
        return width - int(self.state["rows"][0]) % width

    def __call__(self, said: Said, weights: Callable[[], Mapping[str, float]]) -> None:
        """Take in rows, at most as many as there is room for."""
        state, n = self.state, len(said.truth)
        if n == 0:
            return
        ends = said.due_ends[:, -1] if said.due_ends.shape[1] else np.full((n, 2), np.nan)
        rows = np.concatenate([said.truth[:, None], said.shown, ends], axis=1)
        state["newest"] = np.concatenate([state["newest"], rows])[-NEWEST:]
        losses = said.losses
        scored = np.asarray(np.isfinite(losses).all(axis=1))
        losses = np.where(scored[:, None], losses, 0.0)
        terms = np.concatenate([state["now"][None], np.concatenate([scored[:, None], losses], axis=1)])
        state["now"] = np.add.accumulate(terms)[-1]
        first = int(state["rows"][0])
        if said.changed.any():
            alarms = np.concatenate([state["changes"], first + np.flatnonzero(said.changed)])
            state["changes"] = alarms[-CHANGES:]
        state["rows"] = np.array([first + n], np.int64)
        width, many = state["width"].tolist()
        if (first + n) % width:
            return
        if many == BLOCKS:
            pairs = state["errors"].reshape(BLOCKS // 2, 2, -1).sum(axis=1)
            state["errors"][: BLOCKS // 2], state["weights"][: BLOCKS // 2] = pairs, state["weights"][1::2].copy()
            width, many = 2 * width, BLOCKS // 2
            state["width"] = np.array([width, many], np.int64)
            if (first + n) % width:
                return
        state["errors"][many], state["now"] = state["now"], np.zeros_like(state["now"])
        if state["weights"].shape[1]:
            state["weights"][many] = list(weights().values())
        state["width"] = np.array([width, many + 1], np.int64)

    @property
    def changes(self) -> list[int]:
        """Rows of the newest alarms."""
        return [row for row in self.state["changes"].tolist() if row >= 0]
