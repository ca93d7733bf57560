"""Which outputs of a jaxpr depend on which inputs: structure, read off the program and not off values."""

from __future__ import annotations

import numpy as np
from jax.extend import core as jex

# Call-like primitives are opened; every other one is taken to use all of its inputs for each output.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
}


def dependence(jaxpr: jex.Jaxpr, *, by_gradient: bool = False) -> np.ndarray:
    """Bool (outputs, inputs): whether an output depends on an input. Never false where it does.

    With `by_gradient`, what passes only through `stop_gradient` does not count."""
    inputs = len(jaxpr.invars)
    none = np.zeros(inputs, bool)
    known: dict = dict.fromkeys(jaxpr.constvars, none)
    known |= dict(zip(jaxpr.invars, np.eye(inputs, dtype=bool), strict=True))

    def read(atom):
        return none if isinstance(atom, jex.Literal) else known[atom]

    for eqn in jaxpr.eqns:
        rows = np.array([read(atom) for atom in eqn.invars]).reshape(-1, inputs)
        inner = eqn.params.get(_CALLS.get(eqn.primitive.name, ""))
        if inner is not None:
            inner = getattr(inner, "jaxpr", inner)
            outs = (dependence(inner, by_gradient=by_gradient).astype(int) @ rows.astype(int)) > 0
        elif by_gradient and eqn.primitive.name == "stop_gradient":
            outs = [none]
        else:
            outs = [rows.any(0) if len(rows) else none] * len(eqn.outvars)
        known |= zip(eqn.outvars, outs, strict=True)
    return np.array([read(atom) for atom in jaxpr.outvars]).reshape(-1, inputs)
