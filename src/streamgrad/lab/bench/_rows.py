"""The rows of the benchmark: what is timed beside what, and the ratio that counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ...algorithms import RTRL, SnAp
from ...cells import GRU, LSTM, Vanilla
from ...recurrent import Recurrent
from ...wiring import Columns, Sparse
from . import _deep as deep, _deferred as deferred, _learner as of_learner, _programs as programs, _scaling as scaling
from ._bytes import counts
from ._timing import Program, interleaved

KEY = jax.random.key(0)


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison.

    - `title`, `detail`: what is measured;
    - `make(steps)`: the programs, by name;
    - `ratio(times)`: the figure of merit from microseconds a step by name; `meaning`: what it says;
    - `to_reach`, `stretch`: aims for the ratio, None for a row that is reported only; `larger_is_better`: for
      bandwidth;
    - `counts()`: what is counted and not timed, by name.
    """

    title: str
    detail: str
    make: Callable[[int], dict[str, Program]]
    ratio: Callable[[dict[str, float]], float]
    meaning: str
    to_reach: float | None
    stretch: float | None
    steps: int = 2048
    larger_is_better: bool = False
    counts: Callable[[], dict[str, Any]] = dict

    def reached(self, ratio: float) -> str:
        """Which aim a ratio reaches: stretch, yes, no; or that there is no aim."""
        if self.to_reach is None or self.stretch is None:
            return "no aim"
        met = lambda aim: ratio >= aim if self.larger_is_better else ratio <= aim
        return "stretch" if met(self.stretch) else "yes" if met(self.to_reach) else "no"


#: Programs whose results are further apart than this do not do the same: their times say nothing.
SAME = 1e-3


def measure(row: Row, rounds: int = 9, steps: int | None = None) -> dict:
    """Time a row's programs in turn: microseconds a step and the ratio."""
    times = interleaved(row.make(steps or row.steps), rounds)
    ratio = row.ratio({name: t["median"] for name, t in times.items()})
    counts = row.counts()
    wrong = counts.get("deviation", 0.0) > SAME
    return {
        "row": row.title,
        "detail": row.detail,
        "microseconds_a_step": times,
        "ratio": ratio,
        "meaning": row.meaning,
        "to_reach": row.to_reach,
        "stretch": row.stretch,
        "reached": "wrong" if wrong else row.reached(ratio),
        "counts": counts,
    }


def _beside_bptt(cell, algorithm, steps, timed=programs.online, **options):
    layer = Recurrent(cell, algorithm)
    return {
        "forward only": programs.forward(cell, steps),
        "BPTT(128)": programs.bptt(cell, steps, **options),
        "streamgrad": timed(layer, steps),
    }


def _dense(steps):
    cell = GRU(32, 128, key=KEY)
    return _beside_bptt(cell, SnAp(1), steps) | {
        "BPTT(128), input product hoisted": programs.bptt(cell, steps, hoisted=True)
    }


def _sparse(steps):
    return _beside_bptt(GRU(32, 128, wiring=Sparse(fan_in=8), input_wiring=Sparse(fan_in=8), key=KEY), SnAp(1), steps)


def _large_sparse(steps):
    return _beside_bptt(GRU(32, 1024, wiring=Sparse(fan_in=16), key=KEY), SnAp(1), steps)


def _snap2_gru(gates):
    def make(steps):
        wiring = Sparse(fan_in=8, gates=gates)
        cell = GRU(32, 128, wiring=wiring, input_wiring=Sparse(fan_in=8), key=KEY)
        return _beside_bptt(cell, SnAp(2), steps, timed=programs.influence)

    return make


def _snap2_rnn(steps):
    cell = Vanilla(32, 1024, wiring=Sparse(density=1 / 64), input_wiring=Sparse(fan_in=16), key=KEY)
    return _beside_bptt(cell, SnAp(2), steps, timed=programs.influence)


def _rtrl(steps):
    cell = GRU(16, 64, key=KEY)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(cell))
    return _beside_bptt(cell, RTRL(), steps) | {"bare product D J": programs.product(64, parameters, steps)}


def _bandwidth(steps):
    count = 161 * 3 * 128
    return {
        "J and W": programs.trace_and_update(161, 3, 128, steps),
        "in-place loop": programs.in_place(2 * count, steps),
    }


