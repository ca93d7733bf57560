"""Optax transformations for recurrent networks, and which parameters an optimiser moves."""

from ._transforms import (
    adamw as adamw,
    fractional as fractional,
    recurrent_parameters as recurrent_parameters,
    rmsprop as rmsprop,
)
