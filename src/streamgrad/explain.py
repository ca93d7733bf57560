"""Is the gradient of a model exact, layer by layer, and what does it cost? Computed, never asserted."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from ._cost import Cost, table
from ._dependence import dependence
from ._memory import untrained
from .algorithms import Carry, Traits
from .recurrent import Recurrent


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """One recurrent layer within its model.

    - `path`: where it stands in the model; `cell`, `algorithm`: in a few words;
    - `gradient`: `"exact"`, `"unbiased"` or `"biased"`, for frozen weights; `reason`: the proof or the cause;
    - `feeds`: the carried values that it reaches and where the gradient stops;
    - `traits`: of the algorithm on the cell alone; `costs`: its cell under other methods.
    """

    path: str
    cell: str
    algorithm: str
    gradient: str
    reason: str
    feeds: tuple[str, ...]
    traits: Traits
    costs: tuple[Cost, ...]


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What `explain` found: `layers`, and for the parameters outside of them the layers that they feed
    (`others`: path -> layers; their gradient is exact iff they feed none). Printing it gives the tables."""

    layers: tuple[LayerReport, ...]
    others: dict[str, tuple[str, ...]]

    @property
    def exact(self) -> bool:
        """Whether every parameter of the model gets its exact gradient."""
        return all(layer.gradient == "exact" for layer in self.layers) and not any(self.others.values())

    def __str__(self) -> str:
        return "\n".join([*map(_layer_text, self.layers), *_others_text(self.others)])


class _Tapped(Recurrent):
    """A layer with its output and its state marked by zeros, so that a program shows where they go. When the
    model is run as it is, `log` collects the states, so that they are known again in the carry."""

    on_output: Any = None
    on_state: Any = None
    log: Any = None

    def __init__(self, layer: Recurrent, on_output, on_state, log=None):
        self.cell, self.algorithm = layer.cell, layer.algorithm
        self.on_output, self.on_state, self.log = on_output, on_state, log

    def __call__(self, carry, x, *, context=None):
        carry, y = super().__call__(carry, x, context=context)
        mark = lambda leaf: leaf + self.on_state.astype(leaf.dtype)
        state = jax.tree.map(mark, carry.state)
        if self.log is not None:
            self.log(jax.tree.leaves(state))
        return Carry(state, carry.trace), y + self.on_output.astype(y.dtype)


def explain(model: Any, x: Any = None) -> Explanation:
    """Explain the gradients of a model: exact, unbiased or biased layer by layer, with proof and price.

    - `model`: a `sg.Recurrent`, or any module with `init(key=)` and `(carry, x) -> (carry, y)`;
    - `x`: one input (values do not matter); not needed for a single layer.

    A layer is exact iff its algorithm is exact on its cell *and* neither its output nor its state reaches any
    carried value whose gradient stops there, its own by feedback included: of a stack, only the last layer. A
    value that BPTT carries passes the gradient on. Parameters outside of the layers are exact iff they reach
    no such value. All of this is read off the program of one step.

    Raises `ValueError` when the model has no recurrent layer, or needs an x.
    """
    layers = _layers(model)
    if not layers:
        raise ValueError(f"explain expects a model with sg.Recurrent layers, found none in {type(model).__name__}.")
    if x is None:
        if not isinstance(model, Recurrent):
            raise ValueError("explain(model, x) needs one input x of a model that is more than one layer.")
        x = jnp.zeros(model.cell.in_size)
    paths = [_path(*layer) for layer in layers]
    feeds, others = _feeds(model, jnp.asarray(x), layers)
    reports = [_report(path, layer, fed) for path, (_, layer), fed in zip(paths, layers, feeds, strict=True)]
    return Explanation(tuple(reports), others)


def _layers(model) -> list[tuple[str, Recurrent]]:
    is_layer = lambda node: isinstance(node, Recurrent)
    nodes = jax.tree_util.tree_leaves_with_path(model, is_leaf=is_layer)
    return [(_name(path), node) for path, node in nodes if is_layer(node)]


def _path(path: str, layer: Recurrent) -> str:
    return path or type(layer.cell).__name__


def _name(path) -> str:
    return jax.tree_util.keystr(path).lstrip(".")


