"""Every learning algorithm, in the order of a comparison. A new one is a line here.

`sg`, the command line, `sg.compare`, the experiments, the tables of the documentation and the tests go by this list. A
line is written `X as X`: type checkers take `sg.X` for public by it."""

# isort: off
from ._rtrl import RTRL as RTRL
from ._snap import SnAp as SnAp
from ._random_k import RandomK as RandomK
from ._sketched import Sketched as Sketched
from ._ok import OK as OK
from ._kfrtrl import KFRTRL as KFRTRL
from ._uoro import UORO as UORO
from ._dodge import DODGE as DODGE
from ._rflo import RFLO as RFLO
from ._eprop import EProp as EProp
from ._otpe import OTPE as OTPE
from ._mdgl import MDGL as MDGL
from ._modprop import ModProp as ModProp
from ._kernl import KeRNL as KeRNL
from ._dni import DNI as DNI
from ._esdrtrl import ESDRTRL as ESDRTRL
from ._tbptt import TBPTT as TBPTT
from ._spatial import Spatial as Spatial, Frozen as Frozen
from ._bptt import BPTT as BPTT
