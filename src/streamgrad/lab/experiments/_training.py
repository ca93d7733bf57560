"""Training of sequence models, all seeds together on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ... import inference, optimisers
from ...nn import unroll
from ._experiment import Recorder
from ._hops import hop_gradient
from ._settings import Training


class Part(NamedTuple):
    """Sequences and what is asked of them: arrays with a leading axis of sequences."""

    xs: Any
    targets: Any

    def __len__(self) -> int:
        return len(self.xs)


class Problem(NamedTuple):
    """A data set in parts, and what to learn from it, for one sequence:

    - `encode(x) -> (time, in_size)`: what the network sees of a sequence of `xs`;
    - `loss(outputs, target) -> scalar`; `scores(outputs, target) -> dict of scalars`, averaged over sequences.
    """

    train: Part
    valid: Part
    test: Part
    encode: Callable[[Any], Any]
    loss: Callable[[Any, Any], Any]
    scores: Callable[[Any, Any], dict[str, Any]]


class State(NamedTuple):
    """Everything that training changes, with a leading axis of seeds."""

    parameters: Any
    optimiser: Any
    key: Any


def train(
    make: Callable[[Any], Any],
    problem: Problem,
    training: Training,
    seeds: list[int],
    recorder: Recorder,
    *,
    hops: int = 0,
    probe: Callable[..., dict[str, dict[str, Any]]] | None = None,
    tuning: bool = False,
) -> None:
    """Train `make(key)` for every seed, look at the validation part now and then and at the test part at the end.

    The gradient of an update is that of `sg.nn.unroll`: the model's own algorithms, weights frozen within a
    sequence; with `hops`, see `_hops.py`. `probe(model, loss) -> {layer: {name: scalar}}` is written with each
    evaluation as the split "gradient". `tuning`: only the validation part, at the end, as the split "tuning".
    """
    trainer = _Trainer(make, problem, training, hops)
    state = jax.vmap(trainer.start)(jnp.asarray(seeds, jnp.uint32))
    begun = 0
    if (kept := recorder.load(lambda step: state)) is not None:
        state, begun = kept
    every = max(1, training.updates // training.evaluations)
    for step in range(begun, training.updates):
        state, loss = trainer.update(state)
        done = step + 1
        if done % 20 == 0:
            recorder.progress(done, training.updates, f"loss {float(loss.mean()):.3f}")
        last = done == training.updates
        if done % every and not last:
            continue
        if tuning:
            if last:
                _write(recorder, seeds, done, "tuning", trainer.evaluate(state, problem.valid), last)
        else:
            for split in ("valid", "test") if last else ("valid",):
                _write(recorder, seeds, done, split, trainer.evaluate(state, getattr(problem, split)), last)
            for layer, values in (trainer.probe(state, probe) if probe is not None else {}).items():
                _write(recorder, seeds, done, "gradient", values, last, layer=layer)
        recorder.save(state, done)


def _write(recorder, seeds, step, split, values, final, **about):
    for k, seed in enumerate(seeds):
        recorder.write(seed, step, split, final=final, **about, **{name: float(v[k]) for name, v in values.items()})


class _Trainer:
    def __init__(self, make, problem: Problem, training: Training, hops: int):
        self.make, self.problem, self.training, self.hops = make, problem, training, hops
        example = make(jax.random.key(0))
        self.static = eqx.partition(example, eqx.is_inexact_array)[1]
        warmup = min(round(training.warmup * training.updates), training.updates - 1)
        self.optimiser = optax.chain(
            optax.clip_by_global_norm(training.clip),
            optimisers.adamw(
                training.rate, updates=training.updates, warmup=warmup, weight_decay=training.weight_decay
            )(example),
        )
        self._train = jax.tree.map(jnp.asarray, problem.train)
        self._update_all = jax.jit(jax.vmap(self._update, in_axes=(0, None)), donate_argnums=0)
        self._probe = None
        self._evaluate = jax.jit(jax.vmap(self._scores, in_axes=(0, None, None)))

    def start(self, seed) -> State:
        """Weights and optimiser before the first update."""
        key_model, key = jax.random.split(jax.random.key(seed))
        parameters = eqx.filter(self.make(key_model), eqx.is_inexact_array)
        return State(parameters, self.optimiser.init(parameters), key)

    def update(self, state: State) -> tuple[State, Any]:
        """One update of every seed, and the losses before it. Consumes `state`."""
        return self._update_all(state, self._train)

    def _update(self, state: State, train: Part):
        key, key_batch, key_masks = jax.random.split(state.key, 3)
        chosen = jax.random.randint(key_batch, (self.training.batch,), 0, len(train.xs))
        xs, targets = jax.tree.map(lambda a: a[chosen], tuple(train))

        model = eqx.combine(state.parameters, self.static)
        loss, gradient = hop_gradient(lambda m: self.loss(m, xs, targets, key_masks), model, self.hops)
        with jax.numpy_dtype_promotion("standard"):  # Optax mixes precisions, also where the user forbids it
            updates, optimiser = self.optimiser.update(gradient, state.optimiser, state.parameters)
        return State(optax.apply_updates(state.parameters, updates), optimiser, key), loss

    def loss(self, model, xs, targets, key):
        """The mean loss of a batch."""
        losses = jax.vmap(lambda o, t: self.problem.loss(o, t))(self.outputs(model, xs, key), targets)
        return jnp.mean(losses)

    def outputs(self, model, xs, key):
        """What the model says at every step of every sequence, (batch, time, out)."""

        def one(x, key):
            return unroll(model, model.init(key=key), self.problem.encode(x))[1]

        return jax.vmap(one)(xs, jax.random.split(key, len(xs)))

    def evaluate(self, state: State, part: Part) -> dict[str, np.ndarray]:
        """Loss and scores of each seed on a part, dropout left out."""
        size = min(len(part), 2 * self.training.batch)
        total: dict[str, Any] = {}
        for first in range(0, len(part), size):
            batch = jax.tree.map(lambda a, first=first: a[first : first + size], part)
            scores = self._evaluate(state.parameters, *batch)
            for name, value in scores.items():
                total[name] = total.get(name, 0) + np.asarray(value) * len(batch)
        return {name: value / len(part) for name, value in total.items()}

    def _scores(self, parameters, xs, targets):
        model = inference(eqx.combine(parameters, self.static))
        outputs = self.outputs(model, xs, jax.random.key(0))
        values = jax.vmap(lambda o, t: {"loss": self.problem.loss(o, t), **self.problem.scores(o, t)})(outputs, targets)
        return {name: jnp.mean(value) for name, value in values.items()}

    def probe(self, state: State, probe) -> dict[str, dict[str, Any]]:
        """What the probe finds on a batch of the validation part, without dropout, for each seed."""
        if self._probe is None:
            xs, targets = jax.tree.map(lambda a: jnp.asarray(a[: self.training.batch]), tuple(self.problem.valid))
            loss = lambda model: self.loss(model, xs, targets, jax.random.key(0))
            find = lambda parameters: probe(eqx.combine(parameters, self.static), loss)
            self._probe = jax.jit(jax.vmap(find))
        return self._probe(state.parameters)
