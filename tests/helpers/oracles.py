"""Oracles for online gradients, written from the mathematics: plain autodiff through time, and dense NumPy.

Nothing here uses the library's algorithms, influence or structure. Gradients are dictionaries from the name
of a parameter to an array with a leading axis of time: entry t is the gradient of the loss of step t alone.
"""

import dataclasses
import math
import statistics

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

TOLERANCE = 1e-10


# A problem: inputs, and at every step a random nonlinear loss of its own.


def loss(y, weights):
    scale, shift = (w.astype(y.dtype) for w in weights)
    return jnp.sum(scale * jnp.sin(y + shift))


def cast(cell, dtype):
    """The cell with its parameters in another precision."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf, cell)


def randomised(cell, seed):
    """The cell with noise on every parameter, so that none is at a special value."""
    parameters, fixed = eqx.partition(cell, eqx.is_inexact_array)
    theta, unravel = ravel_pytree(parameters)
    noise = 0.3 * np.random.default_rng(seed).normal(size=theta.shape)
    return eqx.combine(unravel(theta + jnp.asarray(noise, theta.dtype)), fixed)


def problem(cell, steps, seed, one_hot=False):
    """Inputs (steps, in_size), and the losses' weights (2, steps, out_size) as a pair."""
    rng = np.random.default_rng(seed)
    xs = rng.normal(size=(steps, cell.in_size))
    if one_hot:
        xs = np.eye(cell.in_size)[rng.integers(cell.in_size, size=steps)]
    outs = (steps, cell.out_size)
    return jnp.asarray(xs), (jnp.asarray(rng.normal(size=outs)), jnp.asarray(rng.normal(size=outs)))


def named(tree):
    """Parameters, or a gradient of them, by name."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(tree, eqx.is_inexact_array))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_same(got, want, rtol=TOLERANCE):
    """Equal for every parameter at every step, relative to the largest entry of that parameter and step."""
    assert got.keys() == want.keys()
    for name in want:
        assert got[name].shape == want[name].shape, name
        for t, (g, w) in enumerate(zip(got[name], want[name], strict=True)):
            size = max(np.abs(w).max(initial=0), 1e-5)
            np.testing.assert_allclose(g, w, rtol=rtol, atol=rtol * size, err_msg=f"{name}, step {t}")


def distance(got, want):
    """|got - want| / |want| over all parameters, at each step."""
    squares = lambda tree: sum((leaf**2).reshape(len(leaf), -1).sum(1) for leaf in tree.values())
    difference = {name: got[name] - want[name] for name in want}
    return np.sqrt(squares(difference) / np.maximum(squares(want), 1e-30))


def assert_no_silent_parameter(gradient, zero=()):
    """Exactly the parameters named in `zero` get no gradient at all over the whole run."""
    silent = {name for name, leaf in gradient.items() if not np.any(leaf)}
    assert silent == set(zero), f"{sorted(silent)} get no gradient, declared are {sorted(zero)}"


# (a) Backpropagation through time: autodiff of a plain loop over the cell.


@eqx.filter_jit
def bptt(cell, xs, weights):
    """The gradient of every step's loss, through all of the past."""
    parameters, fixed = eqx.partition(cell, eqx.is_inexact_array)

    def losses(parameters):
        cell = eqx.combine(parameters, fixed)

        def body(state, now):
            x, w = now
            state = cell(state, x)
            return state, loss(cell.output(state, x), w)

        return jax.lax.scan(body, cell.init_state(), (xs, weights))[1]

    return jax.jacrev(losses)(parameters)


# (b) Brute force: J <- M * (I + D J), dense, over real state entries and real parameters.


def to_rows(state):
    """The state as real numbers: of a complex array all real parts, then all imaginary ones."""
    leaves = jax.tree.leaves(state)
    parts = [p for leaf in leaves for p in ((leaf.real, leaf.imag) if jnp.iscomplexobj(leaf) else (leaf,))]
    return jnp.concatenate([part.ravel() for part in parts])


def from_rows(rows, like):
    leaves, treedef = jax.tree.flatten(like)
    new, start = [], 0
    for leaf in leaves:
        size = math.prod(leaf.shape)
        part = rows[start : start + size]
        start += size
        if jnp.iscomplexobj(leaf):
            part = jax.lax.complex(part, rows[start : start + size])
            start += size
        new.append(part.reshape(leaf.shape))
    return jax.tree.unflatten(treedef, new)


