"""All algorithms on one cell and its data: gradient, price and learning, in one table."""

from ._compare import compare as compare
from ._comparison import Comparison as Comparison, Gradient as Gradient, Row as Row
