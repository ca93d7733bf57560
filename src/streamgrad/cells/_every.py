"""Every cell, those in front that take a number of units. A new one is a line here.

`sg.cells`, the command line, the experiments and the tests go by this list. A line is written `X as X`: type checkers
take `sg.cells.X` for public by it."""

# isort: off
from ._vanilla import Vanilla as Vanilla
from ._gru import GRU as GRU
from ._lstm import LSTM as LSTM
from ._leaky import LeakyRNN as LeakyRNN
from ._indrnn import IndRNN as IndRNN
from ._mingru import MinGRU as MinGRU
from ._linear import LRU as LRU, RTU as RTU
from ._linear_rnn import LinearRNN as LinearRNN
from ._spiking import LIF as LIF, ALIF as ALIF
from ._lagged import LaggedRNN as LaggedRNN
from ._feature_columns import FeatureColumns as FeatureColumns
from ._chain import Chain as Chain
from ._by_action import ByAction as ByAction
from ._function import Function as Function
