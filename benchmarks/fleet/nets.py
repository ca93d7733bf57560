"""The learners that are measured: small nets, one a key."""

from __future__ import annotations

import jax
import optax

import streamgrad as sg


def lru(key):
    """16 complex units, SnAp-1 (exact here), and a linear readout."""
    a, b = jax.random.split(key)
    layer = sg.Recurrent(sg.cells.LRU(1, 16, key=a), sg.SnAp(1))
    return sg.nn.Sequential([layer, sg.Readout(1, 1, key=b)])


def gru(key):
    """16 units, SnAp-1, and a linear readout."""
    a, b = jax.random.split(key)
    return sg.nn.Sequential([sg.Recurrent(sg.cells.GRU(1, 16, key=a), sg.SnAp(1)), sg.Readout(16, 1, key=b)])


def lstm(key):
    """16 units, SnAp-1, and a linear readout."""
    a, b = jax.random.split(key)
    return sg.nn.Sequential([sg.Recurrent(sg.cells.LSTM(1, 16, key=a), sg.SnAp(1)), sg.Readout(16, 1, key=b)])


LEARNERS = {
    "lru-16 adam": (lru, optax.adam(1e-3)),
    "gru-16 adam": (gru, optax.adam(1e-3)),
    "lstm-16 adam": (lstm, optax.adam(1e-3)),
    "lru-16 kalman by layer": (lru, sg.Kalman("layer")),
    "lstm-16 kalman by unit": (lstm, sg.Kalman("unit")),
    "lstm-16 kalman full": (lstm, sg.Kalman("full")),
}
