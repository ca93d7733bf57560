"""The loss of a step, as if its missing entries were no part of the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ._targets import alike, has_entry, in_precision, typed


def scored(loss: Callable, prediction: PyTree, target: PyTree) -> tuple[Array, Array]:
    """The loss of one prediction, NaN where there is no target, and whether there is one.

    Missing entries are left out: their predictions are cut off from the gradient, and the value is that of the others.
    A loss that says what its `entries` are is the mean over those given. Of any other it is tried out once, from its
    shapes, what leaving out means (`_reduction`); where nothing can be said, a target with a gap is missing whole."""
    target = typed(loss, prediction, target)
    given = jax.tree.map(has_entry, target)
    target = in_precision(prediction, target)
    flags = jax.tree.leaves(given)
    entries = getattr(loss, "entries", None)
    if entries is not None:
        there = _any(flags)
        each = _mean_of_given(entries, prediction, target, given)
    elif len(flags) == 1 and (how := _reduction(loss, prediction, target)) != "whole":
        there = _any(flags)
        each = _left_out(loss, how, jax.tree.leaves(prediction)[0], jax.tree.leaves(target)[0], flags[0], target)
    else:
        there = jnp.array(True)
        for flag in flags:
            there &= flag.all()
        each = loss(jax.tree.map(lambda p: _cut(p, there), prediction), _filled(prediction, target, given))
    return jnp.where(there, each, jnp.nan), there


def _any(flags):
    found = jnp.array(False)
    for flag in flags:
        found |= flag.any()
    return found


def _cut(prediction, given):
    """The prediction, without a gradient where nothing was given."""
    flag = given.reshape(given.shape + (1,) * (prediction.ndim - given.ndim))
    return jnp.where(flag, prediction, jax.lax.stop_gradient(prediction))


def _filled(prediction: PyTree, target: PyTree, given: PyTree) -> PyTree:
    """The target with something harmless in its gaps: the prediction itself, or label 0."""
    if not alike(prediction, target):
        return jax.tree.map(lambda t, g: jnp.where(g, t, jnp.zeros((), t.dtype)), target, given)

    def one(p, t, g):
        if jnp.issubdtype(t.dtype, jnp.integer):
            return jnp.where(g, t, 0)
        if p.shape != t.shape:
            return jnp.where(g, t, jnp.zeros((), t.dtype))
        return jnp.where(g, t, jax.lax.stop_gradient(p))

    return jax.tree.map(one, prediction, target, given)


def _mean_of_given(entries, prediction, target, given):
    if not alike(prediction, target):
        raise TypeError(
            "A loss made by sg.losses.entrywise takes prediction and target leaf by leaf, got trees of different "
            f"structure: {jax.tree.structure(prediction)} and {jax.tree.structure(target)}."
        )
    cut = jax.tree.map(_cut, prediction, given)
    each = jax.tree.map(entries, cut, _filled(prediction, target, given))
    for e, t in zip(jax.tree.leaves(each), jax.tree.leaves(target), strict=True):
        if e.shape != t.shape:
            raise ValueError(f"A loss must be a number for each entry of the target, {t.shape}, got shape {e.shape}.")
    sums = [jnp.sum(e, where=g) for e, g in zip(jax.tree.leaves(each), jax.tree.leaves(given), strict=True)]
    counts = [g.sum() for g in jax.tree.leaves(given)]
    total, count = sum(sums[1:], sums[0]), sum(counts[1:], counts[0])
    return total / jnp.maximum(count, 1).astype(total.dtype)


Reduction = tuple[Literal["sum", "mean"], Literal["no error", "any entry"]]


def _left_out(loss, how: Reduction, p, t, given, like):
    """A loss that is a sum or a mean over entries, of those given alone."""
    reduction, filling = how
    tree = lambda leaf: jax.tree.unflatten(jax.tree.structure(like), [leaf])
    cut, n = _cut(p, given), max(given.size, 1)
    if filling == "no error":  # a missing entry that is predicted perfectly adds nothing
        each = loss(tree(cut), tree(_filled(p, t, given)))
    else:  # a copy of an entry that was given, its part taken off again
        first = jnp.argmax(given.ravel())
        rows = lambda leaf: jax.lax.stop_gradient(leaf.reshape(n, *leaf.shape[given.ndim :]))[first]
        own = rows(jnp.where(given, t, jnp.zeros((), t.dtype)))
        flag = given.reshape(given.shape + (1,) * (p.ndim - given.ndim))
        each = loss(tree(jnp.where(flag, cut, rows(p))), tree(jnp.where(given, t, own)))
        same = loss(tree(jnp.broadcast_to(rows(p), p.shape)), tree(jnp.broadcast_to(own, t.shape)))
        each = each - same * ((n - given.sum()) / n).astype(each.dtype)
    if reduction == "mean":
        each = each * (n / jnp.maximum(given.sum(), 1)).astype(each.dtype)
    return each


def _reduction(loss, prediction, target) -> Reduction | Literal["whole"]:
    """What a loss of unknown making does with its entries, tried on numbers: by additivity a sum over them, by a
    doubled sample a mean, and how one may be filled in."""
    (t,), ps = jax.tree.leaves(target), jax.tree.leaves(prediction)
    if t.size == 1 or len(ps) != 1 or ps[0].shape[: t.ndim] != t.shape or not alike(prediction, target):
        return "whole"
    if not jnp.issubdtype(t.dtype, jnp.integer) and ps[0].shape != t.shape:
        return "whole"
    tree = lambda leaf: jax.tree.unflatten(jax.tree.structure(target), [leaf])
    values = jax.jit(jax.vmap(lambda p, t: loss(tree(p), tree(t))))
    try:
        with jax.ensure_compile_time_eval():
            return _tried(lambda pairs: np.asarray(values(*map(np.stack, zip(*pairs, strict=True)))), ps[0], t)
    except (TypeError, ValueError, FloatingPointError):  # it cannot be tried: its constants are not known yet
        return "whole"


def _tried(values: Callable[[list], np.ndarray], p, t) -> Reduction | Literal["whole"]:
    """`values`: of the loss for a list of pairs, prediction and target, shaped like `p` and `t`."""
    rng = np.random.default_rng(0)
    labels = jnp.issubdtype(t.dtype, jnp.integer)
    classes = p.shape[t.ndim] if p.ndim > t.ndim else 2
    numbers = lambda low, high, like: rng.uniform(low, high, like.shape).astype(like.dtype)

    def drawn(low, high):
        return numbers(low, high, p), rng.integers(0, classes, t.shape).astype(t.dtype) if labels else (
            numbers(low, high, t)
        )

    def swapped(a, b, flag):
        where = lambda x, y: np.where(flag.reshape(flag.shape + (1,) * (x.ndim - flag.ndim)), x, y)
        return tuple(map(where, a, b)), tuple(map(where, b, a))

    def close(a, b):
        return np.abs(a - b) <= 64 * float(jnp.finfo(p.dtype).eps) * (np.abs(a) + np.abs(b))

    flags = [(np.arange(t.size) % 2 == 0).reshape(t.shape), (np.arange(t.size) == 0).reshape(t.shape)]
    # Between 0 and 1 nearly every loss is defined; further out only some are, and those are held to it there as well.
    scales = [(0.1, 0.9)] * 2 + [(-x, x) for x in (0.5, 1, 1, 2, 2, 4, 16)]
    pairs = []
    for low, high in scales:
        a, b = drawn(low, high), drawn(low, high)
        pairs += [a, b, *swapped(a, b, flags[0]), *swapped(a, b, flags[1])]
    first = pairs[0]
    rolled = tuple(np.roll(x.reshape(t.size, -1), 1, 0).reshape(x.shape) for x in first)
    own = first[0].astype(t.dtype) if first[0].shape == t.shape else first[1]
    *found, by_rolled, by_own = values([*pairs, rolled, (first[0], own)]).astype(float)
    of_a, of_b, *mixed = np.reshape(found, (-1, 6)).T
    for one, other in (mixed[:2], mixed[2:]):
        known = np.isfinite(of_a + of_b + one + other)
        if not known[0] or not close((of_a + of_b)[known], (one + other)[known]).all():
            return "whole"
    perfect = not labels and by_own == 0
    if not perfect and not close(by_rolled, of_a[0]):
        return "whole"
    try:
        (doubled,) = values([tuple(np.concatenate([x, x]) for x in first)])
    except (TypeError, ValueError):  # it knows its entries one by one
        doubled = np.nan
    return "mean" if close(doubled, of_a[0]) else "sum", "no error" if perfect else "any entry"
