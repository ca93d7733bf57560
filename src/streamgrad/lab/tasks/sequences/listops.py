"""ListOps: nested lists of digits, whose value is one digit.

    [MAX 2 9 [MIN 4 7 ] 0 ]  ->  9

The grammar is that of Nangia and Bowman, "ListOps: a diagnostic dataset for latent tree learning" (2018),
with the operators and settings of Tay et al., "Long Range Arena" (2021). Of the original's marks, its
parentheses are left out: they say nothing that an operator and its `]` do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from statistics import median

import numpy as np
from jaxtyping import UInt8

from streamgrad.lab.tasks.sequences._sequences import Sequences, Splits, split

SYMBOLS = (*"0123456789", "[MIN", "[MAX", "[MED", "[SM", "]")
"""What each token stands for. A digit's token is the digit itself."""
CLOSE = SYMBOLS.index("]")
PADDING = 15
IN_SIZE = 20  # a round number: tokens 16 to 19 do not occur

OPERATORS: dict[int, Callable[[list[int]], int]] = {
    SYMBOLS.index("[MIN"): min,
    SYMBOLS.index("[MAX"): max,
    SYMBOLS.index("[MED"): lambda digits: int(median(digits)),
    SYMBOLS.index("[SM"): lambda digits: sum(digits) % 10,
}
LEAF = 0.75  # probability that an argument is a digit
PATIENCE = 200_000  # trials without a new expression, after which no more is expected


def listops(
    *,
    train: int = 10_000,
    valid: int = 1_000,
    test: int = 2_000,
    min_length: int = 10,
    max_length: int = 50,
    max_depth: int = 10,
    max_args: int = 10,
    time: int | None = None,
    balanced: bool = True,
    seed: int = 0,
) -> Splits:
    """Generated expressions and their values: one-hot tokens, in_size 20, 10 classes. No expression comes twice.

    **Arguments:**

    - `train`, `valid`, `test`: numbers of expressions.
    - `min_length`, `max_length`: tokens in an expression, both included.
    - `max_depth`: levels of nesting, from the outermost operator (1) to the innermost digits.
    - `max_args`: an operator has 2 to this many arguments, each number as likely. Above the last level
      an argument is a digit with probability 0.75, else one of MIN, MAX, MED and SM (sum modulo 10).
    - `time`: steps, padding at the end included. Default: `max_length` rounded up to a multiple of 16.
    - `balanced`: as many expressions of every value. Otherwise as the grammar gives them, where 0 and 9 are
      the most frequent.
    - `seed`: the same seed and settings give the same expressions.

    Long Range Arena has `min_length=500, max_length=2000, train=96_000, valid=2_000, test=2_000` and
    `balanced=False`.

    Raises `ValueError` where the settings allow no such expressions, or too few.
    """
    time = -(-max_length // 16) * 16 if time is None else time
    _check(min_length, max_length, max_depth, max_args, time)
    n = train + valid + test
    most = -(-n // 10) if balanced else n
    found: dict[bytes, int] = {}  # expression: value
    counts, trials = [0] * 10, 0
    uniform = _uniform(seed)
    while len(found) < n:
        trials += 1
        if trials > PATIENCE:
            raise ValueError(
                f"listops: {n} different expressions of {min_length} to {max_length} tokens were asked for, and after "
                f"{len(found)} no more are found: widen the lengths, allow more depth or arguments, or ask for fewer."
            )
        tokens = _expression(uniform, max_length, max_depth, max_args)
        if len(tokens) < min_length or bytes(tokens) in found:
            continue
        value = evaluate(tokens)
        if counts[value] < most:
            counts[value] += 1
            found[bytes(tokens)] = value
            trials = 0
    xs = np.full((len(found), time), PADDING, np.uint8)
    for row, tokens in zip(xs, found):
        row[: len(tokens)] = list(tokens)
    labels, lengths = np.array([*found.values()], np.int32), np.array([*map(len, found)], np.int32)
    sequences = Sequences(xs, labels, lengths, IN_SIZE, 10, "listops", PADDING)
    return Splits(*split(sequences, (train, valid, test), seed))


def evaluate(tokens: Iterable[int] | UInt8[np.ndarray, " length"]) -> int:
    """The value of an expression without its padding. MED of an even number of digits is rounded down.

    Raises `ValueError` where the tokens are not one whole expression.
    """
    stack: list[list[int]] = [[]]  # an operator and its arguments, for every list that is open
    for token in map(int, tokens):
        if token in OPERATORS:
            stack.append([token])
        elif 0 <= token < 10:
            stack[-1].append(token)
        elif token == CLOSE and len(stack) > 1 and len(stack[-1]) > 1:
            operator, *digits = stack.pop()
            stack[-1].append(OPERATORS[operator](digits))
        else:
            raise ValueError(f"token {token} ({_symbol(token)}) is out of place: the expression is damaged.")
    if len(stack) != 1 or len(stack[0]) != 1:
        raise ValueError("these tokens are not one whole expression: one is cut, or there are several.")
    return stack[0][0]


def _expression(uniform: Iterator[float], max_length: int, max_depth: int, max_args: int) -> list[int]:
    """The tokens of one random expression; none as soon as it must become longer than `max_length`."""
    tokens: list[int] = []
    missing = [1]  # arguments that each open list still lacks; the outermost has one and no operator
    length = 1  # that the expression will have if all of them are digits
    while True:
        while not missing[-1]:
            missing.pop()
            if not missing:
                return tokens
            tokens.append(CLOSE)
        missing[-1] -= 1
        depth = len(missing)
        if depth == 1 or (depth < max_depth and next(uniform) >= LEAF):
            tokens.append(10 + int(4 * next(uniform)))
            missing.append(2 + int((max_args - 1) * next(uniform)))
            length += missing[-1] + 1
            if length > max_length:
                return []
        else:
            tokens.append(int(10 * next(uniform)))


def _uniform(seed: int) -> Iterator[float]:
    """Random numbers in [0, 1), without end."""
    rng = np.random.default_rng(seed)
    while True:
        yield from rng.random(4096).tolist()


def _check(min_length: int, max_length: int, max_depth: int, max_args: int, time: int) -> None:
    """Refuse settings that allow no expression."""
    if max_depth < 2 or max_args < 2:
        raise ValueError(
            f"listops: max_depth={max_depth}, max_args={max_args}: both must be at least 2, "
            "an operator over two digits."
        )
    longest = 1
    for _ in range(max_depth - 1):
        longest = 2 + max_args * longest
    if not max(4, min_length) <= min(max_length, longest):
        raise ValueError(
            f"listops: min_length={min_length}, max_length={max_length}: with depth {max_depth} and {max_args} "
            f"arguments expressions have from 4 to {longest} tokens; give a range with some of these lengths."
        )
    if time < max_length:
        raise ValueError(
            f"listops: time={time} steps do not hold max_length={max_length} tokens: raise time or lower max_length."
        )


def _symbol(token: int) -> str:
    return SYMBOLS[token] if 0 <= token < len(SYMBOLS) else "padding" if token == PADDING else "unknown"
