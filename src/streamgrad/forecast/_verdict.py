"""Who wins, in a sentence: the forecaster, or something simpler."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ._scores import Scores

TIE = 0.002  # a smaller relative difference is called a tie


def verdict(scores: Scores, own: Sequence[str] = ()) -> str:
    """Who wins in the second half of the rows; in all rows where they are few. `own`: experts of the forecaster."""
    half, all_ = scores.nrmse("half"), scores.nrmse()
    part = half if all(map(math.isfinite, half.values())) and half else all_
    errors = {name: error for name, error in part.items() if name not in own}
    return words(errors, " in the second half" if part is half else "")


def words(errors: dict[str, float], where: str = "", measure: str = "nRMSE", worthless: float = 1.0) -> str:
    """The sentence for errors by method, the forecaster first. `worthless`: from which error on nobody wins."""
    network, *_ = errors
    mine = errors[network]
    floors = {name: error for name, error in errors.items() if name != network and math.isfinite(error)}
    if not math.isfinite(mine) or not floors:
        return "No row could be scored yet, so nobody wins."
    best = min(floors, key=lambda name: floors[name])
    theirs = floors[best]
    if theirs == mine == 0:
        return f"Every forecast was perfect{where}: a tie."
    difference = abs(theirs - mine) / max(theirs, mine)
    amount = f"{100 * difference:.1f}%"
    if mine >= worthless and theirs >= worthless and best != "running mean":
        return (
            f"Nobody wins{where}: no forecast is nearer to the truth than the mean of the target would be "
            f"({measure} {mine:.3g}, {best} {theirs:.3g})."
        )
    if difference < TIE:
        return f"A tie{where}: the {network} and {best} differ by {amount} in {measure}."
    if mine < theirs and mine < worthless:
        names = list(floors)
        every = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
        return f"The {network} wins over {every}{where}: its {measure} is {amount} below the best of them, {best}."
    losers = [name for name, error in floors.items() if error > mine]
    rest = f" The {network} does beat {' and '.join(losers)}." if losers else ""
    return f"{best[0].upper() + best[1:]} wins{where}: its {measure} is {amount} below the {network}'s.{rest}"
