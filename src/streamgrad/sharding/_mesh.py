"""Devices in a row."""

from __future__ import annotations

from typing import Any

from jax.sharding import Mesh

AXIS = "devices"


def row(mesh: Any) -> Mesh:
    """All devices of a mesh in one row, whatever axes it had."""
    if not isinstance(mesh, Mesh):
        raise TypeError(
            f"Expected a mesh of devices, got {type(mesh).__name__}: such as "
            'jax.make_mesh((jax.device_count(),), ("devices",)).'
        )
    return Mesh(mesh.devices.reshape(-1), (AXIS,))
