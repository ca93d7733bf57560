"""Streams of rows: files of any length, what is live, tables in memory, and small real series by name.

This package is for the command line and the experiments; the core never imports it.
"""

from streamgrad.data.errors import SourceError as SourceError
from streamgrad.data.extremes import Extremes as Extremes
from streamgrad.data.numbers import Numbers as Numbers, shortest as shortest
from streamgrad.data.series import SERIES as SERIES, Series as Series
from streamgrad.data.source import Source as Source
from streamgrad.data.sources import open_source as open_source
