"""What an optimiser moves, and how: the only place where an update is added to a parameter."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend import core as jex
from jaxtyping import PyTree

from ._masks import untrained


def trained(model: Any) -> PyTree[bool]:
    """A mask over the model's arrays: whether an optimiser moves each."""
    arrays = eqx.filter(model, eqx.is_array)
    return jax.tree.map(lambda leaf, own: eqx.is_inexact_array(leaf) and not own, arrays, untrained(model))


def split(model: Any) -> tuple[Any, Any]:
    """The model's parameters that an optimiser moves, and all else of it: `eqx.combine` of both is the model."""
    arrays, rest = eqx.partition(model, eqx.is_array)
    parameters, fixed = eqx.partition(arrays, trained(model))
    return parameters, eqx.combine(fixed, rest)


def checked_optimiser(made: Any, model: Any, who: str) -> optax.GradientTransformation:
    """The optimiser, or what a function of the model makes. Raises `TypeError`, by name, for one that cannot move the
    model's parameters, and for parameters that are complex."""
    if isinstance(made, optax.MultiSteps):
        raise TypeError(
            f"{who} takes no optax.MultiSteps: give the optimiser within it, and sg.Learner(update_every=k) to average "
            "the gradients of k steps."
        )
    if not isinstance(made, optax.GradientTransformation):
        uncalled = isinstance(made, type) or getattr(made, "__module__", "").split(".")[0] == "optax"
        if uncalled or not callable(made):
            raise TypeError(
                f"{who} expects an Optax optimiser such as optax.adam(1e-3), or a function of the model that makes "
                f"one, got {made!r}{': call it' if uncalled else ''}."
            )
        made = made(model)
        if not isinstance(made, optax.GradientTransformation):
            raise TypeError(f"{who}: the function of the model must return an Optax optimiser, got {made!r}.")
    parameters = split(model)[0]
    for path, leaf in jax.tree_util.tree_leaves_with_path(parameters):
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            name = jax.tree_util.keystr(path)
            raise TypeError(
                f"Parameter {name} is complex ({leaf.dtype}), and JAX's gradient is its conjugate, so an optimiser "
                "would climb: keep real and imaginary parts as two real leaves and join them in the call, or wrap a "
                "layer that does not learn in sg.nn.Fixed."
            )
    try:
        if _name(made) == "lookahead":
            raise TypeError("it keeps fast and slow ones, optax.LookaheadParams")
        with jax.numpy_dtype_promotion("standard"):
            jax.eval_shape(made.init, _shapes(parameters))
    except (AttributeError, TypeError, ValueError) as error:
        raise TypeError(
            f"{who} cannot use the optimiser {_name(made)}, which wants parameters of its own kind ({error}): take one "
            "whose init takes any tree of arrays."
        ) from error
    return made


def value_dtype(parameters: PyTree) -> Any:
    """The type in which an optimiser is told the loss: the widest of the parameters, float32 at least."""
    dtypes = {np.dtype("float32"), *(np.dtype(leaf.dtype) for leaf in jax.tree.leaves(parameters))}
    return max(dtypes, key=lambda dtype: dtype.itemsize)


def check_update(optimiser: optax.GradientTransformation, parameters: PyTree, extra: dict[str, Any], who: str) -> None:
    """Raise `TypeError`, by name, for an optimiser whose update needs more than the driver knows."""

    def once(parameters, extra):
        return updated(optimiser, parameters, optimiser.init(parameters), parameters, **extra)

    try:
        jax.eval_shape(once, _shapes(parameters), _shapes(extra))
    except (AttributeError, TypeError, ValueError) as error:
        known = ", ".join(["the gradient", "the parameters", *(f"`{name}`" for name in extra)])
        raise TypeError(
            f"{who} cannot use the optimiser {_name(optimiser)}: {error}. An update is given {known}."
        ) from error


def updated(
    optimiser: optax.GradientTransformation, gradient: PyTree, state: PyTree, parameters: PyTree, **extra: Any
) -> tuple[PyTree, PyTree]:
    """Parameters and optimiser state after one update, each in the type that it had.

    `extra`: what some transformations take beside the gradient (`value`, `grad`)."""
    with jax.numpy_dtype_promotion("standard"):  # Optax mixes precisions, also where the user forbids it
        update = optax.with_extra_args_support(optimiser).update
        updates, new = update(gradient, state, parameters, **extra)
        moved = jax.tree.map(lambda p, u: p if u is None else jnp.asarray(p + u), parameters, updates)
        return _typed_as(parameters, moved), _typed_as(state, new)


