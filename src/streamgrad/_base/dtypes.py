"""Precision, named once. NumPy's promotion is used, since JAX may be told to refuse any."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def default_dtype(dtype=None) -> np.dtype:
    """The given real dtype, or JAX's default one (float32, float64 under x64).

    Raises `TypeError` for a dtype that is not real floating point."""
    chosen = jax.dtypes.canonicalize_dtype(jnp.dtype(float if dtype is None else dtype))
    if chosen not in (jnp.float32, jnp.float64, jnp.bfloat16):
        raise TypeError(f"Weights cannot be of dtype {chosen}: use float32, float64 or bfloat16.")
    return chosen


def trace_dtype(dtype) -> np.dtype:
    """Traces are at least float32: in bfloat16 a decay of .999 is 1."""
    return np.promote_types(dtype, np.float32)


def complex_dtype(dtype) -> np.dtype:
    """The complex dtype of a real one, at least complex64."""
    return np.promote_types(dtype, np.complex64)


def real_dtype(dtype) -> np.dtype:
    """The real dtype of the same precision."""
    return jnp.finfo(dtype).dtype


def real_factor(dtype) -> int:
    """Real multiplications in a product of this dtype."""
    return 4 if jnp.issubdtype(dtype, jnp.complexfloating) else 1
