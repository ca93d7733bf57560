"""Building blocks for models: anything with `init(key=)` and `(carry, x) -> (carry, y)`, one step at a time."""

from .._base.moments import Moments as Moments, update_moments as update_moments
from .._base.persistent import Persistent as Persistent
from ._ccn import ColumnStage as ColumnStage, Statistics as Statistics, ccn as ccn
from ._compose import Parallel as Parallel, Residual as Residual, Sequential as Sequential
from ._constructive import Constructive as Constructive, Grown as Grown, next_growth_step as next_growth_step
from ._deep import Block as Block, Deep as Deep
from ._dropout import Dropout as Dropout
from ._fixed import Fixed as Fixed
from ._gated import GatedLinear as GatedLinear
from ._generate_and_test import Features as Features, GenerateAndTest as GenerateAndTest
from ._lags import Lags as Lags
from ._low_pass import LowPass as LowPass
from ._normalise import Normalise as Normalise
from ._running_mean import RunningMean as RunningMean
from ._unroll import (
    Resets as Resets,
    check_unroll as check_unroll,
    is_stateful as is_stateful,
    restarted as restarted,
    unroll as unroll,
)
