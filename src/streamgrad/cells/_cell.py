"""What a cell and its core are: the two contracts that algorithms build on."""

from __future__ import annotations

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Num, PyTree

from ..structure import Structure

_APART = "use a cell made of drives (sg.cells.LSTM, ...), or sg.cells.Function with `seen`."


class Core(eqx.Module):
    """The recurrence `s_t = f(theta, s_{t-1}, x_t)` alone, as a pytree whose inexact leaves are theta.

    `__call__` is enough for algorithms made of `jvp` and `vjp`. Those that keep a structured influence
    also need `structure` (static) and a way to linearise the step: see `Bank` and `FunctionCore`.
    """

    @abc.abstractmethod
    def __call__(self, state: PyTree[Array], x: Array) -> PyTree[Array]:
        """One step: the state and an input to the next state."""

    def unroll(self, state: PyTree[Array], xs: Num[Array, "time in_size"], starts=None) -> PyTree[Array]:
        """The states after each of many steps, (time, ...). `starts`: None, or where a sequence begins anew, bool
        (time,), and the state it begins from."""
        return self._unroll(self, state, xs, starts)

    @staticmethod
    def _unroll(step, state, inputs, starts):
        def body(state, now):
            input_, start = now
            if start is not None:
                state = jax.tree.map(lambda fresh, old: jnp.where(start, fresh, old), starts[1], state)
            state = step(state, input_)
            return state, state

        return jax.lax.scan(body, state, (inputs, None if starts is None else starts[0]))[1]

    def seen(self, state: PyTree[Array], x: Array) -> PyTree[Array]:
        """What the units of this step see of each other. For cores whose units are the last axis of every array."""
        raise TypeError(f"{type(self).__name__} has no units that could be told apart: {_APART}")

    def apart(self, state: PyTree[Array], x: Array, seen: PyTree[Array]) -> PyTree[Array]:
        """One step with the units' view of each other held at `seen`: a new unit depends on its own old state and its
        own parameters alone. With `seen(state, x)` it is the step itself."""
        raise TypeError(f"{type(self).__name__} has no units that could be told apart: {_APART}")

    def by_input(self, state: PyTree[Array], x: Array, cotangent: PyTree[Array]) -> Array:
        """The cotangent of the input, from that of the new state: of this step alone."""
        return jax.vjp(lambda x: self(state, x), x)[1](cotangent)[0]

    @property
    @abc.abstractmethod
    def structure(self) -> Structure:
        """The sparsity of a step: the units that each unit reads, and the unit of each parameter."""

    @abc.abstractmethod
    def acts_on_state(self) -> PyTree[bool]:
        """A pytree like the core: True for the leaves that act on the past alone (`Spatial` drops them)."""


class Cell(eqx.Module):
    """A recurrent cell: parameters, an initial state, a step and an output. Unbatched: use `jax.vmap`.

    Its inexact-array leaves are its parameters and are all real (complex leaves get conjugate gradients
    and break Optax); `core()` turns them into the arrays of the recurrence, by plain differentiable code.
    """

    in_size: eqx.AbstractVar[int]

    @abc.abstractmethod
    def core(self) -> Core:
        """The recurrence, its arrays computed from the parameters."""

    @abc.abstractmethod
    def init_state(self) -> PyTree[Array]:
        """The state before the first step (zeros)."""

    @abc.abstractmethod
    def output(self, state: PyTree[Array], x: Array) -> Array:
        """What the cell shows to the layers above: plain autodiff, and not part of the recurrence."""

    def __call__(self, state: PyTree[Array], x: Array) -> PyTree[Array]:
        """One step of the recurrence: `core()(state, x)`."""
        return self.core()(state, x)

    @property
    def out_size(self) -> int:
        """The length of `output`."""
        x = jnp.zeros(self.in_size)
        return eqx.filter_eval_shape(lambda cell: cell.output(cell.init_state(), x), self).shape[0]

    def parameter_unit(self) -> PyTree:
        """The unit that each parameter belongs to: a pytree like the cell of int arrays, each broadcastable to its
        leaf; -1 for parameters of `output`. Units are the last axis unless a cell says otherwise."""
        parameters = eqx.filter(self, eqx.is_inexact_array)
        return jax.tree.map(lambda leaf: np.arange(leaf.shape[-1]), parameters)

    def sees(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Patterns of the cell's two ends, for `Chain`: bool (units, in_size), the units that read each
        input within the step; (out_size, units), the units that each output shows; (out_size, in_size), the
        inputs that each output passes on. All True unless a cell knows better."""
        units, outs = self.core().structure.units, self.out_size
        return (
            np.ones((units, self.in_size), bool),
            np.ones((outs, units), bool),
            np.ones((outs, self.in_size), bool),
        )


def check_sizes(**sizes: int) -> None:
    """Refuse sizes that are not positive integers, by name."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be a positive integer, got {size!r}.")


def cast_input(x: Num[Array, " in_size"], dtype) -> Array:
    """`x` in the precision of the weights: integers and one-hot inputs are welcome, complex is not."""
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise TypeError(f"The input of a cell must be real, got {x.dtype}: pass real and imaginary parts.")
    return x.astype(dtype)
