"""The nets and the two programs in braintrace, written as its own documentation writes them."""

from __future__ import annotations

import warnings

import brainstate
import braintrace
import jax
import jax.numpy as jnp
import nets
from braintrace.nn import GRUCell, Linear, LSTMCell, ValinaRNNCell

ALGORITHMS = {
    "SnAp(n=1)": (braintrace.SnAp, {"n": 1}),
    "D_RTRL": (braintrace.D_RTRL, {}),
    "ES_D_RTRL(0.9)": (braintrace.ES_D_RTRL, {"decay_or_rank": 0.9}),
}
# The default, and the one with which the readout learns; both are driven one step at a time.
ALGORITHMS |= {
    f"{name}, multi-step": (rule, {**options, "vjp_method": "multi-step"})
    for name, (rule, options) in ALGORITHMS.items()
}
# How a batch of streams is computed: inside the compiled graph, or by braintrace's own vmap.
WAYS = ("batched", "vmap")


class _Cell(brainstate.nn.RNNCell):
    """A cell of our own, with one hidden state."""

    def __init__(self, units):
        super().__init__()
        self.units = units

    def init_state(self, batch_size=None, **_):
        lead = () if batch_size is None else (batch_size,)
        self.h = brainstate.HiddenState(jnp.zeros((*lead, self.units)))


class ResetAfterGRU(_Cell):
    """The GRU whose reset gate acts after the matmul. `braintrace.nn.GRUCell` has it before."""

    def __init__(self, in_size, units):
        super().__init__(units)
        self.Wz = Linear(in_size + units, units)
        self.Wr = Linear(in_size + units, units)
        self.Wx = Linear(in_size, units)
        self.Wh = Linear(units, units, b_init=None)

    def update(self, x):
        h = self.h.value
        xh = jnp.concatenate([x, h], axis=-1)
        z, r = jax.nn.sigmoid(self.Wz(xh)), jax.nn.sigmoid(self.Wr(xh))
        self.h.value = (1 - z) * h + z * jnp.tanh(self.Wx(x) + r * self.Wh(h))
        return self.h.value


class ElementwiseRNN(_Cell):
    """h' = tanh(W x + b + w h), with one recurrent weight a unit."""

    def __init__(self, in_size, units):
        super().__init__(units)
        self.Wx = Linear(in_size, units)
        self.w = brainstate.ParamState(jnp.zeros(units))

    def update(self, x):
        self.h.value = jnp.tanh(self.Wx(x) + braintrace.element_wise(self.w.value) * self.h.value)
        return self.h.value


CELLS = {
    "rnn": lambda *sizes: ValinaRNNCell(*sizes, activation="tanh"),
    "rnn-elementwise": ElementwiseRNN,
    "gru": ResetAfterGRU,
    "gru-reset-before": GRUCell,
    "lstm": LSTMCell,
}
# Linear layers that see input and state together, in our order of gates.
JOINT = {"rnn": ["W"], "gru": ["Wz", "Wr"], "gru-reset-before": ["Wz", "Wr", "Wh"], "lstm": ["Wi", "Wf", "Wg", "Wo"]}


class Net(brainstate.nn.Module):
    def __init__(self, cell, units):
        super().__init__()
        self.cell = cell
        self.out = Linear(units, 1)

    def update(self, x):
        return self.out(self.cell(x))


def _from(net, p):
    """Our parameters as values of braintrace's, by path."""
    values = {("out", "weight"): {"weight": p["out"], "bias": p["out_b"]}}
    shift = {"Wf": 1.0} if net == "lstm" else {}  # LSTMCell adds 1 to the forget gate
    for gate, name in enumerate(JOINT.get(net, [])):
        weight = jnp.concatenate([p["x"][:, gate], p["h"][:, gate]])
        values["cell", name, "weight"] = {"weight": weight, "bias": p["b"][gate] - shift.get(name, 0.0)}
    if net in ("gru", "rnn-elementwise"):
        values["cell", "Wx", "weight"] = {"weight": p["x"][:, -1], "bias": p["b"][-1]}
    if net == "gru":
        values["cell", "Wh", "weight"] = {"weight": p["h"][:, 2]}
    if net == "rnn-elementwise":
        values["cell", "w"] = p["h"]
    return values


def _back(net, gradient, p):
    """A gradient by path as one of our parameters: the transpose of a linear map is its derivative."""
    zeros = jax.tree.map(jnp.zeros_like, p)
    return jax.vjp(lambda p: _from(net, p), zeros)[1](gradient)[0]


class Learner:
    """Carries model and traces from call to call, in braintrace's states."""

    def __init__(self, net, p, algorithm, batch=None, way="batched", rate=1e-3):
        self._net, self._p, self._rate = net, p, rate
        in_size, _, units = p["x"].shape
        model = Net(CELLS[net](in_size, units), units)
        for path, state in model.states(brainstate.ParamState).items():
            state.value = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), _from(net, p)[path])
        rule, options = ALGORITHMS[algorithm]
        example = jnp.zeros((in_size,) if batch is None else (batch, in_size))
        vmap = batch is not None and way == "vmap"
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            self._learner = braintrace.compile(model, rule, example, batch_size=batch, vmap=vmap, **options)
        self.warnings = [str(w.message) for w in said]
        self._core = self._learner.module if vmap else self._learner
        self._weights = self._core.param_states
        self._run = brainstate.transform.jit(self._train)

    def _loss(self, x, y):
        return nets.loss(self._learner(x), y)

    def _train(self, xs, ys):
        def body(x, y):
            graded = brainstate.transform.grad(lambda: self._loss(x, y), self._weights, return_value=True)
            gradient, loss = graded()
            for path, state in self._weights.items():
                state.value = jax.tree.map(lambda w, g: w - self._rate * g, state.value, gradient[path])
            return loss

        return brainstate.transform.for_loop(body, xs, ys)

    def run(self, xs, ys):
        """The online gradient and an SGD update at every step; the losses."""
        return self._run(xs, ys)

    def gradient(self, xs, ys):
        """The summed loss and the summed online gradient, weights frozen: braintrace's own `etrace_grad`."""
        drive = brainstate.transform.jit(
            lambda: self._learner.etrace_grad(xs, ys, step_fn=self._loss, reduction="sum", return_value=True)
        )
        gradient, losses = drive()
        by_path = {path[-len(own) :]: g for path, g in gradient.items() for own in _from(self._net, self._p)
                   if path[-len(own) :] == own}  # fmt: skip
        return jnp.sum(losses), _back(self._net, by_path, self._p)

    def carried_bytes(self):
        """Of state and traces."""
        carried = [s.value for s in self._core.states().values() if not isinstance(s, brainstate.ParamState)]
        return sum(leaf.nbytes for leaf in jax.tree.leaves(carried))

    def parameter_count(self):
        return sum(leaf.size for state in self._weights.values() for leaf in jax.tree.leaves(state.value))
