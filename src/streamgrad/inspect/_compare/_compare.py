"""`sg.compare`: all algorithms on the user's own cell and data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PRNGKeyArray

from ... import losses
from ...algorithms import NAMED, Algorithm, algorithm
from ...cells import Cell
from ...nn import Sequential
from ...readout import Readout
from ...recurrent import Recurrent
from ._comparison import Comparison, Row
from ._gradients import beside, online, through_time
from ._learning import Linear, in_turn, last_target, learner

#: What is always there: no credit through time, no learning of the recurrence. And the ceilings.
MARKS = ("Spatial", "Frozen")
FLOORS = ("LMS on the input", "RLS on the input", "last target")


def compare(
    cell: Cell | Callable[[PRNGKeyArray], Cell],
    algorithms: Mapping[str, Algorithm] | None,
    xs: Any,
    targets: Any = None,
    *,
    key: PRNGKeyArray,
    loss: Callable = losses.mse,
    optimiser: Callable[[float], optax.GradientTransformation] = optax.adam,
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2),
    seeds: int = 3,
    steps: int = 64,
    window: int = 32,
    progress: Callable[[str], None] = lambda what: None,
) -> Comparison:
    """Compare algorithms on one cell and one stream: gradient, bytes, time and learning.

    - `cell`: a cell, whose weights every seed begins with, or a function of a key that makes one, asked once for each
      seed; a linear readout is put on it, drawn for each seed;
    - `algorithms`: by name; None: all of the library. Added are `Spatial` and `Frozen`, and as ceilings `BPTT`, which
      has the exact gradient but one update in `window` steps, and `TBPTT(window)`, with one at every step;
    - `xs`: inputs (time, in_size); `targets`: (time, out_size) floats, or (time,) integers with a loss for them; None:
      the next input. Missing ones are NaN (integers: negative). Normalise them yourself: all learners see the same;
    - `loss(prediction, target) -> scalar`;
    - `optimiser(rate)`: for all learners, `rates` to choose from, for each learner the one with the least mean late
      loss over seeds; the loss of the later half of the stream is reported (predict, then learn, once through);
    - `steps`: of the gradients, with frozen weights: the sum of the online ones against BPTT's through all of them,
      every seed on a stretch of its own of xs;
    - `window`: steps of BPTT's updates in learning, one for each window, where all others have one at each step;
    - `progress`: called with a line of text before each part of the work.

    Algorithms that learn leaves of their own (DNI, KeRNL) begin knowing nothing: they have no gradient in the table.
    Time is that of a whole step of learning, the median over seeds and rates, in which all learners take turns.

    Floors: the target before (for floats), LMS and RLS on the present input. An algorithm that does not fit the cell is
    listed with the reason. Everything follows from `key`.

    Raises `TypeError` for anything but a cell or a function that makes one, and for algorithms or an optimiser of
    another kind; `ValueError` for a stream that is too short, does not fit or is not finite, for numbers out of range,
    and for a name that is taken."""
    _check(algorithms, optimiser, rates, seeds=seeds, steps=steps, window=window)
    make_cell: Any = cell if callable(cell) and not isinstance(cell, Cell) else lambda key: cell
    keys = jax.random.split(key, seeds)
    example = _example(make_cell, keys[0])
    xs, targets = _stream(example, xs, targets, steps)
    outs = int(targets.max()) + 1 if targets.ndim == 1 else targets.shape[1]
    marks = {name: algorithm(name) for name in (*MARKS, f"TBPTT-{window}", "BPTT")}
    named = {name: make() for name, make in NAMED.items()} if algorithms is None else dict(algorithms)
    rules = {name: rule for name, rule in named.items() if name not in marks} | marks

    def make(key, rule):
        key_cell, key_out = jax.random.split(key)
        made = make_cell(key_cell)
        return Sequential((Recurrent(made, rule), Readout(made.out_size, outs, key=key_out)))

    bound, refused = {}, []
    for name, rule in rules.items():
        try:
            bound[name] = Recurrent(example, rule).algorithm
        except (TypeError, ValueError) as refusal:
            refused.append(Row(name, refused=str(refusal)))

    starts = np.linspace(0, len(xs) - steps, seeds).astype(int)
    stretches = [(key, xs[s : s + steps], targets[s : s + steps]) for key, s in zip(keys, starts, strict=True)]
    exact, found = through_time(make, loss), {}
    want = [exact(*stretch) for stretch in stretches]
    for name, rule in bound.items():
        if rule.learns:
            found[name] = None
            continue
        progress(f"gradient of {name}")
        run = exact if rule.credit == "carry" else online(make, rules[name], loss)
        found[name] = beside([run(*stretch) for stretch in stretches], want)

    def learner_of(name):
        every = window if bound[name].credit == "carry" else 1
        return learner(lambda key: make(key, rules[name]), optimiser, loss, every)

    runs = in_turn({name: learner_of(name) for name in bound}, rates, keys, xs, targets, progress)
    rows = []
    for name, rule in bound.items():
        best, traits = runs[name].best(), rule.traits(example.core())
        row = Row(name, traits.bias, found[name], traits.bytes, runs[name].time(), best.losses, best.rate, best.edge)
        rows.append(row)
    floors = [] if targets.ndim == 1 else _floors(optimiser, rates, loss, keys, xs, targets, progress)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(example, eqx.is_inexact_array)))
    return Comparison(
        cell=f"{type(example).__name__}, {example.core().structure.units} units, {parameters:,} parameters",
        conditions=f"{len(xs):,} steps, {seeds} seeds; gradients over {steps} steps; late loss: of the last half; "
        f"rates {', '.join(f'{rate:g}' for rate in rates)}; BPTT updates every {window} steps",
        rows=(*rows, *floors, *refused),
    )


def _floors(optimiser, rates, loss, keys, xs, targets, progress) -> list[Row]:
    """What any net should beat: linear in the present input, and the target before."""
    rows = []
    for kind, title, tried in (("LMS", FLOORS[0], rates), ("RLS", FLOORS[1], rates[:1])):
        make = lambda key, kind=kind: Linear(xs.shape[1], targets.shape[1], kind, key)
        runs = in_turn({kind: learner(make, optimiser, loss)}, tried, keys, xs, targets, progress)[kind]
        best = runs.best()
        rate = best.rate if kind == "LMS" else None  # least squares have none
        row = Row(title, microseconds=runs.time(), losses=best.losses, rate=rate, edge=best.edge)
        rows.append(row)
    return [*rows, Row(FLOORS[2], losses=(last_target(loss, targets),))]


def _check(algorithms: Any, optimiser: Any, rates: Any, **counts: Any) -> None:
    """Refuse early what could not be meant."""
    for name, count in counts.items():
        least = 2 if name == "window" else 1
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise ValueError(f"{name} must be an integer >= {least}, got {count!r}.")
    if not isinstance(rates, tuple | list) or not rates or not all(0 < rate < math.inf for rate in rates):
        raise ValueError(f"rates are a tuple of at least one positive learning rate, got {rates!r}.")
    if isinstance(optimiser, optax.GradientTransformation) or not callable(optimiser):
        raise TypeError(f"optimiser is a function of the rate, such as optax.adam, got {optimiser!r}.")
    if algorithms is None:
        return
    if not isinstance(algorithms, Mapping):
        raise TypeError(f'algorithms are given by name, such as {{"SnAp-1": sg.SnAp(1)}}, or None, got {algorithms!r}.')
    for name, rule in algorithms.items():
        if not isinstance(rule, Algorithm):
            raise TypeError(f"algorithm {name!r} must be one such as sg.SnAp(1), got {rule!r}.")
        ours = {*MARKS, *FLOORS, "BPTT", f"TBPTT-{counts['window']}"}
        if name in ours and (name in FLOORS or rule != algorithm(name)):
            raise ValueError(f"the name {name!r} is taken by a row that is always there: choose another.")


def _example(make_cell: Callable, key: PRNGKeyArray) -> Cell:
    try:
        example = make_cell(key)
    except TypeError as error:
        raise TypeError(
            f"compare expects a cell, or a function of a key that makes one, such as lambda key: sg.cells.GRU(8, 32, "
            f"key=key); called with a key, this one says: {error}"
        ) from None
    if not isinstance(example, Cell):
        raise TypeError(f"compare expects a cell such as sg.cells.GRU(...), or a function of a key, got {example!r}.")
    return example


def _stream(cell: Cell, xs: Any, targets: Any, steps: int) -> tuple[Any, Any]:
    xs = jnp.asarray(xs, jnp.result_type(float))
    if xs.ndim != 2 or xs.shape[1] != cell.in_size:
        raise ValueError(f"compare expects inputs of shape (time, {cell.in_size}), got {xs.shape}.")
    if targets is None:
        xs, targets = xs[:-1], xs[1:]
    targets = jnp.asarray(targets)
    if jnp.issubdtype(targets.dtype, jnp.floating) or targets.ndim == 2:
        targets = targets.astype(xs.dtype)
    if len(targets) != len(xs) or targets.ndim not in (1, 2):
        raise ValueError(f"compare expects targets (time, out) or (time,) for {len(xs)} inputs, got {targets.shape}.")
    if not np.isfinite(xs).all():
        bad = int(np.argmin(np.isfinite(xs).all(axis=1)))
        raise ValueError(
            f"compare expects finite inputs, got {xs[bad]} at step {bad}: fill gaps, and say so by an input."
        )
    if targets.ndim == 1 and not jnp.issubdtype(targets.dtype, jnp.integer):
        raise ValueError(f"Targets of shape (time,) are integers, got {targets.dtype}: one float target is (time, 1).")
    if len(xs) < 2 * steps:
        raise ValueError(
            f"compare needs at least {2 * steps} steps to take gradients over {steps}, got {len(xs)}: give a longer "
            "stream, or fewer steps."
        )
    return xs, targets
