"""A step from Python with its output read: `step`, sessions, the loop on the device, and what one would take instead.

    python benchmarks/session/speed.py --out results/session
    python benchmarks/session/speed.py --out results/session --inline

One net (GRU 8 to 32 or LRU 32, SnAp-1, linear readout), one row at a time, the first entry of the prediction read after
each. Forms take turns, round after round; medians of rounds. torch's GRUCell (one-step truncation), braintrace's SnAp-1
on its own GRU and river's linear regression are timed where they are installed.
"""

import argparse
import contextlib
import json
import os
import platform
import time
from pathlib import Path

import jax
import numpy as np
import optax

import streamgrad as sg
from streamgrad.session import _native

ROWS = 2000


def nets(key):
    gru = sg.cells.GRU(8, 32, key=key)
    lru = sg.cells.LRU(8, 32, key=key)
    return {
        "GRU 8 to 32": sg.nn.Sequential([sg.Recurrent(gru, sg.SnAp(1)), sg.Readout(gru.out_size, 1, key=key)]),
        "LRU 32": sg.nn.Sequential([sg.Recurrent(lru, sg.SnAp(1)), sg.Readout(lru.out_size, 1, key=key)]),
    }


def forms(net, optimiser, xs, ys):
    """Functions that take some steps, by name."""
    key = jax.random.key(0)
    learner = sg.Learner(net, optimiser, loss=sg.losses.mse)
    kept = {"state": learner.init(key=key), "run": learner.init(key=key)}

    def run(n):
        kept["run"], out = learner.run(kept["run"], xs[:n], ys[:n])
        jax.block_until_ready(out)

    def step(n):
        for k in range(n):
            kept["state"], out = learner.step(kept["state"], xs[k], ys[k])
            float(out.prediction[0])

    def asked(n):
        for k in range(n):
            kept["state"], out = learner.step(kept["state"], xs[k], ys[k])
            float(np.asarray(out.prediction)[0])

    found, opened = {"run": run, "step": step, "step, read by NumPy": asked}, []
    for native in (False, True):
        if native and _native.why_not():
            continue
        session = learner.session(learner.init(key=key), native=native)
        opened.append(session)

        def held(n, session=session):
            for k in range(n):
                float(session.step(xs[k], ys[k]).prediction[0])

        found["session, native" if native else "session"] = held
    return found, opened


def peers(xs, ys, adam):
    found = {}
    try:
        import torch

        torch.set_num_threads(1)
        cell, head = torch.nn.GRUCell(8, 32), torch.nn.Linear(32, 1)
        parameters = [*cell.parameters(), *head.parameters()]
        optimiser = torch.optim.Adam(parameters, lr=1e-3) if adam else torch.optim.SGD(parameters, lr=1e-2)
        kept = {"h": torch.zeros(1, 32)}

        def one(n):
            for k in range(n):
                x, y = torch.from_numpy(xs[k])[None], torch.from_numpy(ys[k])[None]
                h = cell(x, kept["h"])
                said = head(h)
                optimiser.zero_grad()
                (0.5 * (said - y) ** 2).mean().backward()
                optimiser.step()
                kept["h"] = h.detach()
                float(said[0, 0])

        found["torch GRUCell, one-step truncation"] = one
    except ImportError:
        pass
    with contextlib.suppress(ImportError):
        found["braintrace GRUCell, SnAp-1"] = braintrace(xs, ys, adam)
    try:
        from river import linear_model

        model = linear_model.LinearRegression()
        rows = [dict(enumerate(x.tolist())) for x in xs]

        def linear(n):
            for k in range(n):
                model.predict_one(rows[k])
                model.learn_one(rows[k], float(ys[k, 0]))

        found["river LinearRegression"] = linear
    except ImportError:
        pass
    return found


def braintrace(xs, ys, adam):
    """Steps of the same sizes by braintrace, its own jitted step called with one row and its output read."""
    import brainstate
    from braintrace import SnAp, compile
    from braintrace.nn import GRUCell, Linear

    class Net(brainstate.nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.out = GRUCell(8, 32), Linear(32, 1)

        def update(self, x):
            return self.out(self.cell(x))

    model = Net()
    learner = compile(model, SnAp, xs[0], n=1)
    weights = model.states(brainstate.ParamState)
    optimiser = optax.adam(1e-3) if adam else optax.sgd(1e-2)
    values = lambda: {path: state.value for path, state in weights.items()}
    kept = brainstate.ShortTermState(optimiser.init(values()))

    @brainstate.transform.jit
    def step(x, y):
        def loss():
            said = learner(x)
            return 0.5 * ((said - y) ** 2).mean(), said

        gradient, said = brainstate.transform.grad(loss, weights, has_aux=True)()
        updates, kept.value = optimiser.update(gradient, kept.value, values())
        for path, state in weights.items():
            state.value = optax.apply_updates(state.value, updates[path])
        return said

    def one(n):
        for k in range(n):
            float(step(xs[k], ys[k])[0])

    return one


def machine():
    """The processor's name, and how many cores this process may use."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/session"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--inline", action="store_true", help="JAX runs programs in the calling thread")
    options = parser.parse_args()
    jax.config.update("jax_cpu_enable_async_dispatch", not options.inline)
    rng = np.random.default_rng(0)
    xs, ys = rng.normal(size=(ROWS, 8)).astype(np.float32), rng.normal(size=(ROWS, 1)).astype(np.float32)
    table = {}
    for name, net in nets(jax.random.key(0)).items():
        for rule, optimiser in (("SGD", optax.sgd(1e-2)), ("Adam", optax.adam(1e-3))):
            timed, opened = forms(net, optimiser, xs, ys)
            if name.startswith("GRU"):
                timed |= peers(xs, ys, rule == "Adam")
            taken = {form: [] for form in timed}
            for form in timed.values():
                form(300)
            for _ in range(options.rounds):
                for form, call in timed.items():
                    n = ROWS if form in ("run", "session, native") else 300
                    began = time.perf_counter()
                    call(n)
                    taken[form].append((time.perf_counter() - began) / n * 1e6)
            for session in opened:
                session.close()
            row = {form: {"median": float(np.median(t)), "best": min(t)} for form, t in taken.items()}
            table[f"{name}, {rule}"] = row
            for form, t in row.items():
                print(f"{name}, {rule:4}  {form:36} {t['median']:8.1f} µs  (best {t['best']:.1f})", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    about = {"python": platform.python_version(), "jax": jax.__version__, "machine": machine()}
    name = "speed-inline.json" if options.inline else "speed.json"
    (options.out / name).write_text(json.dumps({"about": about, "micros": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
