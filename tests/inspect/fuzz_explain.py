"""Fuzz of `explain`: random models against full differentiation through time that knows nothing of the library's rules.

    python tests/inspect/fuzz_explain.py --models 2000 --out results/fuzz-explain

A program is a model of a topology with cells, wirings and algorithms drawn at random; it is compiled once and run with
several weights and inputs. A model is a program with weights. The online gradient is taken one step at a time; the
true one by `jax.grad` of all steps, in which bare cells stand for the layers (`plain`), and nothing of the library is
left that has a rule of its own (a stop_gradient that the model itself writes stays). Every model is a line of
`log.jsonl`; what is there already is not run again.

Exact was said wrongly where a parameter's error, relative to its gradient, is above 1e-8; biased or unknown was said
too timidly where all errors of the part are below.
"""

import argparse
import collections
import json
import time
from pathlib import Path

import equinox as eqx
import explain_carries  # noqa: F401
import explain_layers  # noqa: F401
import jax
import jax.numpy as jnp
import numpy as np
from explain_models import KEY, SIZE, TOPOLOGIES, Draw, Net, plain

import streamgrad as sg

STEPS, TOLERANCE = 10, 1e-8
#: Where `explain` should not be too timid.
DOCUMENTED = ("single", "stack", "parallel", "residual", "shared", "skip", "padding by where", "padding by cond")


def loss(y, w):
    return jnp.sum(w[0] * jnp.sin(y + w[1]))


class Program:
    """A model of one topology, compiled: `errors(seed)` draws weights and inputs."""

    def __init__(self, number: int):
        names = sorted(TOPOLOGIES)
        self.number, self.topology = number, names[number % len(names)]
        # Now and then a window is differentiated at once.
        draw = Draw(np.random.default_rng(number))
        draw.windowed = draw.chance(0.12)
        parts, step, begin, options = TOPOLOGIES[self.topology](draw)
        self.model = Net(parts, draw.vector(SIZE, 3 * SIZE), step, begin, options)
        layers = [node for node in jax.tree.leaves(self.model, is_leaf=_is_layer) if _is_layer(node)]
        self.windowed = any(layer.algorithm.credit == "carry" for layer in layers)
        given = ", ".join(f"{k}={v}" for k, v in options)
        self.words = "; ".join([*draw.words, *([given] if given else [])])
        self.explained = sg.explain(self.model, jnp.ones(SIZE))
        self._compare = eqx.filter_jit(self._gradients)

    def _gradients(self, model, xs, ws):
        parameters, rest = eqx.partition(model, eqx.is_inexact_array)

        def through(model):
            body = lambda carry, now: (lambda new: (new[0], loss(new[1], now[1])))(model(carry, now[0]))
            return jnp.sum(jax.lax.scan(body, model.init(key=KEY), (xs, ws))[1])

        true = jax.grad(lambda p: through(plain(eqx.combine(p, rest))))(parameters)
        if self.windowed:
            return jax.tree.leaves(jax.grad(lambda p: through(eqx.combine(p, rest)))(parameters)), jax.tree.leaves(true)

        def one(so_far, now):
            carry, total = so_far

            def objective(p):
                new, y = eqx.combine(p, rest)(carry, now[0])
                return loss(y, now[1]), new

            gradient, carry = jax.grad(objective, has_aux=True)(parameters)
            return (carry, jax.tree.map(jnp.add, total, gradient)), None

        start = model.init(key=KEY), jax.tree.map(jnp.zeros_like, parameters)
        online = jax.lax.scan(one, start, (xs, ws))[0][1]
        return jax.tree.leaves(online), jax.tree.leaves(true)

    def errors(self, seed: int) -> dict[str, float | None]:
        """For each parameter the relative error of its online gradient; None where the true one is 0 and so is it."""
        rng = np.random.default_rng((self.number, seed))
        noisy = lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape) if eqx.is_inexact_array(leaf) else leaf
        model = jax.tree.map(noisy, self.model)
        draw = lambda *shape: jnp.asarray(rng.normal(size=shape))
        online, true = self._compare(model, draw(STEPS, SIZE), (draw(STEPS, SIZE), draw(STEPS, SIZE)))
        paths = jax.tree_util.tree_leaves_with_path(eqx.filter(self.model, eqx.is_inexact_array))
        names = [jax.tree_util.keystr(path).lstrip(".") for path, _ in paths]
        return {name: _relative(np.asarray(a), np.asarray(b)) for name, a, b in zip(names, online, true, strict=True)}

    def line(self, seed: int) -> dict:
        """One model, judged: the verdict of each part with the largest error of its parameters."""
        errors, parts = self.errors(seed), {}
        verdicts = {each.path: each.gradient for each in (*self.explained.layers, *self.explained.parameters)}
        for path, verdict in verdicts.items():
            own = [e for name, e in errors.items() if name == path or name.startswith(f"{path}.")]
            own = [error for error in own if error is not None]
            parts[path] = [verdict, float(f"{max(own):.2g}") if own else None]
        wrong = [p for p, (v, e) in parts.items() if v == "exact" and e is not None and not e <= TOLERANCE]
        timid = [p for p, (v, e) in parts.items() if v != "exact" and e is not None and e <= TOLERANCE]
        return {
            "program": self.number, "seed": seed, "topology": self.topology, "model": self.words, "parts": parts,
            "exact": self.explained.exact, "wrong": wrong, "timid": timid,
        }  # fmt: skip


