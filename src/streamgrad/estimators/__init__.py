"""Ways to estimate the gradient of a step's loss other than by differentiating it."""

from ._estimator import Differentiate as Differentiate, Estimator as Estimator
from ._forward_gradient import ForwardGradient as ForwardGradient
from ._pes import PES as PES
