"""Compiler options that help the loops of online learning."""

from __future__ import annotations

import functools

import jax


@functools.cache
def compiler_options(*, batched: bool = False, pieces: bool = False) -> dict[str, str]:
    """Options for `jax.jit(..., compiler_options=...)` of steps of your own; `sg.Learner` uses them.

    On CPUs: wide vectors (10 to 30% on the loops over parameters); for a batch of streams, XLA's own loops
    for the sum over streams (its library's sum over a leading axis is many times slower); for what holds an
    `sg.piece`, nothing of a library and nothing split over threads, either of which XLA refuses to compile there. Empty
    elsewhere, and without what this version of XLA does not know.

    Raises `ValueError` for pieces of a batch: there is none.
    """
    if pieces and batched:
        raise ValueError("compiler_options: a batch of streams has no pieces: give batched=True or pieces=True.")
    if pieces:
        return in_one_thread() | _here({"xla_cpu_experimental_ynn_fusion_type": ""})
    sums = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"} if batched else {}
    return _here({"xla_cpu_prefer_vector_width": "512"} | sums)


@functools.cache
def in_one_thread() -> dict[str, str]:
    """`compiler_options()` for loops whose operations are too short to be split: handing a half of them to another
    thread, which has to wake up, takes longer than the work."""
    return compiler_options() | _here({"xla_disable_hlo_passes": "cpu-parallel-task-assigner"})


def _here(wanted: dict[str, str]) -> dict[str, str]:
    """What of these this version of XLA knows, on a CPU."""
    return {name: value for name, value in wanted.items() if jax.default_backend() == "cpu" and _known(name, value)}


def _known(name: str, value: str) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
