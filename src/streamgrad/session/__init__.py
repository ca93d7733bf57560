"""Sessions: a learner that is stepped from Python, row by row, without the price of a call for each row."""

from ._native import why_not as why_not
from ._resident import Loop as Loop
from ._session import Session as Session
