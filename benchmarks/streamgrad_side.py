"""The nets and the two programs in streamgrad."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import nets

import streamgrad as sg

CELLS = {
    "rnn": sg.cells.Vanilla,
    "rnn-elementwise": lambda *sizes, **options: sg.cells.Vanilla(*sizes, wiring=sg.wiring.Columns(), **options),
    "gru": sg.cells.GRU,
    "gru-reset-before": lambda *sizes, **options: sg.cells.GRU(*sizes, reset_before=True, **options),
    "lstm": sg.cells.LSTM,
}
ALGORITHMS = {"SnAp(1)": lambda: sg.SnAp(1)}
# How a batch of streams is computed. The first is what the documentation tells users to do.
WAYS = ("vmap", "one after another")


def model(net, p, algorithm):
    """Our parameters `p` in a streamgrad model."""
    in_size, _, units = p["x"].shape
    key = jax.random.key(0)
    layer = sg.Recurrent(CELLS[net](in_size, units, key=key), ALGORITHMS[algorithm]())
    built = sg.nn.Sequential([layer, sg.Readout(units, 1, key=key)])
    return eqx.tree_at(_leaves, built, _from(p, layer.cell.weight_h.shape))


def _leaves(model):
    layer, readout = model.layers
    return layer.cell.weight_x, layer.cell.weight_h, layer.cell.bias, readout.weight, readout.bias


def _from(p, shape_h):
    leaves = p["x"], p["h"].reshape(shape_h), p["b"], p["out"].T, p["out_b"]
    return tuple(jnp.array(leaf, copy=True) for leaf in leaves)


def _back(leaves, p):
    x, h, b, out, out_b = leaves
    return {"x": x, "h": h.reshape(p["h"].shape), "b": b, "out": out.T, "out_b": out_b}


class Learner:
    """Carries model and traces from call to call."""

    def __init__(self, net, p, algorithm, batch=None, way="vmap", rate=1e-3):
        self._p, self._rate, self._way = p, rate, way
        trained, self._static = eqx.partition(model(net, p, algorithm), eqx.is_inexact_array)
        self._batch = batch
        init = eqx.combine(trained, self._static).init
        key = jax.random.key(0)
        carry = init(key=key) if batch is None else jax.vmap(lambda k: init(key=k))(jax.random.split(key, batch))
        self._memory = trained, carry
        self._run = jax.jit(self._train, donate_argnums=0)

    def _graded(self, trained, carry, x, y):
        """((loss, new carry), gradient) of one step."""

        def objective(trained, carry, x, y, call=None):
            whole = eqx.combine(trained, self._static)
            new, prediction = (call or (lambda whole: whole))(whole)(carry, x)
            return nets.loss(prediction, y), new

        graded = jax.value_and_grad(objective, has_aux=True)
        if self._batch is None:
            return graded(trained, carry, x, y)
        if self._way == "vmap":
            return graded(trained, carry, x, y, lambda whole: jax.vmap(lambda c, x: whole(c, x)))

        def one(total, stream):
            (loss, carry), gradient = graded(trained, *stream)
            return jax.tree.map(lambda a, g: a + g / self._batch, total, gradient), (loss, carry)

        zeros = jax.tree.map(jnp.zeros_like, trained)
        gradient, (loss, carry) = jax.lax.scan(one, zeros, (carry, x, y))
        return (jnp.mean(loss), carry), gradient

    def _train(self, memory, xs, ys):
        def body(memory, now):
            trained, carry = memory
            (loss, carry), gradient = self._graded(trained, carry, *now)
            return (jax.tree.map(lambda w, g: w - self._rate * g, trained, gradient), carry), loss

        return jax.lax.scan(body, memory, (xs, ys))

    def run(self, xs, ys):
        """The online gradient and an SGD update at every step; the losses."""
        self._memory, losses = self._run(self._memory, xs, ys)
        return losses

    def gradient(self, xs, ys):
        """The summed loss and the summed online gradient, weights frozen."""
        trained, carry = self._memory

        def body(both, now):
            total, carry = both
            (loss, carry), gradient = self._graded(trained, carry, *now)
            return (jax.tree.map(jnp.add, total, gradient), carry), loss

        zeros = jax.tree.map(jnp.zeros_like, trained)
        (total, _), losses = jax.jit(lambda: jax.lax.scan(body, (zeros, carry), (xs, ys)))()
        return jnp.sum(losses), _back(_leaves(eqx.combine(total, self._static)), self._p)

    def carried_bytes(self):
        """Of state and traces."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self._memory[1]))

    def parameter_count(self):
        return sum(leaf.size for leaf in jax.tree.leaves(self._memory[0]))
