"""Is the gradient of a model exact, layer by layer, and what does it cost? Computed, never asserted."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ...optimisers._masks import untrained
from ...recurrent import Recurrent
from ...td import TDLambda
from ...train import Learner
from ._marks import marked
from ._paths import NOW, Cause, Layer, Paths, Plain, Ways, join
from ._program import Program
from ._report import (
    Explanation as Explanation,
    LayerReport as LayerReport,
    ParameterReport as ParameterReport,
    UpdateReport as UpdateReport,
    Verdict,
)
from ._rules import judge, within


def explain(model: Any, x: Any = None) -> Explanation:
    """Explain the gradients of a model: exact, unbiased, biased or unknown, layer by layer, with proof and price.

    - `model`: a `sg.Recurrent`, or any module with `init(key=)` and `(carry, x) -> (carry, y)`; or a learner
      (`sg.Learner`, `sg.td.TDLambda`), of which the update and its cost are told as well;
    - `x`: one input of one stream, a pytree of arrays (values do not matter); not needed for a single layer.

    A gradient is exact iff every path from the parameter to a prediction, now or later, is accounted for: within a
    step by differentiation, from step to step by the trace of the layer whose weights it enters, and by nothing else.
    So a layer is exact iff its algorithm is exact on its cell, its carry is handed on whole and untouched (held or
    begun anew by one condition at most), its weights do not change with the input, its old state is read by its own
    step alone, and nothing that it feeds is carried on: of a stack, only the last layer. A surrogate on the way (a
    `stop_gradient`, a feedback, a derivative written by hand that is not the true one) is no exact gradient. What
    cannot be looked into is unknown. With `sg.BPTT` somewhere, carried values pass the gradient on. All of this is
    read off the program of one step.

    Raises `ValueError` when the model has no recurrent layer, needs an x, or holds a layer whose cell was exchanged
    for one of another structure.
    """
    if isinstance(model, Learner | TDLambda):
        return _of_learner(model, x)
    layers = _layers(model)
    if not layers:
        raise ValueError(f"explain expects a model with sg.Recurrent layers, found none in {type(model).__name__}.")
    if x is None:
        if not isinstance(model, Recurrent):
            raise ValueError("explain(model, x) needs one input x of a model that is more than one layer.")
        x = jnp.zeros(model.cell.in_size)
    alone = [_alone(layer) for _, layer in layers]
    paths = [path or type(layer.cell).__name__ for path, layer in layers]
    traits = [layer.algorithm.traits(layer.cell.core()) for layer in alone]
    known = [Layer(path, trait.bias) for path, trait in zip(paths, traits, strict=True)]
    found, names, owner = _ways(model, jax.tree.map(jnp.asarray, x), known, alone)
    causes = lambda wanted: [way for way, leaves in found.items() if way != NOW and leaves & wanted]
    reports = []
    for k, layer in enumerate(alone):
        own = sum(1 << bit for bit, number in enumerate(owner) if number == k)
        theirs = [cause for cause in causes(own) if cause.kind != "algorithm" or cause.label != paths[k]]
        reports.append(_report(paths[k], paths, layer, traits[k], theirs))
    outside = [
        ParameterReport(name, _worst(spoiled), _reason(spoiled), _labels(spoiled))
        for bit, (name, number) in enumerate(zip(names, owner, strict=True))
        if number is None
        for spoiled in [causes(1 << bit)]
    ]
    return Explanation(tuple(reports), tuple(outside))


def _of_learner(learner: Learner | TDLambda, x: Any) -> Explanation:
    """Its model's gradients, and what moves the parameters."""
    if x is None:
        raise ValueError("explain(learner, x) needs one input x: the size of the predictions is read off a step.")
    model, program = learner.template, learner.program
    x = jax.tree.map(jnp.asarray, x)
    _, y = eqx.filter_eval_shape(lambda model, x: model(model.init(key=jax.random.key(0)), x), model, x)
    arrays = eqx.filter(model, eqx.is_array)
    price, size = program.price(arrays, y)
    moved = sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(arrays, program.trained)))
    fields = {**price._asdict(), "parameters": moved, "bytes": size}
    return dataclasses.replace(explain(model, x), update=UpdateReport(**fields))


def _is_layer(node) -> bool:
    return isinstance(node, Recurrent)


def _layers(model) -> list[tuple[str, Recurrent]]:
    nodes = jax.tree_util.tree_leaves_with_path(model, is_leaf=_is_layer)
    return [(_name(path), node) for path, node in nodes if _is_layer(node)]


def _name(path) -> str:
    return jax.tree_util.keystr(path).lstrip(".")


def _alone(layer: Recurrent) -> Recurrent:
    """One of the layers that are stacked along leading axes, if they are."""
    first = lambda leaf: leaf[(0,) * layer.plan.extra(layer.cell)] if eqx.is_array(leaf) else leaf
    alone = jax.tree.map(first, layer)
    alone.plan.check(alone.cell, alone.cell.core())
    return alone


