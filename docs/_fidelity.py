"""The tables of fidelity.md: each claim of a paper beside what came out here, and what closing a gap would cost."""

import json
from statistics import mean

from _claims import PUBLISHED, RESULTS, along, header, number, price, said, signs, table, values

HEAD = ["claim", "in the paper", "here", "size and seeds", "agrees?"]


def sized(run: str, words: str) -> str:
    return f"{words}, {header(run)['config']['seeds']} seeds; [`{run}`](results.md)"


def copying(mode: str) -> list[float]:
    return values("copy-memory-modes", "loss", "test", mode=mode)


@said
def claims_of_zucchet() -> str:
    depth = lambda d, credit: mean(values("copy-memory-depth", "loss", "test", depth=d, credit=credit))
    cell = lambda name: number(values("copy-memory", "loss", "test", mode="online", network=name))
    digit = lambda mode: number(values("digits", "accuracy", "test", mode=mode), 1, 100)
    curve = lambda mode: number(values("mnist1d", "accuracy", "test", mode=mode), 1, 100)
    cloth = lambda mode: number(values("fashion", "accuracy", "test", mode=mode), 1, 100)
    lists = lambda mode: number(values("listops", "accuracy", "test", mode=mode), 1, 100)
    found = json.loads((RESULTS / "bench" / "deep.json").read_text("utf-8"))["rows"]
    blocks = [(r["ratio"], r["counts"]["allocated_bytes"]["ratio"]) for r in found if r["name"].startswith("block-")]
    train = lambda run: header(run)["config"]["training"]
    work = lambda run: f"{train(run)['updates']:,} updates × {train(run)['batch']}"
    modes = ", ".join(f"{mode} {number(copying(mode))}" for mode in ("online", "lambda-gamma", "one-step", "spatial"))
    return table(
        HEAD,
        [
            [
                "Exact traces in every layer recall long copies; fewer traces, less",
                "order of the modes; 10,000 updates × 50, 10 seeds, the best rate of each (m)",
                f"nats a bit: BPTT {mean(copying('bptt')):.1e}, {modes}",
                sized("copy-memory-modes", f"4 × (128, 64), {work('copy-memory-modes')}"),
                "the order does; shorter, and of fewer seeds",
            ],
            [
                "More depth: credit across layers is what is missing, and alignment stays high",
                "depth to 4, H = 128 (m)",
                f"depth 4: BPTT {depth(4, 'BPTT'):.3f}, online {depth(4, 'online'):.3f}, one hop "
                f"{depth(4, 'online, 1 hop'):.3f}; cosines are on the results page",
                sized("copy-memory-depth", f"H = 64, depth 1 to 4, {work('copy-memory-depth')}"),
                "yes, but for the encoder, whose gradient has little to do with BPTT's at depth",
            ],
            [
                "Independent units learn where dense cells under SnAp-1 do not",
                "LRU ahead of a linear RNN and GRUs (m)",
                f"LRU {cell('LRU 4 x (128, 64)')}, linear RNN {cell('linear RNN 4 x (146, 64)')}, GRU 4 × (91, 91) "
                f"{cell('GRU 4 x (91, 91)')}, GRU 1 × 134 {cell('GRU 1 x 134, readout 1072')}",
                sized("copy-memory", work("copy-memory")),
                "yes; without BPTT beside each cell it is open whether the single GRU's cell or its gradient is "
                "at fault",
            ],
            [
                "Long-range tasks: online near BPTT",
                "sequential CIFAR, IMDB, ListOps",
                f"digits: BPTT {digit('bptt')}%, online {digit('online')}%, one-step {digit('one-step')}%; "
                f"Fashion-MNIST by row: BPTT {cloth('bptt')}%, online {cloth('online')}%, frozen {cloth('frozen')}%, "
                f"one-step {cloth('one-step')}%, spatial {cloth('spatial')}%; generated curves: BPTT {curve('bptt')}%, "
                f"online {curve('online')}%, one-step {curve('one-step')}%, spatial {curve('spatial')}%; "
                f"ListOps of 10 to 50 tokens: BPTT {lists('bptt')}%, online {lists('online')}%",
                sized("digits", f"3 × (64, 64), {work('digits')}") + "; " + sized("fashion", "4 × (64, 64)"),
                "on digits, clothes and curves nearly; ListOps has a gap; the long tasks themselves were not run",
            ],
            [
                "Time and memory merely double",
                "2 ×",
                f"one block: time {', '.join(f'{ratio:.2f}' for ratio, _ in blocks)} ×, memory "
                f"{', '.join(f'{ratio:.2f}' for _, ratio in blocks)} × (H = 128, H = 512, a batch of 16)",
                "[Speed](speed.md#deep-networks)",
                "yes for state and traces of one stream; a gradient and an update at every step cost more (below)",
            ],
        ],
    )


