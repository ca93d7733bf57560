"""What each biased algorithm computes, from its written rule: dense NumPy over textbook steps.

Nothing here uses the library's algorithms, influence, banks or structure. A definition takes a layer (for its
hyperparameters), a cell and a problem, and returns the gradient of every step, by name of the parameter.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import oracles
from jax.flatten_util import ravel_pytree

sigmoid = jax.nn.sigmoid


@jax.custom_jvp
def spike(v):
    return (v > 0).astype(v.dtype)


spike.defjvp(lambda v, dv: (spike(v[0]), 0.3 * jnp.maximum(0, 1 - jnp.abs(v[0])) * dv[0]))


# One step of textbook cells, apart: what each drive gets, and what a unit does with its drives.


def unit_of(cell):
    """(own state, drives) -> new state, all (entries or drives, units)."""
    kind = type(cell).__name__
    if kind == "Vanilla":
        return lambda s, d: jnp.stack([jnp.tanh(d[0])])
    if kind == "LeakyRNN":
        return lambda s, d: jnp.stack([(1 - cell.leak) * s[0] + cell.leak * jnp.tanh(d[0])])
    if kind == "GRU":
        return lambda s, d: jnp.stack([s[0] + sigmoid(d[0]) * (jnp.tanh(d[2] + sigmoid(d[1]) * d[3]) - s[0])])
    if kind == "LSTM":

        def lstm(s, d):
            c = sigmoid(d[1]) * s[0] + sigmoid(d[0]) * jnp.tanh(d[2])
            return jnp.stack([c, sigmoid(d[3]) * jnp.tanh(c)])

        return lstm
    if kind == "LIF":

        def lif(s, d):
            reset = jax.lax.stop_gradient(s[1]) if cell.detach_reset else s[1]
            v = cell.decay * s[0] + d[0] - reset * cell.threshold
            return jnp.stack([v, spike((v - cell.threshold) / cell.threshold)])

        return lif
    assert kind == "ALIF"

    def alif(s, d):
        b = cell.adaptation_decay * s[1] + s[2]
        v = cell.decay * s[0] + d[0] - s[2] * cell.threshold
        return jnp.stack([v, b, spike((v - cell.threshold - cell.adaptation * b) / cell.threshold)])

    return alif


def index_of(cell, name):
    """The source of each weight, (fan_in, gates, units)."""
    weights = getattr(cell, name)
    wired, sources = (cell.input_wiring, cell.in_size) if name == "weight_x" else (cell.wiring, cell.units)
    return np.broadcast_to(wired.connect(sources, cell.units, weights.shape[1]).index(), weights.shape)


def drives_of(cell, h, x):
    """(drives, units), from what units hear of the others and the input."""
    total = [jnp.zeros(cell.units)] * (1 + max((*cell.input_gates, *cell.recurrent_gates)))
    for name, gates, source in (("weight_x", cell.input_gates, x), ("weight_h", cell.recurrent_gates, h)):
        heard = (getattr(cell, name) * source[index_of(cell, name)]).sum(0)
        for slot, gate in enumerate(gates):
            total[gate] = total[gate] + heard[slot]
    for slot, gate in enumerate(cell.biased):
        total[gate] = total[gate] + cell.bias[slot]
    return jnp.stack(total)


@dataclasses.dataclass
class Parts:
    """Along a trajectory. `immediate` (T, rows, p); `own` (T, rows, rows), D with drives held fixed; `drive` (T,
    rows, drives * units), K; `link` (T, drives * units, rows), drives by old state; `inputs` (T, drives * units, p);
    `delta` (T, rows); `states` (T + 1, rows), before and after; `named`: a flat gradient, by name."""

    immediate: np.ndarray
    own: np.ndarray
    drive: np.ndarray
    link: np.ndarray
    inputs: np.ndarray
    delta: np.ndarray
    states: np.ndarray
    named: object

    @property
    def dynamics(self):
        return self.own + self.drive @ self.link


def parts(cell, xs, weights) -> Parts:
    parameters, fixed = eqx.partition(cell, eqx.is_inexact_array)
    theta, unravel = ravel_pytree(parameters)
    unit, shape, shown = unit_of(cell), cell.init_state().shape, type(cell).emits
    build = lambda theta: eqx.combine(unravel(theta), fixed)
    by_drives = lambda rows, drives: unit(rows.reshape(shape), drives.reshape(-1, cell.units)).ravel()
    drives = lambda theta, rows, x: drives_of(build(theta), rows.reshape(shape)[shown], x).ravel()

    def body(rows, now):
        x, w = now
        d = drives(theta, rows, x)
        own, drive = jax.jacfwd(by_drives, argnums=(0, 1))(rows, d)
        inputs, link = jax.jacfwd(drives, argnums=(0, 1))(theta, rows, x)
        new = by_drives(rows, d)
        delta = jax.grad(lambda rows: oracles.loss(rows.reshape(shape)[shown], w))(new)
        return new, (drive @ inputs, own, drive, link, inputs, delta, new)

    start = cell.init_state().ravel()
    *arrays, states = map(np.asarray, jax.jit(lambda: jax.lax.scan(body, start, (xs, weights))[1])())
    named = oracles.linearise(cell, xs, weights).named
    return Parts(*arrays, np.concatenate([np.asarray(start)[None], states]), named)


# The rules.


def eligibility(found):
    return oracles.brute_force(found.immediate, found.own)


def rflo(layer, cell, problem):
    found = parts(cell, *problem)
    return found.named(np.einsum("tr,trp->tp", found.delta, eligibility(found)))


def eprop(layer, cell, problem):
    return _through_a_leak(layer.algorithm.low_pass, cell, problem)


def otpe(layer, cell, problem):
    return _through_a_leak(layer.algorithm.leak, cell, problem)


def _through_a_leak(leak, cell, problem):
    found = parts(cell, *problem)
    traces, kept, filtered = eligibility(found), 0, []
    for trace in traces:
        kept = leak * kept + trace
        filtered.append(kept)
    return found.named(np.einsum("tr,trp->tp", found.delta, np.stack(filtered)))


def es_d_rtrl(layer, cell, problem):
    """A trace of what each weight multiplies, and one of what each drive does to its unit."""
    alpha, found, units = layer.algorithm.decay, parts(cell, *problem), cell.units
    same_unit = np.tile(np.eye(units), (len(found.delta[0]) // units,) * 2)
    drive_units = np.tile(np.eye(units), (found.drive.shape[1] // units, found.drive.shape[2] // units))
    by_input, by_drive, gradient = 0, np.zeros_like(found.drive[0]), []
    for t, delta in enumerate(found.delta):
        by_input = alpha * by_input + found.inputs[t]
        by_drive = alpha * (same_unit * found.dynamics[t]) @ by_drive + (1 - alpha) * found.drive[t] * drive_units
        gradient.append(delta @ by_drive @ by_input)
    return found.named(np.stack(gradient))


def averaged_weights(cell, types):
    """The mean weight between units of two types, over all pairs, spread over the units again: (gates, to, from)."""
    weights, index, n = np.asarray(cell.weight_h), index_of(cell, "weight_h"), cell.units
    dense = np.zeros((weights.shape[1], n, n))
    for k, g, i in np.ndindex(*weights.shape):
        dense[g, i, index[k, g, i]] += weights[k, g, i]
    if types is None:
        return dense
    types = np.arange(n) % types if isinstance(types, int) else np.array(types)
    mean = np.zeros_like(dense)
    for a in set(types):
        for b in set(types):
            block = np.ix_(range(len(dense)), types == a, types == b)
            mean[block] = dense[block].mean(axis=(1, 2), keepdims=True)
    return mean


def mdgl(layer, cell, problem):
    found, units, shown = parts(cell, *problem), cell.units, type(cell).emits
    traces, mean = eligibility(found), averaged_weights(cell, layer.algorithm.types)
    gradient = np.einsum("tr,trp->tp", found.delta, traces)
    for t in range(1, len(gradient)):
        by_drive = (found.delta[t] @ found.drive[t]).reshape(-1, units)
        error = sum(by_drive[gate] @ mean[slot] for slot, gate in enumerate(cell.recurrent_gates))
        gradient[t] += error @ traces[t - 1][shown * units : (shown + 1) * units]
    return found.named(gradient)


def modprop(layer, cell, problem):
    """Every number of hops s by itself, through the s-th power of the averaged weights."""
    found, units, shown = parts(cell, *problem), cell.units, type(cell).emits
    traces, (mean,) = eligibility(found), averaged_weights(cell, layer.algorithm.types)
    gradient = np.einsum("tr,trp->tp", found.delta, traces)
    (gate,) = cell.recurrent_gates
    for t in range(len(gradient)):
        error = (found.delta[t] @ found.drive[t]).reshape(-1, units)[gate]
        for s in range(1, t + 1):
            filtered = layer.algorithm.decay ** (s - 1) * np.linalg.matrix_power(mean, s)
            gradient[t] += error @ filtered @ traces[t - s][shown * units : (shown + 1) * units]
    return found.named(gradient)


def kernl(layer, cell, problem):
    """The sum over all past steps, with the kernel written out."""
    found = parts(cell, *problem)
    a, gamma = np.asarray(layer.algorithm.weight), np.clip(layer.algorithm.rate, 0, 1)
    gradient = []
    for t, delta in enumerate(found.delta):
        kernels = [a * (1 - gamma) ** (t - past) for past in range(t + 1)]
        gradient.append(sum(delta @ kernel @ found.immediate[past] for past, kernel in enumerate(kernels)))
    return found.named(np.stack(gradient))


def dni(layer, cell, problem):
    """The guess, times what the parameters do now; any cell."""
    linear = oracles.linearise(cell, *problem)
    weight, rows = np.asarray(layer.algorithm.weight), oracles.to_rows(cell.init_state())
    gradient = []
    for t, x in enumerate(problem[0]):
        rows = oracles.to_rows(cell(oracles.from_rows(rows, cell.init_state()), x))
        guess = weight @ np.concatenate([rows, np.ones(1)])
        gradient.append(guess @ linear.immediate[t] + linear.direct[t])
    return linear.named(np.stack(gradient))


def random_k(layer, cell, problem):
    linear, units = oracles.linearise(cell, *problem), cell.units
    paths = np.asarray(layer.init(key=jax.random.key(0)).trace[1])
    kept = np.zeros((units, units))
    kept[np.arange(units), paths] = 1
    assert (kept.sum(1) == layer.algorithm.k).all() and (np.diag(kept) == 1).all()
    each = len(linear.delta[0]) // units
    return linear.gradient(oracles.brute_force(linear.immediate, np.tile(kept, (each, each)) * linear.dynamics))


def sketched(layer, cell, problem):
    """SnAp-1, and the rest projected on the columns of the basis at every step."""
    linear, units = oracles.linearise(cell, *problem), cell.units
    basis = np.asarray(layer.init(key=jax.random.key(0)).trace[2])
    np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-12)
    each = len(linear.delta[0]) // units
    same_unit = np.tile(np.eye(units), (each, each))
    own, rest, influence = 0 * linear.immediate[0], 0 * linear.immediate[0], []
    for i, d in zip(linear.immediate, linear.dynamics, strict=True):
        rest = basis @ basis.T @ ((1 - same_unit) * d @ own + d @ rest)
        own = i + same_unit * d @ own
        influence.append(own + rest)
    return linear.gradient(np.stack(influence))


def full_present(layer, cell, problem):
    """SnAp-n's trace, and for the present step all of D: (δ D) J_old + δ I."""
    linear = oracles.linearise(cell, *problem)
    mask = oracles.pattern_of_wiring(cell).mask(layer.algorithm.n)
    kept = oracles.brute_force(linear.immediate, linear.dynamics, mask)
    before = np.concatenate([np.zeros_like(kept[:1]), kept[:-1]])
    return linear.gradient(linear.immediate + linear.dynamics @ before)
