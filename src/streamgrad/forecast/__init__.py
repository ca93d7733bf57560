"""Forecast streams: a forecaster that learns from every row, with intervals and a measure of surprise."""

from . import floors as floors
from ._backtest import backtest as backtest
from ._cells import RowError as RowError
from ._default import Default as Default
from ._encoder import Encoded as Encoded, Encoder as Encoder
from ._experts import EXPERTS as EXPERTS, LAGS as LAGS, Expert as Expert
from ._forecaster import Forecaster as Forecaster
from ._journal import JournalError as JournalError, plain as plain, to_parquet as to_parquet
from ._learners import Net as Net
from ._record import Record as Record
from ._said import Forecast as Forecast, Forecasts as Forecasts
from ._scores import Scores as Scores
