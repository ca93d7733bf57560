"""Tasks of classifying whole sequences: each is read step by step and has one label.

Three of them download nothing: `digits` lies inside scikit-learn, `mnist1d` and `listops` are
generated. `fashion`, `scifar` and `imdb` read folders that the user has fetched.
"""

from ._sequences import Sequences as Sequences, Splits as Splits
from .digits import digits as digits
from .fashion import fashion as fashion
from .imdb import imdb as imdb
from .listops import listops as listops
from .mnist1d import mnist1d as mnist1d
from .scifar import scifar as scifar
