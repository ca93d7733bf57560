"""Experts of a forecaster: linear readouts of a net and of lags, each under a Kalman filter.

An expert says, from the inputs x of `Encoder`,

    ŷ = w · [features of the net, chosen columns of x, 1]

and learns w, and unless the net is frozen its weights too, by one filter with a full covariance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from .. import cells, wiring
from .._base.static import Static
from ..algorithms import Frozen, algorithm
from ..recurrent import Recurrent
from ..train import Kalman, KalmanState
from ..train._filter import split
from ..train._serving import inference

FEATURES, OTHERS = 0.03, 0.01  # prior variances of readout weights
FULL = 1500  # parameters up to which a filter keeps all covariances; beyond, those of each unit
CELLS = ("lru", "gru", "lstm", "vanilla", "leaky", "indrnn", "mingru", "rtu")


@dataclasses.dataclass(frozen=True)
class Expert:
    """What an expert is made of.

    - `net`: "lstm columns", a cell by its name in `CELLS`, or "" for none; `units` of it;
    - `learns`: by "kalman" (one filter with the readout), by "adam", or "" for not at all; `rate` of Adam;
    - `algorithm`: how the net learns through time, by name;
    - `lags`: how many its readout sees; `far`: whether it sees means far back and seasons;
    - `patient`: whether noise counts √horizon times; `forgetting`: of the readout.
    """

    net: str = ""
    units: int = 0
    learns: Literal["kalman", "adam", ""] = ""
    lags: int = 32
    far: bool = True
    patient: bool = True
    forgetting: float = 0.9995
    algorithm: str = "snap-1"
    rate: float = 1e-3


#: The default forecaster's.
EXPERTS: dict[str, Expert] = {
    "RLS": Expert(lags=340, forgetting=0.9998),
    "reservoir": Expert("rtu", 32, lags=48),
    "columns": Expert("lstm columns", 8, learns="kalman", lags=24),
    "fast columns": Expert("lstm columns", 8, learns="kalman", lags=32, far=False, patient=False),
}
LAGS = max(expert.lags for expert in EXPERTS.values())
HEARD = 4  # other columns that a net hears, the first ones: its filter costs the square of what it hears


class Readout(eqx.Module):
    """The model of an expert: the net and the readout's weights. `columns`: of x, for the net and for the readout."""

    net: Recurrent | None
    weight: Float[Array, " size"]
    columns: tuple[Static, Static] = eqx.field(static=True)

    def init(self, *, key: PRNGKeyArray) -> Any:
        """The net's carry."""
        return () if self.net is None else self.net.init(key=key)

    def __call__(self, carry, x):
        seen = [x[self.columns[1].value], jnp.ones(1, x.dtype)]
        if self.net is not None:
            carry, features = self.net(carry, x[self.columns[0].value])
            seen = [features, *seen]
        return carry, self.weight @ jnp.concatenate(seen)


def build(expert: Expert, parts: Mapping[str, slice], *, key: PRNGKeyArray) -> Readout:
    """The model of an expert, before the first row: it says 0, the last value."""
    heard = np.arange(parts["net"].start, parts["net"].stop)
    start, most = parts["lags"].start, parts["lags"].stop - parts["lags"].start
    if expert.lags > most:
        raise ValueError(
            f"an expert sees {expert.lags} lags, and the encoder has {most}: give Encoder(lags=...) as many."
        )
    seen = [np.arange(start, start + expert.lags), heard[:1], heard[4:]]  # the level, and other columns
    if expert.far:
        seen += [np.arange(parts[name].start, parts[name].stop) for name in ("far", "short", "long")]
    heard = heard[: 4 + HEARD]
    net, features = None, 0
    if expert.net:
        cell = _cell(expert.net, len(heard), expert.units, key=key)
        net = Recurrent(cell, algorithm(expert.algorithm) if expert.learns else Frozen())
        (features,) = jax.eval_shape(lambda: cell.output(cell.init_state(), jnp.zeros(len(heard)))).shape
    columns = np.concatenate(seen)
    return Readout(net, jnp.zeros(features + len(columns) + 1), (Static(heard), Static(columns)))


def form(expert: Expert, parts: Mapping[str, slice]) -> tuple[Readout, Readout]:
    """The shapes of an expert's arrays, and all else of its model; nothing is drawn or compiled."""
    shapes = eqx.filter_eval_shape(build, expert, parts, key=jax.random.key(0))
    return eqx.partition(shapes, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))


def cell_name(name: str) -> str:
    """The name in `CELLS` of a cell in any spelling. Raises `ValueError` for one that is not there."""
    own = {cells.cell(known): known for known in CELLS}
    if (kind := cells.cell(name)) not in own:
        raise ValueError(f"the forecaster has no cell {name!r}; it has {', '.join(CELLS)}.")
    return own[kind]


def _cell(name: str, inputs: int, units: int, *, key: PRNGKeyArray) -> Any:
    """A cell whose features are bounded or, of the LRU, few."""
    if name == "lstm columns":
        return cells.LSTM(inputs, units, wiring=wiring.Columns(), key=key)
    if name == "lru":  # its own output matrix makes the features; memories of two to 100 rows
        return cells.LRU(inputs, units, out_size=min(units, 8), r_min=0.5, r_max=0.99, key=key)
    return cells.cell(cell_name(name))(inputs, units, key=key)


class Known(NamedTuple):
    """What an expert knows: its arrays, its filter, and the carries of its learning and of its serving copy."""

    arrays: PyTree[Array]
    filter: Any
    carry: PyTree[Array]
    serving: PyTree[Array]
    adam: PyTree[Array] = ()