def _ways(model, x, known: list[Layer], alone: list[Recurrent]) -> tuple[Ways, list[str], list[int | None]]:
    """By which ways the prediction depends on which trained leaves; their names, and the layer that each is of."""
    windowed = any(layer.algorithm.credit == "carry" for _, layer in _layers(model))
    steps, tags = marked(model)
    parameters, rest = eqx.partition(steps, eqx.is_inexact_array)
    leaves, treedef = jax.tree.flatten(parameters)
    trained = [not fixed for fixed in jax.tree.leaves(untrained(parameters))]
    arrays, fixed = eqx.partition(model.init(key=jax.random.key(0)), eqx.is_array)
    old, carry_def = jax.tree.flatten(arrays)
    placed, x_def = jax.tree.flatten(x)
    whole = lambda leaves: eqx.combine(jax.tree.unflatten(treedef, leaves), rest)
    flat = lambda tree: jax.tree.leaves(eqx.filter(tree, eqx.is_array))

    def step(leaves, old, x):
        carry = eqx.combine(jax.tree.unflatten(carry_def, old), fixed)
        new, y = whole(leaves)(carry, jax.tree.unflatten(x_def, x))
        if jax.tree.structure(new) != jax.tree.structure(carry):
            raise TypeError("explain: the model returned a carry of another structure than init(key=...) gave.")
        return flat(new), flat(y)

    begin = lambda leaves: flat(whole(leaves).init(key=jax.random.key(0)))
    first = lambda program: [node for node, own in zip(program.inputs, trained, strict=False) if own]
    beginning = Program(jax.make_jaxpr(begin)(leaves))
    of_leaves = iter([{NOW: 1 << bit} for bit in range(sum(trained))])
    start = Plain(judge).run(beginning, [next(of_leaves) if own else {} for own in trained])

    program = Program(jax.make_jaxpr(step)(leaves, old, placed))
    a, b = len(leaves), len(leaves) + len(old)
    carried = program.inputs[a:b]
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(arrays)]
    paths = Paths(
        program,
        leaves=first(program),
        xs=program.inputs[b:],
        old=carried,
        new=program.outputs[: len(old)],
        names=names,
        start=start,
        layers=dict(zip(tags, known, strict=True)),
        windowed=windowed,
        judge=judge,
    )
    fresh = [jax.tree.leaves(layer.init(key=jax.random.key(0)).trace) for layer in alone]
    begun = paths.begun(dict(zip(carried, old, strict=True)), dict(zip(tags, fresh, strict=True)))
    found = join(paths.at(program.outputs[len(old) :]), begun)
    if program.mutable:
        hidden = Cause("mutable", "mutable arrays", "arrays that the model changes in place", "unknown")
        found = join(found, {hidden: (1 << sum(trained)) - 1})
    told, owner = _of_layers(model)
    keep = lambda values: [value for value, own in zip(values, trained, strict=True) if own]
    return found, keep(told), keep(owner)


def _of_layers(model) -> tuple[list[str], list[int | None]]:
    """The name of each inexact array of a model, and the number of the layer that it is of."""
    names, owner, number = [], [], 0
    for path, node in jax.tree_util.tree_leaves_with_path(model, is_leaf=_is_layer):
        inside = jax.tree_util.tree_leaves_with_path(eqx.filter(node, eqx.is_inexact_array))
        names += [_name((*path, *own)) for own, _ in inside]
        owner += [number if _is_layer(node) else None] * len(inside)
        number += _is_layer(node)
    return names, owner


def _report(path, paths, layer, traits, causes) -> LayerReport:
    gradient, reason = traits.bias, traits.reason
    core, state = layer.cell.core(), layer.cell.init_state()
    smooth, still = eqx.partition(core, eqx.is_inexact_array)
    step = lambda smooth, state, x: eqx.combine(smooth, still)(state, x)
    inner = within(path, step, smooth, state, jnp.zeros(layer.cell.in_size))
    causes = causes if inner is None else [inner, *causes]
    spoiled = _worst(causes)
    if gradient != "biased" and spoiled != "exact":
        reason = f"the algorithm is {gradient} ({reason}), but {_reason(causes)}"
        gradient = spoiled
        if any(cause.kind == "carried" and cause.label in paths for cause in causes):
            reason += "; one sg.cells.Chain of the cells learns them jointly"
    elif gradient == "exact":
        reason += "; its output reaches no carried state whose past gets no gradient"
    return LayerReport(
        path=path,
        cell=_cell_text(layer.cell),
        algorithm=_algorithm_text(layer.algorithm),
        gradient=gradient,
        reason=reason,
        feeds=_labels(causes),
        traits=traits,
        layer=layer,
    )


def _worst(causes) -> Verdict:
    """What is left of an exact gradient."""
    order: list[Verdict] = ["biased", "unknown", "unbiased", "exact"]
    return next(verdict for verdict in order if verdict == "exact" or any(c.verdict == verdict for c in causes))


def _reason(causes) -> str:
    """The paths in words."""
    if not causes:
        return "every path to the prediction is accounted for"
    carried = " and ".join(sorted(cause.label for cause in causes if cause.kind == "carried"))
    lost = [f"{carried}, whose past gets no gradient"] if carried else []
    others = sorted(cause.text for cause in causes if cause.kind != "carried")
    return "its gradient goes through " + "; and through ".join([*lost, *others])


def _labels(causes) -> tuple[str, ...]:
    """Where the paths are lost: the carried values, and what else there is when there are none."""
    carried = [cause for cause in causes if cause.kind == "carried"]
    return tuple(dict.fromkeys(cause.label for cause in carried or causes))


def _cell_text(cell) -> str:
    units = cell.core().structure.units
    size = f"{cell.in_size} -> {cell.out_size}" + (f", {units} units" if units != cell.out_size else "")
    wiring = getattr(cell, "wiring", None)
    return f"{type(cell).__name__} {size}" + (f", {wiring}" if wiring is not None and cell.weight_h is not None else "")


def _algorithm_text(algorithm) -> str:
    """Its name, the numbers that it was given, and words other than its defaults."""
    given = {field: getattr(algorithm, field.name) for field in dataclasses.fields(algorithm) if field.repr}
    told = lambda field, value: isinstance(value, int | float) or (isinstance(value, str) and value != field.default)
    numbers = ", ".join(f"{field.name}={value!r}" for field, value in given.items() if told(field, value))
    return type(algorithm).__name__ + (f"({numbers})" if numbers else "")