@said
def price_of_a_network() -> str:
    found = json.loads((RESULTS / "bench" / "network.json").read_text("utf-8"))["rows"][0]
    times = {name: time["median"] for name, time in found["microseconds_a_step"].items()}
    state = times["state"]
    lines = [[name, f"{time:.1f}", f"{time / state:.1f}"] for name, time in times.items()]
    names = list(times)
    return (
        table(["a step of", "µs", "× state alone"], lines) + "\n\n"
        "(The core was shared with others: ratios count, not times.) "
        f"Traces merely double the step ({times[names[1]] / state:.1f} ×). Pulling a gradient back at *every* "
        "step is dearer "
        f"({times[names[2]] / state:.1f} ×), and an update by Adam at every step, which reads and writes every "
        "weight, its "
        f"gradient and two moments, the dearest ({times[names[3]] / state:.1f} ×): with one stream these pass over all "
        "weights, where the state alone is one product with each. With weights frozen over a chunk the gradient takes "
        f"{times[names[4]] / state:.1f} × of a step online and {times[names[5]] / state:.1f} × by BPTT.\n\n"
        "`streamgrad bench network --out results/bench/network.json` · raw file: `results/bench/network.json`"
    )


@said
def claims_of_columns() -> str:
    zero = values("columns-gradient", "error", "end", s=0.0, memory="integrator", **{"test-bed": "recurrent"})
    shares = ", ".join(f"{mean(v):.2f}" for v in signs("integrator"))
    theirs = ", ".join(f"{p:.2f}" for p in PUBLISHED)
    pattern = lambda name: number(values("trace-patterning", "error", "end", learner=name), 4)
    condition = lambda name: number(values("trace-conditioning", "error", "end", learner=name), 4)
    game = lambda name: along("atari-prediction-longer")[name][1]
    return table(
        HEAD,
        [
            [
                "Without links the gradient is exact",
                "0 error",
                f"relative error {mean(zero):.0e} (float32); 1e-10 in float64 by a test",
                sized("columns-gradient", "20 columns of 5 features"),
                "yes",
            ],
            [
                "With sparse links signs stay mostly right",
                f"published code, s = .1 to dense: {theirs}",
                f"integrating column: {shares}",
                sized("columns-gradient", "the paper's test-bed"),
                "with the published code, yes; with many links half the signs are wrong; the gated column is kinder",
            ],
            [
                "Columns that grow predict trace patterning best",
                "50 M steps, 30 seeds; public code after 8 M: CCN .0036, columnar .0132, constructive .0077, "
                "TBPTT 15:4 "
                ".0051",
                f"CCN {pattern('ccn-20-4')}, columnar {pattern('columnar-7')}, constructive "
                f"{pattern('constructive-10')}, "
                f"TBPTT 15:4 {pattern('tbptt-15-4')}",
                sized("trace-patterning", "8 M steps"),
                "yes; seven columns with a better start do as well as growth",
            ],
            [
                "Trace conditioning: the same, with one pattern",
                "columns that grow first",
                f"CCN {condition('ccn-20-4')}, columnar {condition('columnar-7')}, constructive "
                f"{condition('constructive-10')}, TBPTT 15:4 {condition('tbptt-15-4')}; Bayes {condition('Bayes')}",
                sized("trace-conditioning", "8 M steps"),
                "yes",
            ],
            [
                "Atari: columns ahead of TBPTT",
                "54 games, 30 M steps",
                f"Breakout, 1 M steps, second half: columnar {game('columnar-7'):.3f}, CCN {game('ccn-20-5'):.3f}, "
                f"TBPTT 16:2 {game('tbptt-16-2'):.3f}; running mean {game('running mean'):.3f}",
                sized("atari-prediction-longer", "one game, a random player"),
                "no. Excluded as causes: a step size at the edge of the list (.03 and .0001 are worse for columns; on "
                "100,000 steps .03 is, too), and a stream too short (ten times as long, the order is the same)",
            ],
        ],
    )


