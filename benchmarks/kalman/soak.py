r"""A Kalman filter in float32 on a sensor that is stuck now and then: does its covariance stay positive?

A stream of many steps with ten gaps of constant rows. Every 10,000 steps the covariance is looked at in float64: it
must be finite, symmetric to the bit, and its correlations must have no eigenvalue below 0. S, without the filter's own
guard, must never fall below R's floor.

- a linear readout of 48 lags (49 parameters): the library's filter, full and of rank 10, the full one without the
  enlarged diagonal (`plain`), and Potter's square root of P (`root`), whose P is positive by construction: its
  eigenvalues are those of A Aᵀ;
- a network of 8 LSTM columns (137 parameters) under SnAp-1: the library's filter with each form of blocks. A carry that
  is no longer finite starts anew, as in a learner; how often is shown.

python benchmarks/kalman/soak.py --out results/kalman-soak
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import streamgrad as sg
from streamgrad import Kalman
from streamgrad.train._filter import times
from streamgrad.train._low_rank import LowRank

LOOK = 10_000
LAGS = 48
FLOOR = 1e-3
LAM, CAP, PRIOR = 0.9995, 0.9, 0.03


class Case(NamedTuple):
    """`step(memory, lags, y) -> memory, S, θ`; `blocks(memory)`: the blocks of P in float64."""

    memory: Any
    step: Callable
    blocks: Callable
    parameters: int


def linear(form: str) -> Case:
    """A readout of lags, by one of the forms."""
    model = eqx.nn.Linear(LAGS, 1, key=jax.random.key(0))
    theta = jax.tree.map(jnp.zeros_like, eqx.filter(model, eqx.is_inexact_array))
    if form in ("library", "rank 10"):
        filter_ = Kalman(10 if form == "rank 10" else "full", prior=PRIOR, forgetting=LAM, noise_floor=FLOOR)
        rows = lambda lags: eqx.tree_at(lambda m: (m.weight, m.bias), theta, (lags[None, None], jnp.ones((1, 1))))
        predict = lambda theta, lags: theta.weight @ lags + theta.bias

        def step(memory, lags, y):
            state, theta = memory
            variance = _variance(state, rows(lags))
            state, theta = filter_(state, theta, rows(lags), y - predict(theta, lags), jnp.ones(1, bool))
            return (state, theta), variance, theta.weight

        memory = filter_.init(theta, model), theta
        return Case(memory, step, lambda m: _blocks(m[0]), LAGS + 1)

    p = LAGS + 1
    update = {"plain": _plain, "root": _root}[form]

    def step_(memory, lags, y):
        covariance, w, noise = memory
        h = jnp.append(lags, 1.0)
        error = (y - h @ w)[0]
        covariance, gain, variance = update(covariance, h, noise)
        limit = 3 * jnp.sqrt(variance)
        w = w + gain * jnp.clip(error, -limit, limit)
        noise = jnp.maximum(0.99 * noise + 0.01 * jnp.minimum(error**2, 9 * noise + FLOOR), FLOOR)
        return (covariance, w, noise), variance, w

    start = jnp.eye(p) * (PRIOR if form == "plain" else PRIOR**0.5), jnp.zeros(p), jnp.ones(())
    whole = lambda m: [np.asarray(m[0], float)[None]]
    squared = lambda m: [(a @ a.transpose(0, 2, 1)) for a in whole(m)]
    return Case(start, step_, whole if form == "plain" else squared, p)


def _plain(covariance, h, noise):
    product = covariance @ h
    variance = noise + h @ product
    v = product / jnp.sqrt(variance)
    c = jnp.sqrt(jnp.minimum(1 / LAM, CAP / (jnp.diagonal(covariance) - v * v)))
    return (covariance - v[:, None] * v[None]) * (c[:, None] * c[None]), product / variance, variance


def _root(a, h, noise):
    f = h @ a
    variance = noise + f @ f
    v = a @ f
    a = a - (v / (variance + jnp.sqrt(variance * noise)))[:, None] * f[None]
    c = jnp.sqrt(jnp.minimum(1 / LAM, CAP / ((a * a) @ jnp.ones(len(a)))))
    return a * c[:, None], v / variance, variance


def network(blocks: str | int) -> Case:
    """LSTM columns and a readout of them, by the library's filter."""
    cell = sg.cells.LSTM(2, 8, wiring=sg.wiring.Columns(), key=jax.random.key(0))
    model = sg.nn.Sequential([sg.Recurrent(cell, sg.SnAp(1)), sg.Readout(8, 1, key=jax.random.key(1))])
    theta, static = eqx.partition(model, eqx.is_inexact_array)
    filter_ = Kalman(blocks, noise_floor=FLOOR)
    state = filter_.init(theta, model)

    def step(memory, lags, y):
        state, theta, carry, restarts = memory

        def predicted(theta):
            new, y = eqx.combine(theta, static)(carry, lags[:2])
            return y, new

        prediction, pull, carry = jax.vjp(predicted, theta, has_aux=True)
        rows = filter_.sensitivity(pull, prediction)
        sound = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((rows, carry))]).all()
        variance = _variance(state, rows)
        variance = jnp.where(jnp.isfinite(variance), variance, jnp.inf)  # too large to be squared: left out
        state, theta = filter_(state, theta, rows, y - prediction, jnp.ones(1, bool))
        carry = jax.tree.map(lambda new, old: jnp.where(sound, new, old), carry, fresh)
        return (state, theta, carry, restarts + ~sound), variance, theta.layers[1].weight

    fresh = model.init(key=jax.random.key(2))
    memory = state, theta, jax.tree.map(jnp.copy, fresh), jnp.zeros((), jnp.int32)
    return Case(memory, step, lambda m: _blocks(m[0]), state.blocks.parameters)