def _typed_as(old: PyTree, new: PyTree) -> PyTree:
    """`new` in the types of `old`: a rate in float64 must not change what it moves."""
    if jax.tree.structure(old) != jax.tree.structure(new):
        return new  # an optimiser whose state changes its form: the caller's loop says so

    def one(old, new):
        dtype = getattr(old, "dtype", None)
        return new if dtype is None or jnp.issubdtype(dtype, jax.dtypes.extended) else jnp.asarray(new).astype(dtype)

    return jax.tree.map(one, old, new)


def _shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def _name(optimiser: Any) -> str:
    """The function that made it: an Optax transformation has no other name."""
    return getattr(optimiser.init, "__qualname__", repr(optimiser)).split(".")[0]


# Parameters whose gradient is zero by the form of the program.

_LINEAR = {
    *("broadcast_in_dim", "reshape", "transpose", "convert_element_type", "neg", "reduce_sum", "slice", "squeeze"),
    *("concatenate", "pad", "add_any", "add", "sub", "copy", "copy_p", "real", "imag", "conj", "cumsum", "rev"),
    *("stop_gradient", "optimization_barrier", "reduce_precision", "symmetric_product", "expand_dims"),
}
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr"}
_CALLS |= {"custom_vjp_call": "call_jaxpr", "remat2": "jaxpr", "checkpoint": "jaxpr"}


def frozen(objective: Any, parameters: PyTree, *arguments: Any) -> PyTree[bool]:
    """A mask over the parameters: whether each gradient is zero by the form of the program. The gradient is that of
    `objective(parameters, *arguments) -> (loss, aux)`; it is zero for a buffer behind `stop_gradient`, a leaf that
    nothing reads. From shapes alone."""
    gradient = lambda parameters, *arguments: eqx.filter_grad(objective, has_aux=True)(parameters, *arguments)[0]
    closed = jax.make_jaxpr(gradient)(parameters, *arguments)
    zeros = zero_outputs(closed.jaxpr, [False] * len(closed.jaxpr.invars))
    return jax.tree.unflatten(jax.tree.structure(parameters), zeros)


def zero_outputs(jaxpr: jex.Jaxpr, inputs: list[bool]) -> list[bool]:
    """Which outputs of a program are zero whatever its inputs are, given which inputs are. Never true of another."""
    zero = dict.fromkeys(jaxpr.constvars, False) | dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom):
        return not np.any(atom.val) if isinstance(atom, jex.Literal) else zero[atom]

    for eqn in jaxpr.eqns:
        given = [read(atom) for atom in eqn.invars]
        name = eqn.primitive.name
        inner = eqn.params.get(_CALLS.get(name, ""))
        if inner is not None:
            inner = getattr(inner, "jaxpr", inner)
            found = zero_outputs(inner, given)
        elif name in _LINEAR:
            found = [all(given)] * len(eqn.outvars) if name != "optimization_barrier" else given
        elif name in ("mul", "dot_general"):
            found = [any(given)]
        elif name == "div":
            found = [given[0]]
        elif name == "select_n":
            found = [all(given[1:])]
        elif name == "cond":
            branches = [zero_outputs(branch.jaxpr, given[1:]) for branch in eqn.params["branches"]]
            found = [all(each) for each in zip(*branches, strict=True)]
        elif name == "scan":
            found = _zero_in_scan(eqn, given)
        else:
            found = [False] * len(eqn.outvars)
        zero |= zip(eqn.outvars, found, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _zero_in_scan(eqn, given: list[bool]) -> list[bool]:
    """A carry is zero when it starts so and every turn leaves it so."""
    consts, carries = eqn.params["num_consts"], eqn.params["num_carry"]
    carry = given[consts : consts + carries]
    while True:
        found = zero_outputs(eqn.params["jaxpr"].jaxpr, [*given[:consts], *carry, *given[consts + carries :]])
        stays = [a and b for a, b in zip(carry, found[:carries], strict=True)]
        if stays == carry:
            return [*carry, *found[carries:]]
        carry = stays