def _is_layer(node):
    return isinstance(node, sg.Recurrent)


def _relative(got, want):
    size, off = np.linalg.norm(want), np.linalg.norm(got - want)
    if size < 1e-12:
        return None if off < 1e-12 else float("inf")
    return float(off / size)


def table(lines) -> dict[str, dict[str, float]]:
    """By topology: models; parts (layers, and parameters outside of them) that were called exact, of these wrongly;
    parts that were not although they are, and the share of models that have one; programs, and those of which a part
    was never called exact although it is with all weights (a verdict holds for all weights and inputs)."""
    rows = collections.defaultdict(lambda: collections.Counter())
    programs = collections.defaultdict(lambda: collections.defaultdict(list))
    for line in lines:
        row = rows[line["topology"]]
        programs[line["topology"]][line["program"]].append(set(line["timid"]))
        told = [v for v, error in line["parts"].values() if error is not None]
        row.update(
            models=1, models_exact=line["exact"], parts=len(told), parts_exact=told.count("exact"),
            wrong_exact=len(line["wrong"]), too_timid=len(line["timid"]), models_too_timid=bool(line["timid"]),
        )  # fmt: skip
    return {
        name: {
            **row,
            "too_timid_share": row["models_too_timid"] / row["models"],
            "programs": len(programs[name]),
            "programs_too_timid": sum(bool(set.intersection(*each)) for each in programs[name].values()),
        }
        for name, row in sorted(rows.items())
    }


def printed(rows) -> str:
    columns = ("models", "models_exact", "parts", "parts_exact", "wrong_exact", "too_timid", "too_timid_share")
    columns = (*columns, "programs", "programs_too_timid")
    lines = [f"{'topology':<24}" + "".join(f"{c.replace('_', ' '):>20}" for c in columns)]
    for name, row in rows.items():
        mark = " *" if name in DOCUMENTED else ""
        cells = [f"{row[c]:.1%}" if c == "too_timid_share" else f"{row[c]:,}" for c in columns]
        lines.append(f"{name + mark:<24}" + "".join(f"{cell:>20}" for cell in cells))
    return "\n".join(lines)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", type=int, default=2000, help="how many models in all")
    parser.add_argument("--weights", type=int, default=25, help="models of one program")
    parser.add_argument("--out", type=Path, required=True, help="the folder of log.jsonl and summary.json")
    options = parser.parse_args(arguments)
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {(line["program"], line["seed"]) for line in lines}
    start = time.monotonic()
    for number in range(-(-options.models // options.weights)):
        waiting = [seed for seed in range(options.weights) if (number, seed) not in done]
        if not waiting:
            continue
        program = Program(number)
        for seed in waiting:
            try:
                lines.append(program.line(seed))
            except RuntimeError as error:  # an algorithm that draws, within a differentiated loop: JAX says no
                print("refused", program.topology, program.words, str(error).splitlines()[0], flush=True)
                break
            with log.open("a") as file:
                file.write(json.dumps(lines[-1]) + "\n")
            if lines[-1]["wrong"]:
                print("WRONG", lines[-1], flush=True)
        if number % 13 == 12:  # what was compiled takes memory
            jax.clear_caches()
        print(f"{len(lines)} models, {time.monotonic() - start:.0f} s: {program.topology}: {program.words}", flush=True)
    rows = table(lines)
    (options.out / "summary.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(printed(rows))
    return int(any(row["wrong_exact"] for row in rows.values()))


if __name__ == "__main__":
    raise SystemExit(main())