def _variance(state, rows):
    """S without any guard."""
    h = state.blocks.pack(rows, state.noise.dtype)
    return (state.noise + times(state.covariance, h)[1][0])[0]


def _blocks(state):
    """The blocks in float64; of a low rank, P from the P⁻¹ that is kept."""
    found = state.covariance
    if not isinstance(found, LowRank):
        return [np.asarray(p, float) for p in found]
    scale, factor = np.sqrt(np.asarray(found.variance, float)), np.asarray(found.factor, float)
    whole = np.linalg.inv(np.eye(len(scale)) + (factor * scale).T @ (factor * scale))
    return [((whole + whole.T) / 2 * scale[:, None] * scale)[None]]


def soak(case: Case, steps: int, gap: int) -> dict[str, Any]:
    """The stream, and what was seen of the covariance on the way."""
    weights = jax.random.normal(jax.random.key(9), (LAGS,)) * 0.3
    period = steps // 10

    @functools.partial(jax.jit, donate_argnums=0)
    def run(carry, start):
        def body(carry, t):
            memory, lags, smallest = carry
            stuck = t % period >= period - gap
            new, noise = jax.random.normal(jax.random.fold_in(jax.random.key(1), t), (2,))
            x = jnp.where(stuck, lags[0], 0.97 * lags[0] + 0.25 * new)
            lags = jnp.concatenate([x[None], lags[:-1]])
            y = weights @ lags + jnp.where(stuck, 0.0, 0.1) * noise
            memory, variance, theta = case.step(memory, lags, y[None])
            worse = jnp.where(jnp.isfinite(theta).all(), variance, -jnp.inf)
            return (memory, lags, jnp.minimum(smallest, worse)), None

        return jax.lax.scan(body, carry, start + jnp.arange(LOOK))[0]

    carry = case.memory, jnp.zeros(LAGS), jnp.array(jnp.inf)
    eigenvalue, asymmetry, seconds = np.inf, 0.0, 0.0
    for start in range(0, steps, LOOK):
        began = time.perf_counter()
        carry = jax.block_until_ready(run(carry, jnp.int32(start)))
        seconds += time.perf_counter() - began
        for p in case.blocks(carry[0]):
            asymmetry = max(asymmetry, np.abs(p - p.transpose(0, 2, 1)).max())
            scale = np.sqrt(np.diagonal(p, axis1=1, axis2=2))
            if not (np.isfinite(p).all() and (scale > 0).all()):
                return {"died_after": start + LOOK, "smallest_S": None, "eigenvalue": None, "asymmetry": None}
            eigenvalue = min(eigenvalue, np.linalg.eigvalsh(p / (scale[:, :, None] * scale[:, None, :])).min())
    alive = bool(np.isfinite(carry[2]) and eigenvalue >= 0)
    return {
        "died_after": None if alive else steps,
        "smallest_S": float(carry[2]),
        "eigenvalue": float(eigenvalue),
        "asymmetry": float(asymmetry),
        "restarts": int(carry[0][3]) if len(carry[0]) == 4 else 0,
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--gap", type=int, default=30_000, help="Constant rows at the end of each tenth.")
    parser.add_argument("--out", type=Path, help="Folder for soak.json.")
    parser.add_argument("--only", default="", help="Forms whose name holds this; their rows are put into the file.")
    options = parser.parse_args()
    cases = {f"linear, {form}": functools.partial(linear, form) for form in ("library", "plain", "root")}
    cases |= {
        f"LSTM columns, {form}": functools.partial(network, form) for form in ("full", "layer", "unit", "diagonal")
    }
    cases["linear, rank 10"] = functools.partial(linear, "rank 10")
    cases["LSTM columns, rank 10"] = functools.partial(network, 10)
    cases = {name: make for name, make in cases.items() if options.only in name}
    rows = []
    print(
        f"{'form':24} {'parameters':>10} {'smallest S':>11} {'eigenvalue':>11} {'asymmetry':>10} {'restarts':>8}  lives"
    )
    with jax.numpy_dtype_promotion("standard"):
        for name, make in cases.items():
            case = make()
            row = {"form": name, "parameters": case.parameters, **soak(case, options.steps, options.gap)}
            rows.append(row)
            shown = [f"{row[k]:.3g}" if row[k] is not None else "-" for k in ("smallest_S", "eigenvalue", "asymmetry")]
            restarts = row.get("restarts", "-")
            lives = "yes" if row["died_after"] is None else f"no, by step {row['died_after']}"
            print(
                f"{name:24} {case.parameters:10} {shown[0]:>11} {shown[1]:>11} {shown[2]:>10} {restarts:>8}  {lives}",
                flush=True,
            )
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        if options.only and (options.out / "soak.json").exists():
            before = json.loads((options.out / "soak.json").read_text("utf-8"))
            if (before["steps"], before["gap"]) != (options.steps, options.gap):
                raise SystemExit(f"{options.out}/soak.json is of {before['steps']} steps with gaps of {before['gap']}.")
            new = {row["form"] for row in rows}
            rows = [*(row for row in before["rows"] if row["form"] not in new), *rows]
        made = {"steps": options.steps, "gap": options.gap, "dtype": "float32", "jax": jax.__version__, "rows": rows}
        (options.out / "soak.json").write_text(json.dumps(made, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
