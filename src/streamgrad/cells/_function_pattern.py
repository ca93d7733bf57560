"""What is known of a step given as a function: where its derivatives can be non-zero, and in which modes it has any."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from .._base.static import Static
from ..structure import Structure
from ._function_core import flat, from_rows, to_rows


class Modes(NamedTuple):
    """The modes in which a step can be differentiated: by tangents, and by cotangents. An error where it cannot."""

    forward: Exception | None
    reverse: Exception | None


class Pattern(NamedTuple):
    """The entries of ∂s'/∂θ and ∂s'/∂s that can be non-zero; None with a reason where unknown."""

    of_theta: Bool[np.ndarray, "rows parameters"] | None
    of_rows: Bool[np.ndarray, "rows rows"] | None
    unknown: str = ""


class Analysis:
    """A step as a function `run(θ, s, x) -> s'` of vectors, and what follows from its program alone."""

    def __init__(self, step: Callable, params: Any, state: Any, x: Any):
        theta, fixed = eqx.partition(params, eqx.is_inexact_array)
        self.traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(fixed))
        theta, state = jax.eval_shape(lambda *both: both, theta, state)  # shapes alone are kept
        leaves, treedef = jax.tree.flatten(theta)
        ends = np.cumsum([leaf.size for leaf in leaves])[:-1].tolist()

        def run(vector, rows, x):
            parts = zip(jnp.split(vector, ends), leaves, strict=True)
            theta = jax.tree.unflatten(treedef, [part.reshape(a.shape).astype(a.dtype) for part, a in parts])
            return to_rows(step(eqx.combine(theta, fixed), from_rows(rows, state), x))

        shapes = jax.eval_shape(lambda theta, state: (flat(theta), to_rows(state)), theta, state)
        # Zeros of NumPy: only their shapes count, and a tracer of the user's own jit has no values.
        self.run, self.arguments = run, (*(np.zeros(a.shape, a.dtype) for a in shapes), np.zeros(x.shape, x.dtype))

    @functools.cached_property
    def modes(self) -> Modes:
        """The modes of differentiation that the function has.

        Raises `TypeError` when there is none."""
        tangents = lambda *a: jax.jvp(self.run, a, a)[1]
        cotangents = lambda *a: jax.vjp(self.run, *a)[1](a[1])
        modes = Modes(*(_error(f, *self.arguments) for f in (tangents, cotangents)))
        if modes.forward is not None and modes.reverse is not None:
            raise TypeError(
                f"Function: step has no derivative, neither in forward nor in reverse mode: {modes.reverse}"
            ) from modes.reverse
        return modes

    @property
    def mode(self) -> Literal["forward", "reverse", "both"]:
        """The same in a word."""
        if self.modes.reverse is not None:
            return "forward"
        return "both" if self.modes.forward is None else "reverse"

    @functools.cached_property
    def pattern(self) -> Pattern:
        """The pattern that asdex finds in the step's program, or in that of its derivative: a rule may depend on what
        the step does not (a surrogate gradient)."""
        try:
            import asdex
        except ImportError:
            return Pattern(None, None, "asdex is not installed (pip install 'streamgrad[function]')")
        if self.traced:
            return Pattern(None, None, "an array in params is traced: build the cell outside of your own jit")
        theta, rows, _ = self.arguments
        rule = custom_rule(jax.make_jaxpr(self.run)(*self.arguments).jaxpr)
        # argnums for every array: closing over concrete values would make zeros among them structural.
        try:
            if rule is None:
                found = _matrix(asdex.jacobian_sparsity(self.run, *self.arguments, argnums=(0, 1, 2)))
            elif self.modes.forward is None:
                push = lambda *a: jax.jvp(self.run, a[:3], a[3:])[1]
                found = _matrix(
                    asdex.jacobian_sparsity(push, *self.arguments, *self.arguments, argnums=tuple(range(6)))
                )
                found = found[:, sum(a.size for a in self.arguments) :]
            else:
                pull = lambda *a: jnp.concatenate([c.ravel() for c in jax.vjp(self.run, *a[:3])[1](a[3])])
                found = _matrix(asdex.jacobian_sparsity(pull, *self.arguments, rows, argnums=(0, 1, 2, 3)))
                found = found[:, sum(a.size for a in self.arguments) :].T
        except Exception as error:  # of another library, on programs that it was not made for
            where = f" (in the derivative of the rule of {rule!r})" if rule else ""
            return Pattern(None, None, f"{_first_sentence(error)}{where}")
        return Pattern(found[:, : theta.size], found[:, theta.size : theta.size + rows.size])

    def verify(self, points: int = 2) -> None:
        """Refuse a pattern that automatic differentiation contradicts at random points."""
        jacobian = jax.jacrev if self.modes.reverse is None else jax.jacfwd
        # One program, whose numbers NumPy draws: most of the time of building a cell is that of compiling.
        at = jax.jit(lambda *point: jacobian(self.run, (0, 1))(*point))
        draw = np.random.default_rng(0).normal
        with jax.ensure_compile_time_eval():
            found = [at(*(draw(size=a.shape).astype(a.dtype) for a in self.arguments)) for _ in range(points)]
        for each in found:
            for derivative, pattern in zip(map(np.asarray, each), self.pattern[:2], strict=True):
                if pattern is not None and np.any(np.isfinite(derivative) & (derivative != 0) & ~pattern):
                    raise ValueError(
                        "Function: the detected sparsity pattern misses a non-zero derivative of step: "
                        "pass pattern='dense', and report the step as a bug of the detection."
                    )

    @functools.cached_property
    def structure(self) -> tuple[Structure, Static] | None:
        """Each row a unit, parameters with equal columns a group; None where no pattern is known."""
        of_theta, of_rows, _ = self.pattern
        if of_theta is None or of_rows is None:
            return None
        self.verify()
        columns, group = np.unique(of_theta, axis=1, return_inverse=True)
        of_rows = of_rows | np.eye(len(of_rows), dtype=bool)
        structure = Structure(
            entry_unit=Static(np.arange(len(of_rows))),
            reads=None if of_rows.all() else Static(np.stack(np.nonzero(of_rows))),
            touches=Static(np.stack(np.nonzero(columns))),
            group_sizes=Static(np.bincount(group.ravel(), minlength=columns.shape[1])),
        )
        return structure, Static(group.ravel())

    def detected(self) -> tuple[Structure, Static] | None:
        """The detected structure; None, with a warning, where it is unknown."""
        if self.structure is None:
            warnings.warn(
                "Function: the pattern of step is not known, so the cell is taken to be dense, every parameter with an "
                f"effect on every entry of the state: {self.pattern.unknown}. Pass pattern='dense' if that is meant.",
                stacklevel=5,
            )
        return self.structure


def analysed(step: Callable, params: Any, state: Any, x: Any) -> Analysis:
    """What is known of a step: once for each step and shapes, as only these count."""
    fixed = [leaf for leaf in jax.tree.leaves(params) if not eqx.is_inexact_array(leaf)]
    shapes = lambda tree: tuple((a.shape, str(a.dtype)) for a in jax.tree.leaves(tree) if eqx.is_array(a))
    if any(map(eqx.is_array_like, fixed)):
        return Analysis(step, params, state, x)
    key = step, jax.tree.structure((params, state)), tuple(fixed), shapes((params, state, x))
    try:
        known = _KNOWN.get(key)
    except TypeError:  # a step that cannot be hashed
        return Analysis(step, params, state, x)
    if known is None:
        if len(_KNOWN) >= 64:
            _KNOWN.pop(next(iter(_KNOWN)))
        known = _KNOWN[key] = Analysis(step, params, state, x)
    return known


_KNOWN: dict[Any, Analysis] = {}


def equations(jaxpr: Any) -> Iterator[Any]:
    """Those of a program, and of the programs within it."""
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


def custom_rule(jaxpr: Any) -> str | None:
    """The name of a function in a program with a derivative rule of its own; None without one."""
    rules = (eqn for eqn in equations(jaxpr) if eqn.primitive.name in ("custom_jvp_call", "custom_vjp_call"))
    return next((str(eqn.params.get("name") or eqn.primitive.name) for eqn in rules), None)


def check_program(jaxpr: Any) -> None:
    """Raise `TypeError` for a program that pushes a tangent through a `jax.custom_vjp`: it cannot be compiled."""
    if any(eqn.primitive.name == "custom_lin" for eqn in equations(jaxpr)):
        raise TypeError("can't apply forward-mode differentiation (jvp) to a custom_vjp function.")


def _error(function: Callable, *arguments) -> Exception | None:
    try:
        check_program(jax.make_jaxpr(function)(*arguments).jaxpr)
    except Exception as error:  # JAX says no in several ways
        return error
    return None


def _first_sentence(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].split(". ")[0].rstrip(".")


def _matrix(pattern: Any) -> np.ndarray:
    found = np.zeros(pattern.shape, bool)
    found[pattern.rows, pattern.cols] = True
    return found
