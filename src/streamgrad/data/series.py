"""Small real series by name, which come with the library: `bundled/README.md` says where they are from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from streamgrad.data.blocks import File
from streamgrad.data.layout import Layout
from streamgrad.data.numbers import Numbers
from streamgrad.data.opening import open_text
from streamgrad.data.source import Source

BUNDLED = Path(__file__).parent / "bundled"


@dataclass(frozen=True)
class Series:
    """A bundled series: its usual target, and its period in rows."""

    name: str
    target: str
    period: int
    about: str

    @property
    def path(self) -> Path:
        """Its file: CSV with a header."""
        return BUNDLED / f"{self.name}.csv"

    def open(self, numbers: Numbers | None = None) -> Source:
        """The series as a source of rows."""
        return open_text(File(self.path, self.name), numbers or Numbers(), Layout())


SERIES: dict[str, Series] = {
    series.name: series
    for series in (
        Series("seattle-temps", "temp", 24, "hourly normal temperature in Seattle, °F, a year"),
        Series("sf-temps", "temp", 24, "hourly normal temperature in San Francisco, °F, a year"),
        Series("pedestrians", "Count", 24, "hourly pedestrians at Southern Cross Station, Melbourne, two years"),
        Series("seattle-weather", "temp_max", 365, "daily weather in Seattle, four years"),
        Series("co2", "co2", 52, "weekly carbon dioxide at Mauna Loa, ppm, with missing weeks"),
        Series("sunspots", "SUNACTIVITY", 11, "yearly sunspots since 1700"),
        Series("elnino", "temperature", 12, "monthly sea temperature of the eastern Pacific, °C, 61 years"),
    )
}