def _streams(steps):
    layer = Recurrent(GRU(32, 128, key=KEY), SnAp(1))
    return {f"{n} stream{'s'[: n != 1]}": programs.streams(layer, n, steps // n) for n in (1, 4, 16)}


COLUMNS = (128, 512, 1024, 4096)


def _columns(steps):
    layers = {n: Recurrent(LSTM(16, n, wiring=Columns(), key=KEY), SnAp(1)) for n in COLUMNS}
    return {f"{n} columns": programs.online(layer, max(128, steps * 128 // n)) for n, layer in layers.items()}


def _slope(times):
    """Of log time against log units."""
    return float(np.polyfit(np.log(COLUMNS), np.log([times[f"{n} columns"] for n in COLUMNS]), 1)[0])


def _block(size, streams=None):
    """What makes and what counts a block with and without its traces."""
    return {
        "make": lambda steps: deep.with_traces(size, steps // (streams or 1), streams),
        "counts": lambda: counts(deep.block(size, SnAp(1)), streams),
        "ratio": _over("inference + traces", "inference"),
        "meaning": "of inference's time",
    }


def _over_better_bptt(times):
    return times["chunked SnAp-1"] / min(time for name, time in times.items() if name.startswith("BPTT"))


def _sequential_over_associative(times):
    return max(times[f"sequential, batch {n}"] / times[f"associative, batch {n}"] for n in (1, 16))


def _over(name, base):
    return lambda times: times[name] / times[base]


def _beyond(name, usual, base):
    return lambda times: (times[name] - times[base]) / (times[usual] - times[base])


ROWS = {
    "dense": Row(
        "dense GRU, SnAp-1 + SGD", "GRU 32 -> 128, an update every step", _dense,
        _over("streamgrad", "BPTT(128)"), "over plain BPTT", 0.75, 0.6,
    ),
    "bandwidth": Row(
        "J and W of SnAp-1", "161 x 3 x 128, float32; four passes against the in-place loop's two", _bandwidth,
        lambda t: t["in-place loop"] / t["J and W"], "of the in-place loop's bandwidth", 0.65, 0.85,
        larger_is_better=True,
    ),
    "sparse": Row(
        "sparse GRU, SnAp-1 + SGD", "GRU 32 -> 128, fan-in 8", _sparse,
        _over("streamgrad", "BPTT(128)"), "over BPTT", 0.9, 0.7,
    ),
    "streams": Row(
        "a batch of streams, SnAp-1 + SGD", "GRU 32 -> 128, 16 streams", _streams,
        lambda t: t["16 streams"] / 16 / t["1 stream"], "of a single stream's time, for each stream", 1.3, 1.0,
    ),
    "large-sparse": Row(
        "large sparse GRU, SnAp-1 + SGD", "GRU 32 -> 1024, fan-in 16, dense input", _large_sparse,
        _over("streamgrad", "BPTT(128)"), "over BPTT", 0.9, 0.7, steps=512,
    ),
    "snap2-gru": Row(
        "SnAp-2, J alone, gates with own patterns", "GRU 32 -> 128, fan-in 8", _snap2_gru("own"),
        _over("streamgrad", "BPTT(128)"), "over BPTT", 13.0, 7.0, steps=512,
    ),
    "snap2-gru-shared": Row(
        "SnAp-2, J alone, gates sharing a pattern", "GRU 32 -> 128, fan-in 8", _snap2_gru("shared"),
        _over("streamgrad", "BPTT(128)"), "over BPTT", 13.0, 7.0, steps=512,
    ),
    "snap2-rnn": Row(
        "SnAp-2, J alone", "RNN 32 -> 1024, 98.4% sparse", _snap2_rnn,
        _over("streamgrad", "BPTT(128)"), "over BPTT", 5.0, 3.0, steps=256,
    ),
    "rtrl": Row(
        "RTRL, whole step + SGD", "GRU 16 -> 64", _rtrl,
        _over("streamgrad", "bare product D J"), "over the bare product", 1.25, 1.1, steps=128,
    ),
    "columns": Row(
        "columns, SnAp-1 + SGD", "LSTM, Columns(), 16 inputs, 128 to 4096 units", _columns,
        _slope, "slope of log time over log units", 1.15, 1.05,
    ),
    "learner-sgd": Row(
        "Learner.run beside a loop by hand, SGD", "GRU 32 -> 128 and a readout, SnAp-1",
        ratio=_over("Learner.run", "by hand"), meaning="of the loop by hand", to_reach=1.1, stretch=1.0,
        **of_learner.beside_by_hand("SGD"),
    ),
    "learner-adam": Row(
        "Learner.run beside a loop by hand, Adam", "GRU 32 -> 128 and a readout, SnAp-1",
        ratio=_over("Learner.run", "by hand"), meaning="of the loop by hand", to_reach=1.1, stretch=1.0,
        **of_learner.beside_by_hand("Adam"),
    ),
    "learner-every-8": Row(
        "Learner.run beside a loop by hand, an update in 8 steps", "GRU 32 -> 128 and a readout, SnAp-1, SGD",
        ratio=_over("Learner.run", "by hand"), meaning="of the loop by hand", to_reach=1.1, stretch=1.0,
        **of_learner.beside_by_hand("SGD", every=8),
    ),
    "learner-bptt": Row(
        "Learner.run beside BPTT by hand", "GRU 32 -> 128 and a readout, windows of 128, SGD",
        ratio=_over("Learner.run", "by hand"), meaning="of BPTT by hand", to_reach=1.1, stretch=1.0,
        **of_learner.beside_by_hand("SGD", every=of_learner.WINDOW, through=True),
    ),
    "filter": Row(
        "the Kalman filter", "GRU 8 -> 16 and a readout, SnAp-1", of_learner.filters,
        _over("Kalman, unit blocks", "Adam"), "unit blocks over Adam", None, None, steps=512,
    ),
    "python": Row(
        "a step called from Python, its output read", "GRU 8 -> 32 and a readout, SGD", of_learner.rows,
        lambda t: t.get("session", t["step"]) - t["compiled"], "µs beyond the compiled step, by the fastest way",
        10.0, 5.0, steps=1024,
    ),
    "block-128": Row(
        "a deep block with its traces, no gradient", "LRU, N = H = 128, batch 1; the aim holds for time and for bytes",
        to_reach=1.5, stretch=1.3, **_block(128),
    ),
    "block-512": Row(
        "a deep block with its traces, no gradient", "LRU, N = H = 512, batch 1; the aim holds for time and for bytes",
        to_reach=1.5, stretch=1.3, steps=512, **_block(512),
    ),
    "block-128-batch-16": Row(
        "a deep block with its traces, no gradient", "LRU, N = H = 128, 16 streams share the weights but no traces",
        to_reach=None, stretch=None, **_block(128, 16),
    ),
    "network": Row(
        "a whole deep network, learning online", "4 blocks, H = 128, LRU of N = 64, batch 1, an update at every step",
        lambda steps: deep.price(128, 64, 4, steps),
        _over("state, traces, gradient, update", "state"), "of the time of its state alone", None, None, steps=512,
    ),
    "chunk-128": Row(
        "the gradient of a chunk", "the same block, N = H = 128, 1024 steps, batch 1, loss of all steps",
        lambda steps: deep.gradients(128, steps),
        _over_better_bptt, "over the better BPTT", 1.0, 0.9, steps=1024,
    ),
    "scan-128": Row(
        "the states of a chunk", "LRU, N = H = 128, 1024 steps, from the inputs",
        lambda steps: deep.states(128, steps),
        _sequential_over_associative, "sequential over associative, the worse batch", 1.0, 0.5, steps=1024,
    ),
    **{
        f"deferred-{name}": Row(
            "traces without a gradient, written once in some steps", f"{name}, {steps} steps",
            ratio=_beyond("deferred", "traces", "state"), meaning="of the usual traces' time, both beyond the state's",
            to_reach=0.4, stretch=0.3, steps=1024, **deferred.traces(name),
        )
        for name, (_, steps) in deferred.CELLS.items()
    },
    **{
        f"deferred-learner-{name}": Row(
            "Learner.run with a target every 16th step", f"{name} and a readout, SGD",
            ratio=_over("deferred", "traces"), meaning="of the same with usual traces",
            to_reach=None, stretch=None, steps=512, **deferred.learners(name, 16),
        )
        for name in ("lru-128", "lru-512", "rtu-512")
    },
    **{
        f"growth-{name}": Row(
            f"{type(algorithm).__name__} + SGD, how a step grows", f"{kind.__name__} 32 -> 64 to 1024",
            scaling.by_size(algorithm, kind), scaling.slope(kind), "slope of log time over log parameters", aim, 1.0,
            steps=1024,
        )
        for name, (algorithm, kind, aim) in scaling.SLOPES.items()
    },
    **{
        f"batch-{name}": Row(
            f"{type(algorithm).__name__} + SGD, a batch of streams", "GRU 32 -> 128, 16 streams",
            scaling.by_batch(algorithm), scaling.ratio, "times the step of one stream", 20.0, 16.0, steps=steps,
        )
        for name, (algorithm, _, _), steps in [
            (name, row, 64 if name == "kf-rtrl" else 512) for name, row in scaling.SLOPES.items()
        ]
    },
}  # fmt: skip
