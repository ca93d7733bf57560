"""Columns with sparse links: how far the gradient of SnAp-1 is from the true one."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ...algorithms import RTRL, Algorithm, SnAp
from ...cells import Cell, FeatureColumns
from ...meta import LMS
from ...recurrent import Recurrent
from ...wiring import Columns, Dense, Sparse
from ._experiment import Experiment, Recorder, Row, Trial
from ._settings import at_least, some

Loss = Callable[[Array, Array], Array]
Memory = Literal["integrator", "gated", "none"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Columns with sparse links."""

    memory: tuple[Memory, ...] = ("integrator", "gated")
    """How a column keeps its state h: integrator, h + i, as the published code has it, so that what one column hears
    of another is never forgotten; gated, f h + i, as the paper has it; none, i."""
    beds: tuple[Literal["recurrent", "meta"], ...] = ("recurrent", "meta")
    """recurrent: a fixed random readout of the columns; meta: a readout that LMS learns."""
    links: tuple[float, ...] = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)
    """s: links that a gate has on average, as a multiple of the features of a column."""
    dense: bool = True
    """Whether to look at the network with every link there is, too."""
    columns: int = 20
    """n."""
    features: int = 5
    """m, private features of each column."""
    inputs: int = 50
    """Inputs, each 0 or 1 with equal chance."""
    steps: int = 50
    """Steps over which the gradient is summed; the parameters of the columns stay as they are."""
    target: float = 50.0
    """Targets are uniform within plus and minus this."""
    step_size: float = 1e-3
    """α of LMS."""
    scale: float = 1.0
    """Initial weights are uniform within plus and minus this / √fan-in (of a gate: m and the most links that any has);
    biases are 0. With √3, as `FeatureColumns` has it, one of 30 dense networks explodes: states reach 37, and LMS
    diverges."""
    seeds: int = 30
    """Repetitions: other weights, links, inputs and targets; all together."""

    def __post_init__(self):
        some(self, "memory", "beds")
        at_least(0, self, "links")
        at_least(1, self, "columns", "features", "inputs", "steps", "seeds")
        if not (self.links or self.dense):
            raise ValueError("links must name at least one, got none and not dense.")
        for name in ("step_size", "scale"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")

    @property
    def sources(self) -> int:
        """What a gate of a column could be linked to: the features of the others, and all states."""
        return self.features * (self.columns - 1) + self.columns


def network(settings: Settings, memory: Memory, s: float | str, seed: int) -> FeatureColumns:
    """The columns of one seed; `s` as in `links`, or "dense". The weights are the same for every memory."""
    wiring = Dense()
    if not isinstance(s, str) and (density := s * settings.features / settings.sources) < 1:
        wiring = Sparse(density=density, counts="drawn", seed=seed) if s else Columns()
    key = jax.random.fold_in(jax.random.key(seed), 0)
    sizes = (settings.inputs, settings.columns)
    cell = FeatureColumns(*sizes, features=settings.features, wiring=wiring, memory=memory, key=key)
    times = settings.scale / 3**0.5  # the cell's own weights are within √(3 / fan-in)
    return jax.tree.map(lambda leaf: times * leaf if eqx.is_inexact_array(leaf) else leaf, cell)


_OTHERS = ("first", "first_bias", "second", "second_bias", "own", "bias")


def among_all_links(cell: FeatureColumns, whole: FeatureColumns) -> tuple[FeatureColumns, FeatureColumns]:
    """The network `cell` within `whole`, one of the same sizes with every link: what it has no link to, it hears with
    weight 0. And which parameters `cell` has: `whole` with True or False for each number. So networks with different
    links are one program."""
    of, among = cell.index.value, whole.index.value
    links, there = np.zeros(among.shape, whole.links.dtype), np.zeros(among.shape, bool)
    for gate, k in np.ndindex(*among.shape[1:]):
        heard = np.isin(of[:, gate, k], among[:, gate, k])  # the rest is padding
        rows = np.searchsorted(among[:, gate, k], of[heard, gate, k])
        links[rows, gate, k], there[rows, gate, k] = np.asarray(cell.links)[heard, gate, k], True
    parts = lambda c: [c.links, *(getattr(c, name) for name in _OTHERS)]
    put = lambda new, others: eqx.tree_at(parts, whole, [jnp.asarray(new), *others])
    others = parts(cell)[1:]
    return put(links, others), put(there, [jnp.ones(leaf.shape, bool) for leaf in others])


def online(cell: Cell, algorithm: Algorithm, loss: Loss, xs: Array, ys: Array) -> Cell:
    """The sum of the online gradients of all steps."""
    layer = Recurrent(cell, algorithm)

    def step(before, now):
        carry, total = before
        x, y = now

        def of(layer):
            new, shown = layer(carry, x)
            return loss(shown, y), new

        gradient, carry = eqx.filter_grad(of, has_aux=True)(layer)
        return (carry, jax.tree.map(jnp.add, total, gradient.cell)), None

    zeros = jax.tree.map(jnp.zeros_like, eqx.filter(cell, eqx.is_inexact_array))
    return jax.lax.scan(step, (layer.init(key=jax.random.key(0)), zeros), (xs, ys))[0][1]


def through_time(cell: Cell, weights: Array, step_size: float, xs: Array, ys: Array) -> Cell:
    """The gradient of the sum of half the squared errors through all of the past, that of the readout weights, too:
    LMS with this step size. Written out, so that it does not depend on what it is there to check."""

    def total(cell):
        def step(before, now):
            (state, weights), (x, y) = before, now
            state = cell(state, x)
            h = cell.output(state, x)
            error = y - jnp.dot(weights, h)
            return (state, weights + step_size * error * h), jnp.square(error) / 2

        return jnp.sum(jax.lax.scan(step, (cell.init_state(), weights), (xs, ys))[1])

    return eqx.filter_grad(total)(cell)


def compared(estimate: Any, exact: Any, there: Any) -> dict[str, Array]:
    """How close an estimate of a gradient is to the exact one, over the parameters that are there."""
    flat = lambda tree: jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])
    leaves = [eqx.filter(tree, eqx.is_array) for tree in (estimate, exact, there)]
    g, true, there = (flat(leaf) for leaf in leaves)
    g, true = jnp.where(there, g, 0), jnp.where(there, true, 0)
    norm = jnp.linalg.norm
    return {
        "same_sign": jnp.mean(g * true > 0, where=jnp.abs(g * true) > 1e-10),
        "cosine": jnp.sum(g * true) / (norm(g) * norm(true)),
        "difference": jnp.mean(jnp.abs(g - true), where=there),
        "error": norm(g - true) / norm(true),
    }