@said
def claims_of_snap() -> str:
    reach = lambda run, learning, update: number(
        values(run, "length", "end", cell="gru", network="sparse-32-2", learning=learning, update=update), 1
    )
    bits = lambda learner: number(values("snap-charlm-longer", "bits", "end", learner=learner))
    short = lambda learner: number(values("snap-charlm", "bits", "end", learner=learner))
    plays = lambda name: number(values("snap-charlm-shakespeare", "bits", "end", learner=f"dense-128 {name}"))
    ratios = [
        mean(values("snap-bias", "ratio", "influence", credit="SnAp-1", learning=learning))
        for learning in header("snap-bias")["config"]["learning"]
    ]
    return table(
        HEAD,
        [
            [
                "Language model: BPTT < SnAp-1 < RFLO < UORO in bits",
                "GRU and LSTM of 128, WikiText-103 (m)",
                f"BPTT {bits('dense-64 BPTT')}, SnAp-1 {bits('dense-64 SnAp-1')}, RFLO {bits('dense-64 RFLO')}; "
                "after .8 M "
                f"characters UORO {short('dense-64 UORO')}, Frozen {short('dense-64 Frozen')}",
                sized("snap-charlm-longer", "GRU 64, Python's source, 6.3 M characters"),
                "the order does; UORO is worse than a frozen net",
            ],
            [
                "The same, on natural language, at the paper's size of the net",
                "GRU of 128, a readout of 1,024 (m)",
                ", ".join(f"{name} {plays(name)}" for name in ("BPTT", "SnAp-1", "RFLO", "Frozen")),
                sized("snap-charlm-shakespeare", "Shakespeare's plays and poems, 6.3 M characters"),
                "BPTT is ahead and Frozen far behind; SnAp-1 and RFLO cannot be told apart; a 5-gram model "
                f"({number(values('snap-charlm-shakespeare', 'bits', 'end', learner='5-gram'))}) is ahead of all",
            ],
            [
                "At equal parameters larger and sparser is better",
                "75 to 99.6% zeros",
                f"BPTT: dense-64 {short('dense-64 BPTT')}, sparse-128-4 of half the weights "
                f"{short('sparse-128-4 BPTT')}",
                sized("snap-charlm", ".8 M characters"),
                "not tested at equal parameters",
            ],
            [
                "Copy: updates at every token learn faster than BPTT",
                "128 units, rates to .001 (m)",
                f"at the best rate of each RTRL by token {reach('snap-copy', 'RTRL', 'token')}, SnAp-3 by token "
                f"{reach('snap-copy', 'SnAp-3', 'token')}, BPTT by string "
                f"{reach('snap-copy', 'BPTT', 'sequence')}; at small "
                "rates and early the other way round (below)",
                sized("snap-copy", "32 units, 94% zeros"),
                "at small rates and early; not at the best rates. Excluded as causes: the noise of small batches (64 "
                f"strings: RTRL {reach('snap-copy-batch', 'RTRL', 'token')}, BPTT "
                f"{reach('snap-copy-batch', 'BPTT', 'sequence')}), traces of older weights (taken anew at every token: "
                f"{reach('snap-copy-fresh', 'TBPTT-32', 'token')} against {reach('snap-copy', 'RTRL', 'token')})",
            ],
            [
                "SnAp-3 with BPTT's updates learns as BPTT",
                "close to it",
                f"SnAp-3 by string {reach('snap-copy', 'SnAp-3', 'sequence')}, BPTT "
                f"{reach('snap-copy', 'BPTT', 'sequence')}",
                sized("snap-copy", "32 units, 94% zeros"),
                "yes",
            ],
            [
                "Kept entries are the larger ones",
                "yes",
                f"{min(ratios):.1f} to {max(ratios):.1f} times larger in SnAp-1's pattern at the end of training",
                sized("snap-bias", "32 units"),
                "yes",
            ],
        ],
    )


# What closing a gap takes.

GAPS = (
    # what; the run whose hours are known; the ratio of work, in words and in figures; the command
    (
        "copy memory at the paper's size, five modes, 10 seeds",
        "copy-memory-modes",
        (10_000 * 50) / (4_000 * 20) * 10 / 3,
        "copy-memory-modes --seeds 10",
    ),
    (
        "depth 1 to 5 at H = 128, 3 seeds",
        "copy-memory-depth",
        (10_000 * 50) / (1_500 * 20) * 4 * 1.5,
        "copy-memory-depth --depths 1 2 3 4 5",
    ),
    (
        "other cells at the paper's size, BPTT beside each",
        "copy-memory",
        (10_000 * 50) / (2_000 * 20) * 2,
        "copy-memory",
    ),
    (
        "ListOps of 500 to 2,000 tokens, 4 × (256, 128), 10,000 updates",
        "listops",
        1250 / 30 * 16 * 4 / 3 * 10_000 / 1_700 * 2 / 3,  # of three runs at full length two count
        "listops --min-length 500 --max-length 2000 --network.depth 4 --network.width 256 --network.units 128 "
        "--training.updates 10000",
    ),
    (
        "Atari, four games more, 1 M steps each",
        "atari-prediction-longer",
        4,
        "atari-prediction --game Pong --steps 1000000 --every 50000 --tuning-steps 100000 --learners columnar-7 "
        "ccn-20-5 tbptt-16-2 --rates 0.03 0.01 0.003 0.001 0.0003",
    ),
    (
        "trace patterning, 50 M steps, 30 seeds",
        "trace-patterning",
        50 / 8 * 3,
        "trace-patterning --steps 50000000 --seeds 30",
    ),
    ("Fashion-MNIST by pixel, as many updates", "digits", 2.4 * 784 / 64 * 5 / 4 * 4 / 3 / 2, "fashion --by pixel"),
)


@said
def what_is_left() -> str:
    lines = [[what, price(run, factor), f"`streamgrad experiment {command}`"] for what, run, factor, command in GAPS]
    return table(["gap", "core-hours, about", "command"], lines)
