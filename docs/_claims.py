"""What results.md and fidelity.md say in figures, computed from the raw files in results/: a function for each mark
`<!-- say: NAME -->`, written by `python docs/_results.py`. Figures of others stand here as they were published."""

import datetime
import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev

import jax

from streamgrad import cells, wiring

RESULTS = Path(__file__).parent.parent / "results"
SAID: dict[str, Callable[[], str]] = {}


def said(function: Callable[[], str]) -> Callable[[], str]:
    """What stands at the mark of this name, with hyphens."""
    SAID[function.__name__.replace("_", "-")] = function
    return function


@functools.cache
def header(run: str) -> dict:
    return json.loads((RESULTS / run / "run.json").read_text("utf-8"))


@functools.cache
def rows(run: str) -> tuple[dict, ...]:
    return tuple(json.loads(line) for line in (RESULTS / run / "results.jsonl").read_text("utf-8").splitlines())


def values(run: str, metric: str, split: str, *, final: bool = True, **variant) -> list[float]:
    """The values of every seed; with `final=False`, of every step, too. Raises where there is none."""
    found = [
        row[metric]
        for row in rows(run)
        if row["split"] == split
        and (row["final"] or not final)
        and variant.items() <= row["variant"].items()
        and row.get(metric) is not None
    ]
    if not found:
        raise ValueError(f"{run} has no {metric} of {variant} in {split}")
    return found


def number(found: list[float], digits: int = 3, times: float = 1.0) -> str:
    """Mean ± standard deviation."""
    spread = f" ± {times * stdev(found):.{digits}f}" if len(found) > 1 else ""
    return f"{times * mean(found):.{digits}f}{spread}"


def table(head: list[str], lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines))


def source(*runs: str) -> str:
    return "\n".join(f"`{header(run)['command']}` · raw file: `results/{run}/results.jsonl`\n" for run in runs).rstrip()


# Columns with sparse links.

SPARSE = (0.1, 0.5, 1.0, 2.0, 5.0, "dense")
#: Shares of right signs that the authors' public code prints, recurrent test-bed, for these s.
PUBLISHED = (0.914, 0.781, 0.725, 0.596, 0.531, 0.502)


def signs(memory: str, metric: str = "same_sign") -> list[list[float]]:
    variant = {"memory": memory, "credit": "SnAp-1", "test-bed": "recurrent"}
    return [values("columns-gradient", metric, "end", s=s, **variant) for s in SPARSE]


@said
def columns_beside_the_published_code() -> str:
    """The integrating column first: it is the harder one."""
    lines = []
    for name, found in (("integrator", "integrator"), ("gated", "gated")):
        for metric, label, times, digits in (("same_sign", "right sign (%)", 100, 1), ("cosine", "cosine", 1, 2)):
            lines.append([name, label, *(number(v, digits, times) for v in signs(found, metric))])
    lines.insert(1, ["*published code*", "right sign (%)", *(f"{100 * p:.1f}" for p in PUBLISHED)])
    off = [abs(mean(v) - p) for v, p in zip(signs("integrator"), PUBLISHED, strict=True)]
    gap = [mean(v) - p for v, p in zip(signs("gated"), PUBLISHED, strict=True)]
    return (
        table(["column", "", *(f"s = {s:g}" if s != "dense" else s for s in SPARSE)], lines)
        + "\n\n"
        + f"The integrating column is within {100 * max(off):.0f} points of the published code everywhere (mean "
        + f"{100 * mean(off):.0f}); the gated one, which forgets what it has heard of others, would be up to "
        + f"{100 * max(gap):.0f} points kinder. With an integrator and links the estimate is not far from a guess: at "
        + f"s = 1 a cosine of {mean(signs('integrator', 'cosine')[2]):.2f} instead of "
        + f"{mean(signs('gated', 'cosine')[2]):.2f}.\n\n"
        + source("columns-gradient")
    )


# Copy: what holds at which rate.

KINDS = (("RTRL", "token"), ("SnAp-3", "token"), ("SnAp-2", "token"), ("SnAp-3", "sequence"), ("BPTT", "sequence"))


def early(cell: str, network: str, run: str, rate: float, learning: str, update: str) -> float:
    """L less the bits a character, at the end of the tuning runs."""
    variant = {"cell": cell, "network": network, "rate": rate, "learning": learning, "update": update}
    return -mean(values(run, "loss", "tuning", **variant))


