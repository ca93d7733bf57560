"""Which derivatives of a step an algorithm needs, and which the step has."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..cells import Core, FunctionCore
from ..cells._function_core import to_rows
from ..cells._function_pattern import check_program
from ._algorithm import Algorithm, Carry


def check_modes(algorithm: Algorithm, core: Core, state: Any, in_size: int) -> None:
    """Refuse, by name, an algorithm whose mode of differentiation this core's step does not have."""
    if not isinstance(core, FunctionCore) or core.mode == "both":
        return

    def gradient(core, state, key):
        x = jnp.zeros(in_size, to_rows(state).dtype)
        carry = Carry(state, algorithm.init(core, state, key=key))
        return eqx.filter_grad(lambda core: jnp.sum(to_rows(algorithm.step(core, carry, x).state)))(core)

    try:
        arrays, static = eqx.partition(core, eqx.is_array)
        program = lambda arrays, state, key: gradient(eqx.combine(arrays, static), state, key)
        check_program(jax.make_jaxpr(program)(arrays, state, jax.random.key(0)).jaxpr)
    except Exception as error:  # JAX says no in several ways
        missing, why = {
            "forward": ("reverse", "it has a loop of unknown length, or the like"),
            "reverse": ("forward", "a part of it is a jax.custom_vjp: jax.custom_jvp has both"),
        }[core.mode]
        instead = {"forward": "sg.RTRL() or sg.SnAp(n)", "reverse": "sg.RTRL(), sg.SnAp(n) or sg.TBPTT(window)"}
        raise TypeError(
            f"{type(algorithm).__name__} needs the derivative of the step in {missing} mode, which this step does not "
            f"have ({why}): use {instead[core.mode]}, or change the step. JAX says: {str(error).splitlines()[0]}"
        ) from error
