"""The immediate Jacobian of a bank as Kronecker products: drives that hear the same sources share one input."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .._base.dtypes import trace_dtype
from ..cells import Bank
from ..cells._bank import Link


class Group(NamedTuple):
    """Drives that hear the same `sources`: their part of I is a ⊗ K, a the sources one after another."""

    drives: tuple[int, ...]
    sources: tuple[str, ...]


@functools.lru_cache(maxsize=256)
def groups(links: tuple[Link, ...]) -> tuple[Group, ...]:
    """All drives, by what they hear."""
    heard: dict[int, set] = {}
    for link in links:
        for g in link.drives:
            heard.setdefault(g, set()).add(link.source)
    sources = sorted({tuple(sorted(names)) for names in heard.values()})
    return tuple(Group(tuple(g for g in heard if tuple(sorted(heard[g])) == names), names) for names in sources)


def size(core: Bank, group: Group) -> int:
    """The length of what the drives of a group hear."""
    return sum(_lengths(core)[name] for name in group.sources)


def _lengths(core: Bank) -> dict[str, int]:
    return {link.source: link.links.sources for link in core.links}


def heard(core: Bank, group: Group, sources: dict[str, Array]) -> Array:
    """a: the sources of a group, one after another, in the precision of traces."""
    dtype = trace_dtype(core.dtype)
    return jnp.concatenate([sources[name].astype(dtype) for name in group.sources])


def by_drives(core: Bank, group: Group, step: Any) -> Array:
    """K of a group's drives, (rows, drives, units): each unit's own rows alone."""
    dtype, each = trace_dtype(core.dtype), jnp.arange(core.units)
    k = jnp.zeros((core.entries, core.units, len(group.drives), core.units), dtype)
    for a, row in enumerate(step.drive):
        for q, g in enumerate(group.drives):
            if row[g] is not None:
                k = k.at[a, each, q, each].set(row[g].astype(dtype))
    return k.reshape(core.entries * core.units, len(group.drives), core.units)


def gradient(core: Bank, parts: dict[Group, list[tuple[Array, Array]]]) -> Bank:
    """Σ a ⊗ (δ B) over the pairs (a, δB) of each group, as weights; δB is (drives, units)."""
    lengths, new = _lengths(core), []
    of_drive = {g: (group, q) for group in parts for q, g in enumerate(group.drives)}
    for link, weights in zip(core.links, core.weights, strict=True):
        gates = []
        for slot, g in enumerate(link.drives):
            group, q = of_drive[g]
            before = sum(lengths[name] for name in group.sources[: group.sources.index(link.source)])
            total = jnp.zeros((link.links.fan_in, core.units), trace_dtype(core.dtype))
            for a, by_drive in parts[group]:
                inputs = link.links.inputs(a[before : before + lengths[link.source]])
                total = total + inputs[:, min(slot, inputs.shape[1] - 1)] * by_drive[q][None]
            gates.append(total)
        new.append(jnp.stack(gates, axis=1).astype(weights.dtype))
    return eqx.tree_at(lambda bank: bank.weights, core, tuple(new))
