"""The online gradient against backpropagation through time, on the user's own cell and inputs."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..cells import FunctionCore
from ..recurrent import Recurrent


@dataclasses.dataclass(frozen=True)
class GradientCheck:
    """Per parameter: its path, the relative error ‖g - g*‖ / ‖g*‖ and the cosine of g and g*, where g* is
    BPTT's gradient. Printing it gives a table."""

    parameters: tuple[str, ...]
    errors: tuple[float, ...]
    cosines: tuple[float, ...]

    @property
    def worst(self) -> float:
        """The largest relative error."""
        return float(np.max(self.errors, initial=0.0))  # NaN if any is

    def __str__(self) -> str:
        rows = [f"{'parameter':<28}{'relative error':>16}{'cosine':>10}"]
        for name, error, cosine in zip(self.parameters, self.errors, self.cosines, strict=True):
            rows.append(f"{name:<28}{error:>16.2e}{cosine:>10.4f}")
        return "\n".join(rows)


def check_gradients(layer: Recurrent, xs: Float[Array, "time in_size"], *, key: PRNGKeyArray) -> GradientCheck:
    r"""Compare a layer's online gradient with BPTT, parameter by parameter.

    The loss is $\sum_t \langle w_t, \sin y_t\rangle$ with random w. The layer is driven one step at a time
    and its gradients summed; BPTT differentiates the same cell through the whole sequence. For an exact
    algorithm the two agree to rounding: use float64 (`jax.config.update("jax_enable_x64", True)`) to tell
    a bias from rounding.

    Raises `TypeError` for anything but a `sg.Recurrent`, `ValueError` for xs that are not (time, in_size).
    """
    if not isinstance(layer, Recurrent):
        raise TypeError(f"check_gradients expects a sg.Recurrent layer, got {type(layer).__name__}.")
    xs = jnp.asarray(xs)
    if xs.ndim != 2 or xs.shape[1] != layer.cell.in_size or len(xs) == 0:
        raise ValueError(
            f"check_gradients expects inputs of shape (time, {layer.cell.in_size}) with time >= 1, got {xs.shape}."
        )
    key_w, key_carry = jax.random.split(key)
    ws = jax.random.normal(key_w, (len(xs), layer.cell.out_size))
    loss = lambda y, w: jnp.sum(w.astype(y.dtype) * jnp.sin(y))

    def through_time(cell):
        def body(state, inputs):
            x, w = inputs
            state = cell(state, x)
            return state, loss(cell.output(state, x), w)

        return jnp.sum(jax.lax.scan(body, cell.init_state(), (xs, ws))[1])

    @eqx.filter_jit
    def one_step(layer, carry, x, w):
        def of(layer):
            new, y = layer(carry, x)
            return loss(y, w), new

        return eqx.filter_grad(of, has_aux=True)(layer)

    forward = isinstance(core := layer.cell.core(), FunctionCore) and core.mode == "forward"
    exact = eqx.filter_jit(eqx.filter_jacfwd(through_time) if forward else eqx.filter_grad(through_time))(layer.cell)
    if layer.algorithm.credit == "carry":
        total = eqx.filter_jit(eqx.filter_grad(lambda layer: _windowed(layer, xs, ws, loss, key_carry)))(layer).cell
    else:
        carry, total = layer.init(key=key_carry), None
        for x, w in zip(xs, ws, strict=True):
            gradient, carry = one_step(layer, carry, x, w)
            total = gradient.cell if total is None else jax.tree.map(jnp.add, total, gradient.cell)
    return _compare(total, exact)


def _windowed(layer, xs, ws, loss, key):
    """The loss of the layer itself over the whole sequence, for algorithms whose credit is in the carry."""

    def body(carry, inputs):
        x, w = inputs
        carry, y = layer(carry, x)
        return carry, loss(y, w)

    return jnp.sum(jax.lax.scan(body, layer.init(key=key), (xs, ws))[1])


def _compare(online, exact) -> GradientCheck:
    pairs = zip(jax.tree_util.tree_leaves_with_path(exact), jax.tree.leaves(online), strict=True)
    names, errors, cosines = [], [], []
    for (path, want), got in pairs:
        want, got = (
            want.astype(jnp.float32 if want.dtype == jnp.bfloat16 else want.dtype),
            got.astype(want.dtype),
        )
        size = jnp.linalg.norm(want.ravel())
        tiny = jnp.finfo(want.dtype).tiny
        names.append(jax.tree_util.keystr(path).lstrip("."))
        errors.append(float(jnp.linalg.norm((got - want).ravel()) / jnp.maximum(size, tiny)))
        both = jnp.maximum(jnp.linalg.norm(got.ravel()) * size, tiny)
        same = not jnp.any(got) and not jnp.any(want)
        cosines.append(1.0 if same else float(jnp.sum(got * want) / both))
    return GradientCheck(tuple(names), tuple(errors), tuple(cosines))