@said
def snap_by_rate() -> str:
    at = lambda rate, kind: early("gru", "sparse-32-2", "snap-copy", rate, *kind)
    rates = header("snap-copy")["config"]["rates"]
    lines = []
    for rate in rates:
        found = [at(rate, kind) for kind in KINDS]
        lines.append([f"{rate:g}", *(f"**{v:.2f}**" if v == max(found) else f"{v:.2f}" for v in found)])
    head = ["rate", *(f"{learning}, {'token' if update == 'token' else 'string'}" for learning, update in KINDS)]
    tokens = header("snap-copy")["config"]["tuning_tokens"]
    ahead = at(0.003, KINDS[0]) - at(0.003, KINDS[-1])
    best = {kind: max(rates, key=lambda rate: at(rate, kind)) for kind in (KINDS[0], KINDS[-1])}
    behind = at(best[KINDS[-1]], KINDS[-1]) - at(best[KINDS[0]], KINDS[0])
    times = best[KINDS[-1]] / best[KINDS[0]]
    return (
        f"GRU, *sparse-32-2*, L less the bits a character after the first {tokens:,} tokens, by learning rate (the "
        "tuning runs: 3 seeds, none of those above):\n\n" + table(head, lines) + "\n\n"
        f"**At a small rate and early, an update at every token is ahead** (.003: RTRL by token {ahead:.1f} ahead "
        "of BPTT "
        f"by string); **when each may take its best rate it is behind** (by {behind:.1f}): BPTT's best is {times:.0f} "
        f"times as high. BPTT's best, {best[KINDS[-1]]:g}, is the largest of the list, so that it may be further ahead "
        "than this."
    )


@said
def snap_with_128_units() -> str:
    run = "snap-copy-128"
    kinds = ("SnAp-1", "token"), ("SnAp-2", "token"), ("SnAp-1", "sequence"), ("SnAp-2", "sequence")
    return _at_every_rate(run, "2 each (98.4% of the weights are zero)", kinds) + _along(run) + source(run)


@said
def snap_with_128_denser_units() -> str:
    run = "snap-copy-128-8"
    kinds = ("SnAp-1", "token"), ("SnAp-1", "sequence")
    return _at_every_rate(run, "8 each (93.8% of the weights are zero)", kinds) + source(run)


def _at_every_rate(run: str, heard: str, kinds: tuple[tuple[str, str], ...]) -> str:
    """The length that each learner reaches at each rate, BPTT last."""
    config = header(run)["config"]
    kinds = (*kinds, ("BPTT", "sequence"))
    lines, best, count = [], {}, dict.fromkeys(kinds, 0)
    for rate in config["rates"]:
        line = [f"{rate:g}"]
        for learning, update in kinds:
            try:
                found = values(run, "length", "end", learning=learning, update=update, rate=rate)
            except ValueError:
                line.append("–")
                continue
            line.append(number(found, 1))
            count[learning, update] += 1
            best[learning, update] = max(best.get((learning, update), (0.0, 0.0)), (mean(found), rate))
        lines.append(line)
    head = ["rate", *(f"{learning}, {'token' if update == 'token' else 'string'}" for learning, update in kinds)]
    ends = ", ".join(
        f"{learning} by {'token' if update == 'token' else 'string'} {length:.1f} (at {rate:g})"
        for (learning, update), (length, rate) in best.items()
        if count[learning, update] == len(config["rates"])
    )
    return (
        f"L reached after {config['tokens']:,} tokens, {config['seeds']} seeds, a GRU of 128 units whose gates hear "
        f"{heard}, every rate for the whole length:\n\n"
        + table(head, lines)
        + f"\n\nEach at its best, where every rate was run: {ends}.\n\n"
    )


def _along(run: str) -> str:
    """SnAp-2 by token beside BPTT by string, at every rate and every look along the way."""
    config = header(run)["config"]
    moments = range(config["every"], config["tokens"] + 1, config["every"])
    at = lambda learning, rate, step: mean(
        row["length"]
        for row in rows(run)
        if row["split"] == "token"
        and row["step"] == step
        and row["variant"]["learning"] == learning
        # BPTT's rows stand beside those of the updates at every token, too
        and row["variant"]["rate"] == rate
    )
    ahead = {(rate, t): at("SnAp-2", rate, t) - at("BPTT", rate, t) for rate in config["rates"] for t in moments}
    first, last = max(ahead, key=lambda k: ahead[k]), min(ahead, key=lambda k: ahead[k])
    return (
        f"At {len(config['rates'])} rates and {len(moments)} moments along the way SnAp-2 by token is ahead of BPTT by "
        f"string by {ahead[first]:.1f} at most (rate {first[0]:g}, {first[1]:,} tokens: within the spread) and "
        "behind by up "
        f"to {-ahead[last]:.1f} (rate {last[0]:g}, {last[1]:,} tokens). So here, at 98.4% zeros, what SnAp-2 "
        "drops costs more "
        "than updates at every token bring, at small rates too.\n\n"
    )


# Atari: whole streams.


