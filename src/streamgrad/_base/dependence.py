"""Which outputs of a jaxpr depend on which inputs: structure, read off the program and not off values."""

from __future__ import annotations

import numpy as np
from jax.extend import core as jex

# Call-like primitives, and where their program is.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vmap_call": "call",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
}


def dependence(jaxpr: jex.Jaxpr) -> np.ndarray:
    """Bool (outputs, inputs): whether an output depends on an input. Never false where it does.

    Calls, branches and loops are opened; every other primitive is taken to use all of its inputs for each output."""
    inputs = len(jaxpr.invars)
    none = np.zeros(inputs, bool)
    known: dict = dict.fromkeys(jaxpr.constvars, none)
    known |= dict(zip(jaxpr.invars, np.eye(inputs, dtype=bool), strict=True))

    def read(atom):
        return none if isinstance(atom, jex.Literal) else known[atom]

    for eqn in jaxpr.eqns:
        rows = np.array([read(atom) for atom in eqn.invars], bool).reshape(-1, inputs)
        within = _within(eqn)
        outs = [rows.any(0)] * len(eqn.outvars) if within is None else _through(within, rows)
        known |= zip(eqn.outvars, outs, strict=True)
    return np.array([read(atom) for atom in jaxpr.outvars], bool).reshape(-1, inputs)


def _within(eqn: jex.JaxprEqn) -> np.ndarray | None:
    """The dependence of an equation that holds programs, None for one that does not or is not known."""
    name, params = eqn.primitive.name, eqn.params
    if (inner := params.get(_CALLS.get(name, ""))) is not None:
        return _opened(inner)
    if name == "cond":
        branches = np.any([_opened(branch) for branch in params["branches"]], axis=0)
        return np.concatenate([np.ones((len(branches), 1), bool), branches], axis=1)  # all read which one it is
    if name == "scan":
        return _turned(_opened(params["jaxpr"]), params["num_consts"], params["num_carry"])
    if name == "while":
        skip, constants = params["cond_nconsts"], params["body_nconsts"]
        body, stops = _opened(params["body_jaxpr"]), _opened(params["cond_jaxpr"])[0]
        carried = _turned(body, constants, len(body))
        # How many turns there are is read by all that a turn changes.
        changed = (body != np.eye(len(body), body.shape[1], constants, dtype=bool)).any(1)
        told = np.concatenate([stops[:skip], _through(stops[None, skip:], carried)[0]])
        padded = np.concatenate([np.zeros((len(carried), skip), bool), carried], axis=1)
        return padded | (changed[:, None] & told)
    return None


def _opened(inner) -> np.ndarray:
    return dependence(getattr(inner, "jaxpr", inner))


def _through(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Dependence by way of something: outputs on its entries, and these on inputs."""
    return (outer.astype(int) @ inner.astype(int)) > 0


def _turned(body: np.ndarray, constants: int, carry: int) -> np.ndarray:
    """The dependence of a loop after any number of turns, also none, from that of its body."""
    carried = np.eye(carry, body.shape[1], constants, dtype=bool)
    rest = np.eye(body.shape[1], dtype=bool)
    while True:
        before = np.concatenate([rest[:constants], carried, rest[constants + carry :]])
        wider = carried | _through(body[:carry], before)
        if np.array_equal(wider, carried):
            return np.concatenate([carried, _through(body[carry:], before)])
        carried = wider