def _feeds(model, x, layers):
    """For each layer, and for each parameter outside of them, the carried values it reaches where the gradient
    stops, by name."""
    is_layer = lambda node: isinstance(node, Recurrent)
    outside = jax.tree.map(lambda node: None if is_layer(node) else node, model, is_leaf=is_layer)
    named = jax.tree_util.tree_leaves_with_path(eqx.filter(outside, eqx.is_inexact_array))
    by_gradient = jax.tree.leaves(
        jax.tree.map(lambda own: not own, untrained(eqx.filter(outside, eqx.is_inexact_array)))
    )
    parameters, rest = eqx.partition(outside, eqx.is_inexact_array)
    leaves, treedef = jax.tree.flatten(parameters)
    carry = model.init(key=jax.random.key(0))
    arrays, fixed = eqx.partition(carry, eqx.is_array)
    old, carry_def = jax.tree.flatten(arrays)
    count = len(layers)

    def step(marks_y, marks_s, leaves, old, log=None):
        logs = [log and functools.partial(log, k) for k in range(count)]
        tapped = iter(_Tapped(layer, *m) for (_, layer), *m in zip(layers, marks_y, marks_s, logs, strict=True))
        changed = _like(eqx.combine(jax.tree.unflatten(treedef, leaves), rest), model)
        place = lambda node, plain: next(tapped) if is_layer(node) else plain
        whole = jax.tree.map(place, model, changed, is_leaf=is_layer)
        new, y = whole(eqx.combine(jax.tree.unflatten(carry_def, old), fixed), x)
        return jax.tree.leaves(eqx.filter(new, eqx.is_array)), jax.tree.leaves(y)

    zeros = [jnp.zeros(())] * count
    program = jax.make_jaxpr(step)(zeros, zeros, leaves, old).jaxpr
    every = np.asarray(dependence(program))
    smooth = np.asarray(dependence(program, by_gradient=True))
    on_y, on_s = slice(0, count), slice(count, 2 * count)
    on_parameters = slice(2 * count, 2 * count + len(leaves))
    on_old = slice(2 * count + len(leaves), None)
    n = len(old)

    # A carried value matters if the prediction, or another value that matters, depends on it.
    matters = np.asarray(every[n:, on_old].any(0))
    for _ in range(n):
        matters = np.asarray(matters | every[:n, on_old][matters].any(0))
    owner = _owners(lambda values, log: step(zeros, zeros, leaves, values, log)[0], old, every[:n, on_s])
    credits = [layer.algorithm.credit for _, layer in layers]
    windowed = "carry" in credits
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(arrays)]
    paths = [_path(*layer) for layer in layers]
    named_owner = lambda k: f"carry{names[k]}" if (o := owner[k]) is None else paths[o]

    def stops(start: np.ndarray, but: int | None = None) -> tuple[str, ...]:
        """Where the gradient stops, from the carried values of `start` on, through those that pass it on."""
        waiting = [k for k in range(n) if start[k] and matters[k] and (owner[k] is None or owner[k] != but)]
        seen: set[int] = set()
        found: dict[str, None] = {}
        while waiting:
            k = waiting.pop(0)
            if k in seen:
                continue
            seen.add(k)
            if windowed and ((o := owner[k]) is None or credits[o] == "carry"):
                waiting += [j for j in range(n) if smooth[j, on_old][k] and matters[j]]
            else:
                found[named_owner(k)] = None
        return tuple(found)

    feeds = []
    for k in range(count):
        own = [j for j in range(n) if owner[j] == k]
        by_output, by_state = smooth[:n, on_y][:, k], smooth[:n, on_s][:, k]
        if credits[k] == "carry":
            feeds.append(stops(by_output | by_state))
        else:  # the trace accounts for the path from state to state within the layer, and for no other
            read_later = np.asarray(smooth[:n, on_old][:, own].any(1))
            within = stops(np.asarray(by_state), but=k)
            feeds.append(tuple(dict.fromkeys((*stops(np.asarray(by_output | read_later)), *within))))
    on_outside = smooth[:n, on_parameters]
    others = {_name(path): stops(on_outside[:, p]) for p, (path, _) in enumerate(named) if by_gradient[p]}
    return feeds, others