def along(run: str) -> dict[str, tuple[float, float, float]]:
    """Mean errors of each learner: of the last stretch, of the second half, of the whole stream."""
    found = {}
    for learner in dict.fromkeys(row["variant"]["learner"] for row in rows(run)):
        by_step: dict[int, list[float]] = {}
        for row in rows(run):
            if row["split"] == "stream" and row["variant"]["learner"] == learner:
                by_step.setdefault(row["step"], []).append(row["error"])
        means = [mean(by_step[step]) for step in sorted(by_step)]
        found[learner] = means[-1], mean(means[len(means) // 2 :]), mean(means)
    return found


def stretches(run: str) -> str:
    lines = [[learner, *(f"{part:.3f}" for part in parts)] for learner, parts in along(run).items()]
    return table(["learner", f"last {header(run)['config']['every']:,} steps", "second half", "whole stream"], lines)


@said
def atari_whole_stream() -> str:
    whole = along("atari-prediction")
    floor = whole["running mean"]
    learned = [name for name in whole if name not in ("predict zero", "running mean")]
    beaten = lambda k: [name for name in learned if whole[name][k] < floor[k]]
    best = min(learned, key=lambda name: whole[name][2])
    not_all = [name for name in learned if name not in beaten(2)]
    return (
        stretches("atari-prediction") + "\n\n"
        f"All {len(beaten(0))} learners are below the mean of all returns known so far in the last 5,000 steps "
        "alone; over "
        f"the whole stream {len(beaten(2))} of {len(learned)} are ({', '.join(not_all)} not). Over the whole stream "
        f"{best} is first ({whole[best][2]:.3f}; running mean {floor[2]:.3f})."
    )


@said
def atari_longer() -> str:
    run = "atari-prediction-longer"
    whole = along(run)
    ratio = whole["columnar-7"][1] / whole["tbptt-16-2"][1]
    return (
        stretches(run) + "\n\n"
        f"All learners are below the running mean by more than half now. The order stays: the error of seven columns "
        f"is {100 * (ratio - 1):.0f}% above that of TBPTT 16:2 in the second half."
    )


# What SnAp keeps.

NETS = ((256, 0.25), (512, 0.0625), (1024, 0.0156), (2048, 0.0039))
INPUTS = 1  # of a network whose recurrence is what counts


@functools.cache
def _kept(units: int, density: float, gates: str) -> list[tuple[float, float]]:
    fan_in = round(units * density)
    links = wiring.Sparse(fan_in=fan_in, gates=gates)
    structure = cells.GRU(INPUTS, units, wiring=links, key=jax.random.key(0)).core().structure
    forward = structure.parameters
    return [(structure.density(n), structure.products(n) / forward) for n in (1, 2)]


@said
def snap_sparsity() -> str:
    lines = []
    for units, density in NETS:
        for gates in ("own", "shared"):
            (one, first), (two, second) = _kept(units, density, gates)
            found = f"{100 * one:.2f}", f"{first:,.0f}", f"{100 * two:.1f}", f"{second:,.0f}"
            lines.append([f"GRU {units}, {100 * (1 - density):.1f}% zeros", gates, *found])
    head = ["network", "links of the gates", "SnAp-1 keeps (%)", "× forward", "SnAp-2 keeps (%)", "× forward"]
    return table(head, lines)


# Hours.


#: Seconds of processor time, as `time` told them, of runs that shared their core with others.
CPU = {"columns-gradient": 209, "snap-copy-128": 688}
#: Runs that shared their core, or were stopped meanwhile, whose processor time nobody read.
UNKNOWN = ("fashion", "mnist1d", "snap-charlm-shakespeare")
#: Seconds by the clock that a run had taken alone on a core, before runs wrote down their processor time.
EARLIER = {
    "digits": 1129,
    "atari-prediction": 1787,
    "listops": 948,
    "digits-stream": 666,
    "forecast": 1149,
    "forecast-more": 189,
}


def hours(run: str) -> float | None:
    """Hours of a run on its one core; None where they are not known: it lies in parts."""
    if run in CPU:
        return CPU[run] / 3600
    about = header(run)
    if "cpu_seconds" in about and run not in UNKNOWN:
        return (EARLIER.get(run, 0) + about["cpu_seconds"]) / 3600
    if run in UNKNOWN or about.get("resumed") or not about["finished"]:
        return None
    began, ended = (datetime.datetime.fromisoformat(about[name]) for name in ("started", "finished"))
    found = (ended - began).total_seconds() / 3600
    return found if found < 10 else None  # merged from parts that lie days apart


@said
def hours_by_experiment() -> str:
    names = sorted(path.parent.name for path in RESULTS.glob("*/run.json"))
    cell = lambda run: (
        "not known"
        if hours(run) is None
        else f"{hours(run):.2f}{' CPU' if run in CPU or 'cpu_seconds' in header(run) else ''}"
    )
    total = math.fsum(hours(run) or 0 for run in names)
    lines = [[f"`{run}`", cell(run)] for run in names]
    return table(["run", "hours"], [*lines, ["all that are known", f"{total:.1f}"]])


def price(run: str, factor: float) -> str:
    """Core-hours of a larger run, from those of a smaller one and the ratio of their work."""
    found = hours(run)
    if found is None:
        raise ValueError(f"how long {run} took is not known")
    return f"{found * factor:.0f}" if found * factor >= 10 else f"{found * factor:.1f}"
