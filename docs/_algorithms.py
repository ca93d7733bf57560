"""Fill the tables of algorithms: `python docs/_algorithms.py [--measure]`.

That of choose.md is made from their traits, those of results.md (`<!-- comparison: FILE -->`) from what `streamgrad
bench algorithms` wrote to results/bench.

Memory and time are powers of the number of parameters, fitted between two sizes of a dense net; which cells fit is
found by binding. The spread of random gradients is measured (`--measure`), and kept in results/bench/spread.json.
"""

import json
import math
import re
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp

import streamgrad as sg
from streamgrad.inspect._compare._comparison import Comparison, Gradient, Row

HERE = Path(__file__).parent
SPREAD = HERE.parent / "results" / "bench" / "spread.json"
MARK = re.compile(r"(<!-- algorithms -->\n).*?(<!-- end -->)", re.DOTALL)
COMPARED = re.compile(r"(<!-- comparison: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
KEY = jax.random.key(0)
SMALL, LARGE = 64, 256
cells = sg.cells
BANKS = {kind: getattr(cells, kind)(4, 6, key=KEY) for kind in ["Vanilla", "GRU", "LSTM", "LeakyRNN", "LIF", "ALIF"]}
APART = {kind: getattr(cells, kind)(4, 6, key=KEY) for kind in ["IndRNN", "MinGRU", "LRU", "RTU"]}
OTHERS = {
    "GRU(reset_before=True)": cells.GRU(4, 6, reset_before=True, key=KEY),
    "Chain": cells.Chain([cells.LRU(4, 6, out_size=3, key=KEY), cells.GRU(3, 6, key=KEY)]),
    "Function": cells.Function(lambda p, s, x: jnp.tanh(p @ s), jnp.eye(4), jnp.zeros(4), in_size=4, pattern="dense"),
}


def bound(cell, name):
    """The algorithm on the cell; None when it is refused."""
    try:
        return sg.Recurrent(cell, sg.algorithms.algorithm(name)).algorithm
    except TypeError:
        return None


def traits(cell, name):
    rule = bound(cell, name)
    return None if rule is None else rule.traits(cell.core())


def fits(name: str) -> str:
    """Which cells, in words."""
    there = [kind for kind, cell in (BANKS | APART | OTHERS).items() if bound(cell, name) is not None]
    absent = [kind for kind in BANKS | APART | OTHERS if kind not in there]
    if not absent:
        return "every cell"
    if there == [*BANKS, *APART]:
        return "made of drives"
    if there == [*BANKS]:
        return "made of drives, with links between units"
    return ", ".join(there) if len(there) <= len(absent) else "all but " + ", ".join(absent)


def power(name: str, what: str) -> str:
    """How a count grows with the parameters p of a dense net with one drive."""
    counts = []
    for units in (SMALL, LARGE):
        cell = cells.Vanilla(4, units, key=KEY)
        counts.append((getattr(traits(cell, name), what), cell.core().structure.parameters))
    (small, p), (large, q) = counts
    if small == 0:
        return "none"
    slope = math.log(large / small) / math.log(q / p)
    near = round(2 * slope) / 2
    return {0.0: "constant", 0.5: "√p", 1.0: "p", 1.5: "p√p", 2.0: "p²"}.get(near, f"p^{near:g}")


def gradient(name: str) -> str:
    """On a dense net, and on units apart where that differs."""
    dense, apart = traits(cells.GRU(4, 6, key=KEY), name), traits(APART["IndRNN"], name)
    dense = dense or traits(cells.Vanilla(4, 6, key=KEY), name)
    if apart is None or apart.bias == dense.bias:
        return dense.bias
    return f"{dense.bias}; {apart.bias} on units apart"


def measured() -> dict[str, float]:
    """The standard deviation of one random gradient over the size of its mean: Vanilla, 16 units, after 16 steps."""
    cell = cells.Vanilla(4, 16, key=KEY)
    xs = jax.random.normal(jax.random.key(1), (16, 4))
    ws = jax.random.normal(jax.random.key(2), (16,))
    found = {}
    for name in sg.algorithms.NAMED:
        layer = sg.Recurrent(cell, sg.algorithms.algorithm(name))
        if layer.algorithm.credit == "carry":
            found[name] = 0.0
            continue

        def one(key, layer=layer):
            carry, total = layer.init(key=key), 0
            for x in xs:

                def loss(layer, carry=carry, x=x):
                    new, y = layer(carry, x)
                    return ws @ jnp.sin(y), new

                gradient, carry = eqx.filter_grad(loss, has_aux=True)(layer)
                total = total + jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(gradient.cell)])
            return total

        draws = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(3), 256))
        size = jnp.linalg.norm(draws.mean(0))
        found[name] = float(jnp.sqrt(draws.var(0).sum()) / size) if size > 0 else 0.0
    return {name: 0.0 if value < 1e-5 else float(f"{value:.2g}") for name, value in found.items()}


def table() -> str:
    """A row for each algorithm."""
    spread = json.loads(SPREAD.read_text("utf-8"))
    heads = ("algorithm", "gradient", "spread of one gradient", "memory beside the state", "time a step", "cells")
    lines = [" | ".join(heads), " | ".join("---" for _ in heads)]
    for name in sg.algorithms.NAMED:
        noise = "none" if spread[name] == 0 else f"{spread[name]:g} × its mean"
        flops = power(name, "flops").replace("none", "that of the state")
        row = (f"`{name}`", gradient(name), noise, power(name, "bytes"), flops, fits(name))
        lines.append(" | ".join(row))
    return "\n".join(f"| {line} |" for line in lines)


def comparison(file: str) -> str:
    """What was found, from the raw file."""
    raw = json.loads((HERE.parent / "results" / "bench" / file).read_text("utf-8"))
    heads = ("", "gradient", "cosine with BPTT", "norm ratio", "trace", "µs a step", "late loss", "rate")
    rows = []
    for row in raw["rows"]:
        found = row["gradient"] and Gradient(*map(tuple, row["gradient"].values()))
        fields = row | {"gradient": found, "losses": row["losses"] and tuple(row["losses"])}
        if not row["refused"]:
            rows.append(Comparison._cells(Row(**fields)))
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{raw['cell']}; {raw['conditions']}."


def filled(page: str) -> str:
    """The page with its tables written anew."""
    page = MARK.sub(lambda match: f"{match[1]}\n{table()}\n\n{match[2]}", page)
    return COMPARED.sub(lambda match: f"{match[1]}\n{comparison(match[2])}\n\n{match[3]}", page)


if __name__ == "__main__":
    if "--measure" in sys.argv:
        SPREAD.write_text(json.dumps(measured(), indent=1) + "\n", "utf-8")
    for path in (HERE / "choose.md", HERE / "results.md"):
        path.write_text(filled(path.read_text("utf-8")), "utf-8")
