"""Learners by name: what is mixed, and what stands beside it to be compared with."""

from __future__ import annotations

import dataclasses
import difflib

from ..algorithms import algorithm as by_name
from ._experts import EXPERTS, Expert, cell_name

#: The floor that the table of a run shows: least squares on 32 lags, from a fair start.
FLOOR = "RLS on lags"
FLOORS: dict[str, Expert] = {FLOOR: Expert(lags=32, far=False, forgetting=0.999)}
#: Without nets, for streams that are faster.
LIGHT: dict[str, Expert] = {"RLS-32": Expert(lags=32), "RLS-100": Expert(lags=100, forgetting=0.9998)}
ALONE = {name.lower().replace(" ", "-"): name for name in EXPERTS}
OWN = ("adam", "kalman", "frozen")
NAMES = ("mixture", "light", *OWN, *ALONE)


@dataclasses.dataclass(frozen=True)
class Net:
    """A recurrent net under a readout on lags.

    - `cell`, `units`, `algorithm`: by name; `lags`: newest changes of the target that the readout sees;
    - `learning_rate`: of Adam; `forgetting`: of the readout.
    """

    cell: str = "lstm-columns"
    units: int = 8
    algorithm: str = "snap-1"
    lags: int = 32
    learning_rate: float = 1e-3
    forgetting: float = 0.9995

    def __post_init__(self):
        if self.cell != "lstm-columns":
            object.__setattr__(self, "cell", cell_name(self.cell))
        by_name(self.algorithm)
        for name, least in (("units", 1), ("lags", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        if not 0 < self.forgetting <= 1:
            raise ValueError(f"forgetting must be above 0 and at most 1, got {self.forgetting}.")
        if not 0 <= self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate must be at least 0, got {self.learning_rate}.")

    def expert(self, learns: str) -> Expert:
        """An expert that learns by "adam", by "kalman", or not at all ("frozen")."""
        if self.algorithm.lower() == "frozen":
            learns = "frozen"
        return Expert(
            net=self.cell.replace("-", " "),
            units=self.units,
            learns="" if learns == "frozen" else learns,  # type: ignore[arg-type]
            lags=self.lags,
            forgetting=self.forgetting,
            algorithm=self.algorithm,
            rate=self.learning_rate,
        )


def learner(name: str, net: Net) -> dict[str, Expert]:
    """The experts of a learner: one, or more that are mixed. Raises `ValueError` for a name that there is not."""
    known = name.lower().replace(" ", "-")
    if known == "mixture":
        return EXPERTS
    if known == "light":
        return LIGHT
    if known in OWN:
        return {known: net.expert(known)}
    if known in ALONE:
        return {ALONE[known]: EXPERTS[ALONE[known]]}
    near = difflib.get_close_matches(known, NAMES, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"there is no learner {name!r}: {hint}There are {', '.join(NAMES)}.")
