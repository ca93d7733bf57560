"""Compiler options that help the loops of online learning."""

from __future__ import annotations

import functools

import jax


@functools.cache
def compiler_options(*, batched: bool = False) -> dict[str, str]:
    """Options for `jax.jit(..., compiler_options=...)` of steps of your own; `sg.Learner` uses them.

    On CPUs: wide vectors (10 to 30% on the loops over parameters) and, for a batch of streams, XLA's own loops
    for the sum over streams (its library's sum over a leading axis is many times slower). Empty
    elsewhere, and without what this version of XLA does not know.
    """
    if jax.default_backend() != "cpu":
        return {}
    wanted = {"xla_cpu_prefer_vector_width": "512"}
    if batched:
        wanted["xla_cpu_experimental_ynn_fusion_type"] = "LIBRARY_FUSION_TYPE_DOT"
    return {name: value for name, value in wanted.items() if _known(name, value)}


@functools.cache
def in_turn() -> dict[str, str]:
    """The option for a CPU that makes a loop's operations run one after another, and in one thread: what is so small
    that handing it to another thread takes longer than the work."""
    name, value = "xla_cpu_scheduler_type", "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"
    return {name: value} if jax.default_backend() == "cpu" and _known(name, value) else {}


def _known(name: str, value: str) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
