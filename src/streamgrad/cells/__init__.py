"""Recurrent cells, and the contracts to write one's own."""

from ._bank import Bank as Bank, Linear as Linear, Link as Link
from ._by_action import ByAction as ByAction
from ._cell import Cell as Cell, Core as Core
from ._chain import Chain as Chain
from ._feature_columns import FeatureColumns as FeatureColumns
from ._function import Function as Function
from ._function_core import FunctionCore as FunctionCore
from ._gru import GRU as GRU
from ._indrnn import IndRNN as IndRNN
from ._lagged import LaggedRNN as LaggedRNN
from ._leaky import LeakyRNN as LeakyRNN
from ._linear import LRU as LRU, RTU as RTU
from ._linear_rnn import LinearRNN as LinearRNN
from ._lstm import LSTM as LSTM
from ._mingru import MinGRU as MinGRU
from ._named import NAMED as NAMED, cell as cell, has_links as has_links
from ._spiking import ALIF as ALIF, LIF as LIF, spike as spike
from ._unit_cell import UnitCell as UnitCell
from ._vanilla import Vanilla as Vanilla
