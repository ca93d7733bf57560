"""Learning algorithms, one file each, behind one interface."""

from ._algorithm import Algorithm as Algorithm, Carry as Carry, Online as Online, Traits as Traits
from ._every import *  # noqa: F403
from ._named import NAMED as NAMED, algorithm as algorithm
