r"""Microseconds of a Kalman step in float32, by form of blocks and number of parameters, without the pullback.

LSTM columns and a readout of 52, 205, 409 and 1,633 parameters, sensitivities drawn at random. Every case is timed in
every round, so that another load on the machine meets all alike; the median and the fastest round are shown. `root` is
Potter's square root of a full P, for comparison. Pin it to one core, on Linux:

taskset -c 1 python benchmarks/kalman/speed.py --out results/kalman-soak
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from soak import _root

import streamgrad as sg
from streamgrad import Kalman

STEPS = 500
COLUMNS = {52: 3, 205: 12, 409: 24, 1633: 96}


def library(form: str | int, parameters: int, rows: int):
    """A compiled run of steps, its donated start, its inputs."""
    columns = COLUMNS[parameters]
    cell = sg.cells.LSTM(2, columns, wiring=sg.wiring.Columns(), key=jax.random.key(0))
    model = sg.nn.Sequential([sg.Recurrent(cell, sg.SnAp(1)), sg.Readout(columns, 1, key=jax.random.key(1))])
    theta = eqx.filter(model, eqx.is_inexact_array)
    filter_ = Kalman(form)
    draw = lambda leaf: jax.random.normal(jax.random.key(leaf.size), (STEPS, rows, *leaf.shape))
    error = 0.1 * jax.random.normal(jax.random.key(5), (STEPS, rows))
    given = jnp.ones(rows, bool)
    body = lambda both, now: (filter_(both[0], both[1], now[0], now[1], given), None)
    state = filter_.init(theta, model)
    assert state.blocks.parameters == parameters
    return body, (state, theta), (jax.tree.map(draw, theta), error)


def square_root(parameters: int):
    body = lambda a, h: (_root(a, h, 1.0)[0], None)
    return body, jnp.eye(parameters) * 0.03**0.5, jax.random.normal(jax.random.key(0), (STEPS, parameters))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="Folder for speed.json.")
    options = parser.parse_args()
    cases = {
        (form, p, 1): library(form, p, 1) for p in COLUMNS for form in ("full", "layer", "unit", "diagonal", 10, 20)
    }
    cases |= {("root", p, 1): square_root(p) for p in COLUMNS}
    cases |= {("full", 205, rows): library("full", 205, rows) for rows in (4, 32)}
    runs, carries, times = {}, {}, {case: [] for case in cases}
    for case, (body, carry, inputs) in cases.items():
        scan = lambda carry, inputs, body=body: jax.lax.scan(body, carry, inputs)[0]
        runs[case] = jax.jit(scan, donate_argnums=0).lower(carry, inputs).compile()
        carries[case] = jax.tree.map(jnp.copy, carry)
    for _ in range(options.rounds):
        for case in cases:
            began = time.perf_counter()
            carries[case] = jax.block_until_ready(runs[case](carries[case], cases[case][2]))
            times[case].append((time.perf_counter() - began) / STEPS * 1e6)
    rows = [
        {
            "form": f"rank {form}" if isinstance(form, int) else form,
            "parameters": p,
            "rows": r,
            "median_us": float(np.median(t)),
            "fastest_us": min(t),
        }
        for (form, p, r), t in times.items()
    ]
    print(f"{'form':10} {'parameters':>10} {'rows':>5} {'median us':>10} {'fastest':>8}")
    for row in rows:
        print("{form:10} {parameters:10} {rows:5} {median_us:10.1f} {fastest_us:8.1f}".format(**row))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        made = {"steps": STEPS, "rounds": options.rounds, "dtype": "float32", "jax": jax.__version__, "rows": rows}
        (options.out / "speed.json").write_text(json.dumps(made, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