#: What is compared with the exact gradient on each test-bed.
_ESTIMATES: dict[str, dict[str, Algorithm]] = {
    "recurrent": {"SnAp-1": SnAp(1)},
    "meta": {"SnAp-1": SnAp(1), "RTRL": RTRL()},
}


@eqx.filter_jit
def _compare_all(bed, step_size, cells, there, readouts, xs, ys):
    """Every measure of every estimate, by seed. A loop over seeds: the exact influences of all at once are slower."""

    def one(of_seed):
        parameters, there, readout, xs, ys = of_seed
        cell = eqx.combine(parameters, fixed)
        if bed == "meta":
            exact = through_time(cell, jnp.zeros_like(readout), step_size, xs, ys)
            cell, xs = LMS(cell, step_size=step_size), jnp.concatenate([xs, ys[:, None]], axis=1)
            loss = lambda shown, y: jnp.square(y - shown[0]) / 2
        else:
            exact = through_time(cell, readout, 0.0, xs, ys)
            loss = lambda h, y: jnp.square(y - jnp.dot(readout, h)) / 2
        return {
            name: compared(online(cell, algorithm, loss, xs, ys), exact, there)
            for name, algorithm in _ESTIMATES[bed].items()
        }

    parameters, fixed = eqx.partition(cells, eqx.is_inexact_array)
    return jax.lax.map(one, (parameters, there, readouts, xs, ys))


