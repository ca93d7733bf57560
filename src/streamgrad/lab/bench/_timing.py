"""Fair timing on a noisy machine: warm-up, programs in turn, medians."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np


class Program(NamedTuple):
    """A compiled program that takes `steps` time steps: `run(*make())` is timed, `make()` is not."""

    run: Callable[..., Any]
    make: Callable[[], tuple]
    steps: int


def interleaved(programs: dict[str, Program], rounds: int) -> dict[str, dict[str, float]]:
    """Microseconds a step: the median, minimum and maximum over rounds in which all programs take turns."""
    taken: dict[str, list[float]] = {name: [] for name in programs}
    for program in programs.values():
        jax.block_until_ready(program.run(*program.make()))
    for _ in range(rounds):
        for name, program in programs.items():
            arguments = jax.block_until_ready(program.make())
            start = time.perf_counter()
            jax.block_until_ready(program.run(*arguments))
            taken[name].append((time.perf_counter() - start) / program.steps * 1e6)
    return {name: {"median": float(np.median(t)), "min": min(t), "max": max(t)} for name, t in taken.items()}
