"""Cell types: groups of units that share one averaged weight between them."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..cells import Bank

Types = int | tuple[int, ...] | None


def checked_types(name: str, types: Types, units: int) -> tuple[int, ...]:
    """The type of each unit, 0, 1, ...; None: every unit is one of its own."""
    if types is None:
        return tuple(range(units))
    if isinstance(types, int) and not isinstance(types, bool) and 1 <= types <= units:
        return tuple(i % types for i in range(units))
    if isinstance(types, tuple) and len(types) == units and all(isinstance(t, int) and t >= 0 for t in types):
        names = sorted(set(types))
        return tuple(names.index(t) for t in types)
    raise ValueError(
        f"{name}(types=...) is None, a number of types from 1 to {units}, or a tuple with the type of each of the "
        f"{units} units, got {types!r}."
    )


def members(types: tuple[int, ...]) -> np.ndarray:
    """Which units each type has, 0 or 1, (types, units)."""
    return np.eye(max(types) + 1)[:, list(types)]


def averaged(core: Bank, types: tuple[int, ...]) -> list[Float[Array, "gates types types"]]:
    """Mean weights between cell types: for each link and gate the mean from a unit of type β to one of type α. Absent
    links count as 0: a list over links of (gates, α, β)."""
    of = members(types)
    counts = of.sum(1)
    means = []
    for link, weights in zip(core.links, core.weights, strict=True):
        if link.source == "h":
            # What every unit hears when all units of one type say 1.
            drives = jnp.stack([link.links.drive(weights, jnp.asarray(row, core.dtype)) for row in of], axis=-1)
            by_type = jnp.einsum("au,gub->gab", jnp.asarray(of / counts[:, None], core.dtype), drives)
            means.append(by_type / jnp.asarray(counts, core.dtype)[None, None])
    return means


def said_back(core: Bank, types: tuple[int, ...], by_drive: list[Array]) -> Float[Array, " units"]:
    """The cotangent of the units' outputs along averaged weights, from the cotangent of the drives."""
    of = jnp.asarray(members(types), core.dtype)
    links = [link for link in core.links if link.source == "h"]
    total = jnp.zeros(len(of), core.dtype)
    for link, mean in zip(links, averaged(core, types), strict=True):
        for gate, g in enumerate(link.drives):
            total = total + (of @ by_drive[g]) @ mean[gate]
    return total @ of
