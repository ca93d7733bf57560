"""Learning algorithms, one file each, behind one interface."""

from ._algorithm import Algorithm as Algorithm, Carry as Carry, Online as Online, Traits as Traits
from ._bptt import BPTT as BPTT
from ._rtrl import RTRL as RTRL
from ._snap import SnAp as SnAp
from ._spatial import Frozen as Frozen, Spatial as Spatial
from ._tbptt import TBPTT as TBPTT