@dataclasses.dataclass
class Linearised:
    """Along a trajectory: I (T, rows, p), D (T, rows, rows), dL/ds (T, rows), and the part of the gradient
    that does not pass through the state (T, p). `unravel` names the entries of a flat gradient."""

    immediate: np.ndarray
    dynamics: np.ndarray
    delta: np.ndarray
    direct: np.ndarray
    unravel: object

    def gradient(self, influence):
        """dL/ds J, by name."""
        flat = np.einsum("tr,trp->tp", self.delta, influence) + self.direct
        return self.named(flat)

    def named(self, flat):
        steps = [named(self.unravel(jnp.asarray(row))) for row in flat]
        return {name: np.stack([step[name] for step in steps]) for name in steps[0]}


@eqx.filter_jit
def _linearised(cell, xs, weights):
    parameters, fixed = eqx.partition(cell, eqx.is_inexact_array)
    theta, unravel = ravel_pytree(parameters)
    start = cell.init_state()
    build = lambda theta: eqx.combine(unravel(theta), fixed)
    step = lambda theta, rows, x: to_rows(build(theta)(from_rows(rows, start), x))
    objective = lambda theta, rows, x, w: loss(build(theta).output(from_rows(rows, start), x), w)

    def body(rows, now):
        x, w = now
        new = step(theta, rows, x)
        jacobians = jax.jacfwd(step, argnums=(0, 1))(theta, rows, x)
        return new, (*jacobians, *jax.grad(objective, argnums=(1, 0))(theta, new, x, w))

    return jax.lax.scan(body, to_rows(start), (xs, weights))[1]


def linearise(cell, xs, weights) -> Linearised:
    unravel = ravel_pytree(eqx.filter(cell, eqx.is_inexact_array))[1]
    return Linearised(*map(np.asarray, _linearised(cell, xs, weights)), unravel)


def brute_force(immediate, dynamics, mask=1.0):
    """J at every step: (T, rows, p)."""
    influence, kept = [], np.zeros_like(immediate[0])
    for i, d in zip(immediate, dynamics, strict=True):
        kept = mask * (i + d @ kept)
        influence.append(kept)
    return np.stack(influence)


def truncated(immediate, dynamics, window):
    """J of the last `window` steps alone: I_t + D_t I_{t-1} + D_t D_{t-1} I_{t-2} + ..."""
    influence = []
    for t in range(len(immediate)):
        total, product = np.zeros_like(immediate[0]), np.eye(len(immediate[0]))
        for k in range(t, max(t - window, -1), -1):
            total, product = total + product @ immediate[k], product @ dynamics[k]
        influence.append(total)
    return np.stack(influence)


# The pattern M_n, from the wiring's indices or from non-zeros at random points.


@dataclasses.dataclass
class Pattern:
    """`unit` (rows,): of each state entry; `reads` (units, units): new unit <- old unit; `parameter_unit` (units, p):
    unit <- parameter."""

    unit: np.ndarray
    reads: np.ndarray
    enters: np.ndarray

    def units(self, n):
        """The units that each parameter reaches within n steps: OR over k < n of A^k T."""
        power, reached = np.eye(len(self.reads), dtype=int), np.zeros_like(self.enters, int)
        for _ in range(n):
            reached |= (power @ self.enters > 0).astype(int)
            power = (power @ self.reads > 0).astype(int)
        return reached.astype(bool)

    def mask(self, n):
        """M_n over state entries: a reached unit keeps all of them."""
        return self.units(n)[self.unit]

    def closed(self, n):
        return np.array_equal(self.units(n), self.units(n + 1))


