r"""How near SnAp-1 and SnAp-1 with the present step in full come to the true online gradient of dense cells.

12 units as drawn, one random bit ±1 a step, the target of the copy task (the bit of 8 steps ago), weights frozen, 1,000
steps, three seeds. `step`: the mean cosine of a step's gradient of the cell with that of RTRL; `sum`: the cosine of the
sums over the stream; `noise`: the size of the difference of the sums over that of RTRL's.

python benchmarks/kalman/present.py --out results/kalman-memory
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from memory import ALGORITHMS, SEEDS, bits, net

import streamgrad as sg


def gradients(cell: type, name: str, seed: int, xs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The gradient of the cell at every step, (steps, parameters)."""
    model = net(cell, ALGORITHMS[name], 1, 12, 1, seed)

    def objective(model, carry, x, target):
        carry, y = model(carry, x)
        return jnp.sum((y - target) ** 2), carry

    def step(carry, now):
        gradient, carry = eqx.filter_grad(objective, has_aux=True)(model, carry, *now)
        cell = gradient.layers[0].cell
        return carry, jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(eqx.filter(cell, eqx.is_array))])

    start = model.init(key=jax.random.key(seed))
    return np.asarray(jax.jit(lambda: jax.lax.scan(step, start, (xs, targets))[1])(), float)


def main() -> None:
    """Measure, print, write."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path)
    out, rows = options.parse_args().out, []
    cosine = lambda a, b: (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
    for cell in (sg.cells.GRU, sg.cells.Vanilla, sg.cells.LSTM):
        found: dict[str, list[tuple[float, float, float]]] = {"SnAp-1": [], "SnAp-1-full": []}
        for seed in SEEDS:
            xs, targets = (leaf[:1000] for leaf in bits("copy", seed))
            true = gradients(cell, "RTRL", seed, xs, targets)
            for name, each in found.items():
                got = gradients(cell, name, seed, xs, targets)
                away = np.linalg.norm(got.sum(0) - true.sum(0)) / np.linalg.norm(true.sum(0))
                each.append((float(cosine(got, true)[10:].mean()), float(cosine(got.sum(0), true.sum(0))), float(away)))
        for name, each in found.items():
            step, total, away = np.mean(each, 0)
            rows.append({"cell": cell.__name__, "algorithm": name, "step": step, "sum": total, "noise": away})
            print(f"{cell.__name__:8} {name:12} step {step:.3f}  sum {total:.3f}  noise {away:.3f}", flush=True)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        made = {"steps": 1000, "units": 12, "seeds": SEEDS, "jax": jax.__version__, "rows": rows}
        (out / "present.json").write_text(json.dumps(made, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
