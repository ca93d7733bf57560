"""The driver of streams, as pure functions: what is learned (rules), how (updates), and what when it fails (guards)."""

from ..optimisers._trained import trained as trained
from ._checks import check as check, check_key as check_key, check_reset as check_reset, check_share as check_share
from ._descent import Descent as Descent, DescentState as DescentState
from ._evidence import Evidence as Evidence, Finding as Finding
from ._families import family as family
from ._guard import Guard as Guard, Skip as Skip, Undo as Undo
from ._kalman import Kalman as Kalman, KalmanState as KalmanState
from ._learner import Learner as Learner
from ._memory import Memory as Memory, Told as Told
from ._mixing import Mixed as Mixed, Mixing as Mixing
from ._mixture import Mixture as Mixture, MixtureOutput as MixtureOutput, MixtureState as MixtureState
from ._program import Program as Program, parameters as parameters
from ._programs import supervised as supervised, temporal_difference as temporal_difference
from ._rules import Loss as Loss, Predicted as Predicted, Rule as Rule, TemporalDifference as TemporalDifference
from ._second_order import Filter as Filter, FilterState as FilterState
from ._serving import inference as inference
from ._shell import Shell as Shell, one_length as one_length, refuse_growth as refuse_growth
from ._state import LearnerState as LearnerState, Output as Output
from ._traces import Traces as Traces, TracesState as TracesState
from ._update import Price as Price, Update as Update
from ._window import Window as Window
