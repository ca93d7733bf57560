"""Learning algorithms, one file each, behind one interface."""

from ._algorithm import Algorithm as Algorithm, Carry as Carry, Online as Online, Traits as Traits
from ._bptt import BPTT as BPTT
from ._dni import DNI as DNI
from ._dodge import DODGE as DODGE
from ._eprop import EProp as EProp
from ._esdrtrl import ESDRTRL as ESDRTRL
from ._kernl import KeRNL as KeRNL
from ._kfrtrl import KFRTRL as KFRTRL
from ._mdgl import MDGL as MDGL
from ._modprop import ModProp as ModProp
from ._named import NAMED as NAMED, algorithm as algorithm
from ._ok import OK as OK
from ._otpe import OTPE as OTPE
from ._random_k import RandomK as RandomK
from ._rflo import RFLO as RFLO
from ._rtrl import RTRL as RTRL
from ._sketched import Sketched as Sketched
from ._snap import SnAp as SnAp
from ._spatial import Frozen as Frozen, Spatial as Spatial
from ._tbptt import TBPTT as TBPTT
from ._uoro import UORO as UORO
