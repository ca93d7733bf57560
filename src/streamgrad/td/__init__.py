"""Temporal-difference learning: predictions of discounted sums, learned from every step of a stream."""

from .._cpu.order import KEEP_ORDER as KEEP_ORDER
from ._returns import TrueReturn as TrueReturn, returns as returns
from ._state import TDState as TDState
from ._td_lambda import TDLambda as TDLambda, TDOutput as TDOutput
