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
def piece_options() -> dict[str, str]:
    """`compiler_options()` for what holds a `piece`: no operation within is handed to a library or to other threads."""
    wanted = {
        "xla_cpu_experimental_ynn_fusion_type": "",
        "xla_disable_hlo_passes": "cpu-parallel-task-assigner",
    }
    here = wanted.items() if jax.default_backend() == "cpu" else ()
    return compiler_options() | {name: value for name, value in here if _known(name, value)}


def _known(name: str, value: str) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
