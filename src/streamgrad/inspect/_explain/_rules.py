"""Is a derivative that was written by hand the true one? Tried at random points; where these prove nothing, unknown."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from ._paths import Cause
from ._program import Rule

_RULES = ("custom_jvp_call", "custom_vjp_call")
_SCALES = (0.3, 1.0, 3.0, 30.0)


def judge(rule: Rule) -> Cause | None:
    """None for a rule that is the true derivative, or why it is not or may not be.

    A custom_jvp is linear in the tangent, so that random points tell it from the true one. A custom_vjp may do anything
    to the cotangent, clip it when it is large: random points can refute it, but not prove it."""
    params = rule.eqn.params
    name = _name(rule.eqn)
    inner: jex.ClosedJaxpr = params["call_jaxpr"]
    forward = rule.eqn.primitive.name == "custom_jvp_call"
    same = _agree(
        _alone(rule.eqn, inner.jaxpr.debug_info),
        lambda *args: _raw(inner.jaxpr, inner.consts, args),
        inner.in_avals,
        forward,
    )
    if same is False:
        return Cause("rule", name, f"the derivative of {name} (a surrogate: not the true one)")
    if same and forward:
        return None
    return Cause("rule", name, f"the custom derivative of {name}, which nothing here proves", "unknown")


def within(path: str, function, *arguments) -> Cause | None:
    """What is not plain differentiation in a cell's own step, a function of pytrees; None if that does no harm."""
    leaves, treedef = jax.tree.flatten(arguments)
    flat = lambda *leaves: jax.tree.leaves(function(*jax.tree.unflatten(treedef, leaves)))
    closed = jax.make_jaxpr(flat)(*leaves)
    found = " and ".join(dict.fromkeys(_named(closed.jaxpr)))
    if not found:
        return None
    same = _agree(flat, lambda *args: _raw(closed.jaxpr, closed.consts, args), closed.in_avals, True)
    if same:
        return None
    if same is False:
        return Cause("cell", path, f"{found} within its cell (a surrogate: not the true derivative)")
    return Cause("cell", path, f"{found} within its cell, which nothing here proves", "unknown")


def _named(jaxpr: jex.Jaxpr):
    """What within a program is not plain differentiation."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "stop_gradient":
            yield "stop_gradient"
        elif eqn.primitive.name in _RULES:
            yield _name(eqn)
        else:
            for inner in jex.jaxprs_in_params(eqn.params):
                yield from _named(inner)


def _name(eqn: jex.JaxprEqn) -> str:
    name = eqn.params["call_jaxpr"].jaxpr.debug_info.func_name
    # Equinox wraps a function before it is named, and so does a layer that the model builds for itself.
    return "a filter_custom_vjp or a layer that the model makes itself" if name == "fn_wrapped" else name


def _alone(eqn: jex.JaxprEqn, debug_info):
    """The function that one equation is."""
    inputs = [jex.Var(var.aval) for var in eqn.invars]
    own = eqn.replace(invars=list[Any](inputs))
    info = debug_info._replace(arg_names=None, result_paths=None)
    return jex.jaxpr_as_fun(jex.ClosedJaxpr(jex.Jaxpr([], inputs, own.outvars, [own], debug_info=info), []))


def _raw(jaxpr: jex.Jaxpr, consts: Any, args: Any) -> list[Any]:
    """A program without derivatives of its own: what it computes, differentiated as it stands."""
    known = dict(zip(jaxpr.constvars, consts, strict=True)) | dict(zip(jaxpr.invars, args, strict=True))
    read = lambda atom: atom.val if isinstance(atom, jex.Literal) else known[atom]
    for eqn in jaxpr.eqns:
        inputs = [read(atom) for atom in eqn.invars]
        inner: Any = eqn.params.get("call_jaxpr", eqn.params.get("jaxpr"))
        if eqn.primitive.name == "stop_gradient":
            outs = inputs
        elif eqn.primitive.name in (*_RULES, "jit", "pjit", "closed_call", "remat2", "checkpoint"):
            closed = isinstance(inner, jex.ClosedJaxpr)
            outs = _raw(inner.jaxpr if closed else inner, inner.consts if closed else [], inputs)
        else:
            outs = _alone(eqn, jaxpr.debug_info)(*inputs)
        known |= zip(eqn.outvars, outs, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _agree(function, raw, avals, forward: bool) -> bool | None:
    """Whether the derivatives of two functions of equal values agree at random points; None when none can be had."""
    rng, told = np.random.default_rng(0), False
    for scale in _SCALES:
        seed = int(rng.integers(2**31))
        try:
            with jax.debug_nans(False), jax.debug_infs(False):
                got, want = (_derivatives(f, avals, scale, forward, seed) for f in (function, raw))
        except Exception:  # whatever a foreign rule cannot do at a random point
            return None
        for a, b in zip(got, want, strict=True):
            given = np.isfinite(a) & np.isfinite(b)
            told = told or bool(given.any())
            size = np.abs(b[given]).max(initial=0) + 1e-3 / scale
            if np.abs(a[given] - b[given]).max(initial=0) > 1e-3 * size:
                return False
    return True if told else None


def _derivatives(function, avals, scale: float, forward: bool, seed: int) -> list[np.ndarray]:
    """The derivative along a random direction (forward), or along random cotangents small and large."""
    rng = np.random.default_rng(seed)
    smooth = [_is_smooth(aval) for aval in avals]
    draw = lambda aval, size: jnp.asarray(size * rng.normal(size=aval.shape), aval.dtype)
    point = [draw(aval, scale) if s else jnp.ones(aval.shape, aval.dtype) for aval, s in zip(avals, smooth)]
    moving = [value for value, s in zip(point, smooth) if s]
    run = lambda *moving: function(*_placed(moving, point, smooth))
    if forward:
        tangents = jax.jvp(run, tuple(moving), tuple(draw(value, 1 / scale) for value in moving))[1]
        return [np.asarray(leaf) for leaf in tangents if leaf.dtype != jax.dtypes.float0]
    out, pull = jax.vjp(run, *moving)
    none = lambda leaf: np.zeros(leaf.shape, jax.dtypes.float0)
    cotangents = lambda size: [draw(leaf, size) if _is_smooth(leaf) else none(leaf) for leaf in out]
    return [np.asarray(leaf) / size for size in (1e-3, 1.0, 1e4) for leaf in pull(cotangents(size))]


def _is_smooth(aval) -> bool:
    return bool(jnp.issubdtype(aval.dtype, jnp.inexact))


def _placed(moving, point, smooth):
    own = iter(moving)
    return [next(own) if s else value for value, s in zip(point, smooth)]