def _owners(run, old, marks) -> list[int | None]:
    """The layer whose new state each carried value is, untouched; None for any other value.

    Found by running one step from random values; where the model compiles its step by itself, by the marks
    that reach a value."""
    rng = np.random.default_rng(0)
    noise = lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype) if eqx.is_inexact_array(a) else a
    states: list[tuple[int, Any]] = []
    new = run([noise(leaf) for leaf in old], lambda k, leaves: states.extend((k, leaf) for leaf in leaves))
    if not states or any(isinstance(leaf, jax.core.Tracer) for _, leaf in states):
        return [int(row.argmax()) if row.any() else None for row in marks]
    same = lambda a, b: a.shape == b.shape and a.dtype == b.dtype and bool(jnp.array_equal(a, b))
    return [next((k for k, state in states if eqx.is_inexact_array(v) and same(v, state)), None) for v in new]


def _like(changed, model):
    """`changed` with the model's tree: layers stand where they stood."""
    is_layer = lambda node: isinstance(node, Recurrent)
    fill = lambda node, plain: node if is_layer(node) else plain
    return jax.tree.map(fill, model, changed, is_leaf=lambda node: is_layer(node) or node is None)


def _report(path, layer, feeds) -> LayerReport:
    traits = layer.algorithm.traits(layer.cell.core())
    gradient, reason = traits.bias, traits.reason
    if feeds and gradient != "biased":
        gradient = "biased"
        reason = (
            f"the algorithm is {traits.bias} ({traits.reason}), but the layer's output or state reaches "
            f"{', '.join(feeds)}, whose past gets no gradient; one sg.cells.Chain of the cells learns them jointly"
        )
    elif gradient == "exact":
        reason += "; its output reaches no carried state whose past gets no gradient"
    return LayerReport(
        path=path,
        cell=_cell_text(layer.cell),
        algorithm=_algorithm_text(layer.algorithm),
        gradient=gradient,
        reason=reason,
        feeds=feeds,
        traits=traits,
        costs=tuple(table(layer)),
    )


def _cell_text(cell) -> str:
    units = cell.core().structure.units
    size = f"{cell.in_size} -> {cell.out_size}" + (f", {units} units" if units != cell.out_size else "")
    wiring = getattr(cell, "wiring", None)
    return f"{type(cell).__name__} {size}" + (f", {wiring}" if wiring is not None and cell.weight_h is not None else "")


def _algorithm_text(algorithm) -> str:
    """Its name and the numbers that it was given."""
    given = {field.name: getattr(algorithm, field.name) for field in dataclasses.fields(algorithm) if field.repr}
    numbers = ", ".join(f"{name}={value}" for name, value in given.items() if isinstance(value, int | float))
    return type(algorithm).__name__ + (f"({numbers})" if numbers else "")


def _layer_text(layer: LayerReport) -> str:
    traits = layer.traits
    lines = [
        f"{layer.path}: {layer.cell}; {layer.algorithm}",
        f"  gradient   {layer.gradient}: {layer.reason}.",
        f"  influence  {traits.kept:,} numbers for {traits.full:,} entries of J; {_bytes(traits.bytes)} allocated, "
        f"{_bytes(traits.temporaries)} beside it for an update ({traits.layout})",
        "",
        f"  {'method':<18}{'entries kept':>16}{'memory':>12}{'FLOPs a step':>16}{'density of J':>14}  exact",
    ]
    for cost in layer.costs:
        density = "" if cost.density is None else f"{100 * cost.density:.3g}%"
        counted = f"{cost.entries:>16,}{_bytes(cost.bytes):>12}{cost.flops:>16,}{density:>14}"
        lines.append(f"  {cost.method:<18}{counted}  {cost.exact}")
    return "\n".join([*lines, ""])


def _others_text(others) -> list[str]:
    together: dict[tuple[str, ...], list[str]] = {}
    for name, reached in others.items():
        together.setdefault(reached, []).append(name)
    lines = []
    for reached, names in together.items():
        if not reached:
            lines.append(f"outside the layers, exact: {', '.join(names)}.")
        else:
            one = len(names) == 1
            lines.append(
                f"outside the layers, biased: {', '.join(names)} {'reaches' if one else 'reach'} the state of "
                f"{', '.join(reached)} and get{'s' * one} credit through the present step alone."
            )
    return sorted(lines, key=lambda line: "exact" not in line)


def _bytes(count: int | float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    raise AssertionError