def pattern_of_wiring(cell):
    """The pattern of a cell of units, from the indices of its wiring."""
    units, each = cell.units, np.arange(cell.units)
    rows = to_rows(cell.init_state()).size
    gates = []  # gate, unit, source
    if (weight := getattr(cell, "weight_h", None)) is not None:
        index = cell.wiring.connect(units, units, weight.shape[1]).index()
        for source in np.moveaxis(np.broadcast_to(index, weight.shape), 1, 0):
            reads = np.zeros((units, units), bool)
            reads[np.broadcast_to(each, source.shape), source] = True
            gates.append(reads)
    two_stages = getattr(cell, "reset_before", False)
    if two_stages:  # the candidate reads r * h, and r reads h
        gates[1] = (gates[2].astype(int) @ gates[1].astype(int)) > 0
    reads = np.any([np.eye(units, dtype=bool), *gates], axis=0)
    columns = []
    for name, leaf in named(cell).items():
        entered = np.zeros((units, *leaf.shape), bool)
        if name not in (".c_re", ".c_im", ".d"):  # of the output
            entered[each, ..., each] = True
        if two_stages:  # a reset parameter of unit j enters the units whose candidate reads j
            entered[..., 1, :] = gates[2].reshape(units, *[1] * (leaf.ndim - 2), units)
        columns.append(entered.reshape(units, -1))
    return Pattern(np.tile(each, rows // units), reads, np.concatenate(columns, axis=1))


def pattern_of_values(cell, unit, seeds=8):
    """The pattern of any cell: what is ever non-zero at random parameters, states and inputs."""
    start = cell.init_state()

    @eqx.filter_jit
    def jacobians(cell, rows, x):
        parameters, fixed = eqx.partition(cell, eqx.is_inexact_array)
        theta, unravel = ravel_pytree(parameters)
        step = lambda theta, rows: to_rows(eqx.combine(unravel(theta), fixed)(from_rows(rows, start), x))
        return jax.jacfwd(step, argnums=(0, 1))(theta, rows)

    found = 0
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        point = jnp.asarray(rng.normal(size=len(unit))), jnp.asarray(rng.normal(size=cell.in_size))
        found = found | (np.concatenate(jacobians(randomised(cell, seed), *point), axis=1) != 0)
    by_unit = np.zeros((unit.max() + 1, found.shape[1]), bool)
    np.logical_or.at(by_unit, unit, found)
    enters, entries = np.split(by_unit, [found.shape[1] - len(unit)], axis=1)
    reads = np.eye(len(by_unit), dtype=bool)
    np.logical_or.at(reads.T, unit, entries.T)
    return Pattern(unit, reads, enters)


# (c) The driver: one step at a time, and the gradient of that step's loss alone.


@eqx.filter_jit
def online_step(layer, carry, x, weights):
    def objective(layer):
        new, y = layer(carry, x)
        return loss(y, weights), new

    (_, new), gradient = eqx.filter_value_and_grad(objective, has_aux=True)(layer)
    return new, gradient


def online(layer, xs, weights, key=None):
    """The online gradient of the layer's cell at every step."""
    carry, steps = layer.init(key=jax.random.key(0) if key is None else key), []
    for x, *w in zip(xs, *weights, strict=True):
        carry, gradient = online_step(layer, carry, x, tuple(w))
        steps.append(named(gradient.cell))
    return {name: np.stack([step[name] for step in steps]) for name in steps[0]}


def z_scores(layer, problem, draws, seed=0):
    """Of the mean online gradient over fresh keys, against BPTT, for every step and parameter: (mean - exact) / its
    standard error. All sequences at once, one step at a time."""
    xs, weights = problem

    @eqx.filter_jit
    def mean_and_square(layer, keys):
        def one(key):
            def body(carry, now):
                def objective(layer):
                    new, y = layer(carry, now[0])
                    return loss(y, now[1:]), new

                gradient, carry = eqx.filter_grad(objective, has_aux=True)(layer)
                return carry, ravel_pytree(eqx.filter(gradient.cell, eqx.is_inexact_array))[0]

            return jax.lax.scan(body, layer.init(key=key), (xs, *weights))[1]

        drawn = jax.vmap(one)(keys)
        return drawn.mean(0), drawn.std(0, ddof=1)

    mean, spread = map(np.asarray, mean_and_square(layer, jax.random.split(jax.random.key(seed), draws)))
    exact = bptt(layer.cell, xs, weights)
    exact = np.asarray(jax.vmap(lambda g: ravel_pytree(g)[0])(eqx.filter(exact, eqx.is_inexact_array)))
    # An entry that never varies must be right to rounding.
    error = spread / math.sqrt(draws) + 1e-9 * np.abs(exact).max()
    return (mean - exact) / error


def bound(scores, error_rate=1e-6):
    """Below which all of this many normal scores stay, but for one time in `error_rate` (Bonferroni)."""
    return statistics.NormalDist().inv_cdf(1 - error_rate / (2 * scores.size))


def bptt_window(layer, xs, weights):
    """The gradient of the whole run's loss by differentiating it at once: right for `sg.BPTT` only."""

    @eqx.filter_jit
    def gradient(layer):
        def objective(layer):
            def body(carry, now):
                carry, y = layer(carry, now[0])
                return carry, loss(y, now[1])

            return jax.lax.scan(body, layer.init(key=jax.random.key(0)), (xs, weights))[1].sum()

        return eqx.filter_grad(objective)(layer).cell

    return {name: leaf[None] for name, leaf in named(gradient(layer)).items()}


def chunk(layer, xs, weights):
    """The gradient of the whole run's loss through the layer's own `unroll`."""

    @eqx.filter_jit
    @eqx.filter_grad
    def gradient(layer):
        _, ys = layer.unroll(layer.init(key=jax.random.key(0)), xs)
        return jax.vmap(loss)(ys, weights).sum()

    return {name: leaf[None] for name, leaf in named(gradient(layer).cell).items()}
