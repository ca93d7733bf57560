"""What a model learns, and what it costs: explained from its program, checked and compared by figures."""

from .._base.flops import flops as flops
from ._check import GradientCheck as GradientCheck, check_gradients as check_gradients
from ._compare import Comparison as Comparison, Gradient as Gradient, Row as Row, compare as compare
from ._cost import Cost as Cost
from ._explain import (
    Explanation as Explanation,
    LayerReport as LayerReport,
    ParameterReport as ParameterReport,
    UpdateReport as UpdateReport,
    explain as explain,
)