class Learning:
    """Pure functions of one expert: `init`, `learn` from a pair that is known by now, `serve` at the present."""

    def __init__(self, expert: Expert, parts: Mapping[str, slice], horizon: int):
        self.expert, self.parts = expert, parts
        arrays, self.static = form(expert, parts)
        adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(expert.rate / horizon))
        self.adam = adam if expert.learns == "adam" else None
        many = sum(leaf.size for leaf in jax.tree.leaves(self.trained(arrays)[0]))
        self.kalman = Kalman(
            "full" if many <= FULL else "unit",
            prior=self._prior,
            forgetting=self._forgetting,
            horizon=horizon if expert.patient else 1,
        )

    def _build(self, key):
        return build(self.expert, self.parts, key=key)

    def trained(self, arrays: PyTree) -> tuple[PyTree, PyTree]:
        """The arrays that are learned, and the others."""
        mask = jax.tree.map(lambda leaf: self.expert.learns == "kalman", arrays)
        mask = eqx.tree_at(lambda m: m.weight, mask, True)
        return eqx.partition(arrays, mask)

    def _each(self, model, inside, readout):
        arrays = eqx.filter(model, eqx.is_array)
        return eqx.tree_at(lambda m: m.weight, jax.tree.map(lambda _: inside, arrays), readout)

    def _prior(self, model):
        features = len(model.weight) - 1 - len(model.columns[1].value)
        readout = np.full(len(model.weight), OTHERS)
        readout[:features] = FEATURES
        return self._each(model, 0.1, readout)

    def _forgetting(self, model):
        return self._each(model, 0.9999, self.expert.forgetting)

    def init(self, key: PRNGKeyArray) -> Known:
        """Before the first row."""
        model = self._build(key)
        arrays = eqx.filter(model, eqx.is_array)
        trained, _ = self.trained(arrays)
        carry = model.init(key=key)
        adam = self.adam.init(arrays.net) if self.adam is not None else ()
        return Known(arrays, self.kalman.init(trained, model), carry, inference(model).init(key=key), adam)

    def learn(self, known: Known, x: Array, target: Array, given: Array) -> Known:
        """Step the learning copy with the inputs of `horizon` rows ago, and learn if there is a target."""

        def predict(arrays):
            carry, y = eqx.combine(arrays, self.static)(known.carry, x)
            return y, carry

        y, pull, carry = jax.vjp(predict, known.arrays, has_aux=True)
        y, carry = jax.lax.stop_gradient((y, carry))
        slope = pull(jnp.ones_like(y))[0]
        trained, fixed = self.trained(known.arrays)
        rows = jax.tree.map(lambda leaf: leaf[None], self.trained(slope)[0])
        filter, trained = self.kalman(known.filter, trained, rows, (target - y)[None], given[None])
        adam = known.adam
        if self.adam is not None:
            gradient = jax.tree.map(lambda leaf: jnp.where(given, (y - target) * leaf, 0), slope.net)
            with jax.numpy_dtype_promotion("standard"):
                change, adam = self.adam.update(gradient, adam)
            fixed = eqx.tree_at(lambda m: m.net, fixed, eqx.apply_updates(fixed.net, change))
        return Known(eqx.combine(trained, fixed), filter, carry, known.serving, adam)

    def serve(self, known: Known, x: Array) -> tuple[Known, Array]:
        """What the expert says at the present, by its newest weights."""
        carry, y = inference(eqx.combine(known.arrays, self.static))(known.serving, x)
        return known._replace(serving=carry), y

    def anew(self, known: Known, columns: Array) -> Known:
        """Begin anew with the weights of some columns (bool, over all of x), which mean something else now."""
        model = eqx.combine(known.arrays, self.static)
        gone = weights_of(columns, model)
        trained, _ = self.trained(known.arrays)
        marked = eqx.tree_at(lambda m: m.weight, jax.tree.map(jnp.zeros_like, trained), gone.astype(model.weight.dtype))
        return known._replace(
            arrays=eqx.tree_at(lambda m: m.weight, known.arrays, jnp.where(gone, 0, model.weight)),
            filter=begun_anew(known.filter, marked),
        )

    def weights(self, known: Known) -> Any:
        """What it has learned."""
        return known.arrays


def weights_of(columns: Bool[Array, " columns"], model: Readout) -> Bool[Array, " size"]:
    """Which weights of a readout belong to some columns of x."""
    seen = model.columns[1].value
    features = jnp.zeros(len(model.weight) - 1 - len(seen), bool)
    return jnp.concatenate([features, columns[seen], jnp.zeros(1, bool)])


def begun_anew(filter: KalmanState, marked: PyTree[Array]) -> KalmanState:
    """A filter that begins anew with some weights of a readout: `marked` has the form of the trained parameters, and is
    not 0 there."""
    dtype = filter.noise.dtype
    packed = filter.blocks.pack(jax.tree.map(lambda leaf: leaf[None].astype(dtype), marked), dtype)

    def fresh(covariance, marked):
        gone = marked[0] > 0
        alone = jax.vmap(jnp.diag)(jnp.where(gone, OTHERS, 0.0))
        return jnp.where(gone[:, :, None] | gone[:, None, :], 0, covariance) + alone.astype(covariance.dtype)

    covariance: Any = filter.covariance
    return eqx.tree_at(lambda f: f.covariance, filter, tuple(map(fresh, covariance, split(covariance, packed))))