def run(settings: Settings, memory: Memory, bed: str, s: float | str, recorder: Recorder) -> None:
    """One test-bed with so many links, all seeds."""
    whole = network(settings, memory, "dense", 0)
    drawn = [_problem(settings, memory, s, seed, whole) for seed in range(settings.seeds)]
    cells, there, *data = jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn)
    found = _compare_all(bed, settings.step_size, cells, eqx.filter(there, eqx.is_array), *data)
    for credit, values in jax.device_get(found).items():
        for seed in range(settings.seeds):
            of_seed = {name: float(value[seed]) for name, value in values.items()}
            recorder.write(seed, settings.steps, "end", final=True, credit=credit, **of_seed)


def _problem(settings: Settings, memory: Memory, s: float | str, seed: int, whole: FeatureColumns):
    """A network, which parameters it has, a readout, inputs and targets: the data are the same for every s."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1), 3)
    dtype = whole.bias.dtype
    bound = (3 / settings.columns) ** 0.5
    readout = jax.random.uniform(keys[0], (settings.columns,), dtype, -bound, bound)
    xs = jax.random.bernoulli(keys[1], shape=(settings.steps, settings.inputs)).astype(dtype)
    ys = jax.random.uniform(keys[2], (settings.steps,), dtype, -settings.target, settings.target)
    return *among_all_links(network(settings, memory, s, seed), whole), readout, xs, ys


def _trials(settings: Settings, rows: list[Row]) -> Iterator[Trial]:
    del rows
    densities = (*settings.links, *(["dense"] if settings.dense else []))
    for memory, bed, s in itertools.product(settings.memory, settings.beds, densities):
        variant = {"memory": memory, "test-bed": bed, "s": s}
        yield Trial(variant, functools.partial(run, settings, memory, bed, s))


def _views(settings: Settings) -> list[dict[str, Any]]:
    most = settings.sources / settings.features
    note = (
        f"s is the mean number of links of a gate, as a multiple of the {settings.features} features of a column. "
        f"dense: every link, s = {most:g}; a larger s is cut to that."
    )
    shared = {"view": "against", "x": "s", "by": ["memory", "test-bed", "credit"], "split": "end", "note": note}
    return [
        {
            "view": "table",
            "title": "Estimate and true gradient",
            "rows": ["memory", "test-bed", "credit", "s"],
            "metrics": ["same_sign", "cosine", "error", "difference"],
            "split": "end",
            "note": note,
        },
        shared | {"title": "Cosine with the true gradient, by links", "metric": "cosine"},
        shared | {"title": "Parameters with the right sign, by links", "metric": "same_sign"},
        shared | {"title": "Relative error, by links", "metric": "error", "log": True},
    ]


EXPERIMENT = Experiment(
    name="columns-gradient",
    title="Columns with sparse links: the gradient of SnAp-1",
    about="Columns with private features and random links (Javed, White and Sutton, 2021): SnAp-1 holds what a column "
    "sees of the others fixed. Random inputs of 0 and 1, random targets, no learning of the columns' parameters; the "
    "gradient of the sum of half the squared errors, estimated online, beside backpropagation through all steps. "
    "recurrent: a fixed random readout, uniform with variance 1 / n. meta: the readout is learned by LMS, and the "
    "gradient goes through its weights, too; RTRL keeps every effect on them. integrator, gated: how a column "
    "keeps its "
    "state. Over all parameters of the columns; a sign counts where the product of estimate and gradient is beyond "
    "1e-10. In float32.",
    duration="3 minutes",
    config=Settings(),
    quick=Settings(links=(0.0, 1.0), columns=4, features=2, inputs=6, steps=10, seeds=3),
    trials=_trials,
    metrics={
        "same_sign": {"label": "parameters with the right sign", "better": "higher", "floors": {}, "percent": True},
        "cosine": {"label": "cosine with the true gradient", "better": "higher", "floors": {}},
        "error": {"label": "relative error", "better": "lower", "floors": {}},
        "difference": {"label": "mean absolute difference", "better": "lower", "floors": {}},
    },
    views=_views,
)
