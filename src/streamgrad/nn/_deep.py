"""A deep network of independent recurrent modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from .._base.dtypes import default_dtype
from ..algorithms import Algorithm, SnAp
from ..cells import LRU, Cell
from ..cells._cell import check_sizes
from ..recurrent import Recurrent
from ._compose import Residual, Sequential
from ._dropout import Dropout
from ._gated import GatedLinear
from ._running_mean import RunningMean
from ._unroll import unroll


class Block(eqx.Module):
    r"""A pre-norm recurrent block around a shortcut; width in, width out.

        y = x + drop₂(G(drop₁(gelu(R(norm(x))))))

    R is the recurrent layer (its output may have any size), G a gated linear unit back to the width, and `drop₁`,
    `drop₂` use one mask a sequence.

    - `norm`: `eqx.nn.LayerNorm`; `recurrent`: `sg.Recurrent`; `gated`: `GatedLinear`.
    """

    norm: eqx.nn.LayerNorm
    recurrent: Recurrent
    drop_inner: Dropout
    gated: GatedLinear
    drop_outer: Dropout

    def __init__(self, recurrent: Recurrent, *, dropout: float = 0.0, key: PRNGKeyArray, dtype=None):
        width, out = recurrent.cell.in_size, recurrent.cell.out_size
        self.norm = eqx.nn.LayerNorm(width, dtype=dtype)
        self.recurrent = recurrent
        self.drop_inner = Dropout(out, dropout, dtype=dtype)
        self.gated = GatedLinear(out, width, key=key, dtype=dtype)
        self.drop_outer = Dropout(width, dropout, dtype=dtype)

    @property
    def _layers(self) -> Residual:
        parts = (self.norm, self.recurrent, jax.nn.gelu, self.drop_inner, self.gated, self.drop_outer)
        return Residual(Sequential(parts))

    def init(self, *, key: PRNGKeyArray):
        """The carries before the first step."""
        return self._layers.init(key=key)

    def __call__(self, carry, x):
        return self._layers(carry, x)

    def unroll(self, carry, xs, resets):
        """Many steps at once: see `sg.nn.unroll`."""
        return unroll(self._layers, carry, xs, resets)


class Deep(eqx.Module):
    r"""A deep network for online learning: encoder, blocks of recurrent layers, pooling, decoder.

        x⁰ = E x        xˡ = Blockˡ(xˡ⁻¹)        y = W mean(xᴸ) + b

    Each recurrent layer learns by an algorithm of its own; between layers the error goes down through the present
    step alone. With `sg.cells.LRU` and `sg.SnAp(1)` the traces of each layer are exact and merely double its
    memory; the gradient of the network is exact for the last recurrent layer and all above it, and approximate
    below (`sg.explain` says so).

    - `in_size`, `out_size`: of x and y; `width`: H, of the features between blocks; `depth`: blocks;
    - `cell(in_size, units, key=, dtype=)`: makes the recurrent cell of a block: a class of `sg.cells`, or one with
      options, `functools.partial(sg.cells.LRU, r_min=0.9)`; `units`: N of each, by default the width;
    - `algorithm`: one for all blocks, or one for each, first block first;
    - `dropout`: its rate; `pooling`: whether the decoder sees the running mean of the features (for one label a
      sequence), with a straight-through gradient.

    A model as any other, one step at a time; `sg.nn.unroll(model, carry, xs)` runs a chunk at once.

    Raises `ValueError` for sizes that are not positive and a number of algorithms other than the depth.

    Reference: Zucchet et al., 2023 (2305.15947).
    """

    encoder: eqx.nn.Linear
    blocks: tuple[Block, ...]
    pooling: RunningMean | None
    decoder: eqx.nn.Linear

    def __init__(
        self,
        in_size: int,
        out_size: int,
        *,
        width: int,
        depth: int,
        key: PRNGKeyArray,
        units: int | None = None,
        cell: Callable[..., Cell] = LRU,
        algorithm: Algorithm | Sequence[Algorithm] = SnAp(1),
        dropout: float = 0.0,
        pooling: bool = False,
        dtype: Any = None,
    ):
        units = width if units is None else units
        check_sizes(in_size=in_size, out_size=out_size, width=width, depth=depth, units=units)
        algorithms = [algorithm] * depth if isinstance(algorithm, Algorithm) else algorithm
        if not isinstance(algorithms, list | tuple):
            raise TypeError(f"Deep expects an algorithm such as sg.SnAp(1), or a list of them, got {algorithm!r}.")
        if not callable(cell) or isinstance(cell, Cell):
            raise TypeError(
                "Deep expects what makes a cell, such as sg.cells.LRU or functools.partial(sg.cells.LRU, r_min=0.9), "
                f"got {cell!r}."
            )
        if len(algorithms) != depth:
            raise ValueError(
                f"Deep(depth={depth}) takes one algorithm for all blocks or {depth} of them, got {len(algorithms)}."
            )
        dtype = default_dtype(dtype)
        key_in, key_out, *keys = jax.random.split(key, 2 + depth)
        self.encoder = eqx.nn.Linear(in_size, width, dtype=dtype, key=key_in)
        self.decoder = eqx.nn.Linear(width, out_size, dtype=dtype, key=key_out)
        self.pooling = RunningMean(width, dtype=dtype) if pooling else None
        blocks = []
        for own, learned in zip(keys, algorithms, strict=True):
            key_cell, key_block = jax.random.split(own)
            recurrent = Recurrent(cell(width, units, key=key_cell, dtype=dtype), learned)
            blocks.append(Block(recurrent, dropout=dropout, key=key_block, dtype=dtype))
        self.blocks = tuple(blocks)

    @property
    def _layers(self) -> Sequential:
        pooling = () if self.pooling is None else (self.pooling,)
        return Sequential((self.encoder, *self.blocks, *pooling, self.decoder))

    def init(self, *, key: PRNGKeyArray):
        """The carries before the first step; `key` draws the masks of dropout."""
        return self._layers.init(key=key)

    def __call__(self, carry, x: Float[Array, " in_size"]):
        return self._layers(carry, x)

    def unroll(self, carry, xs, resets):
        """Many steps at once: see `sg.nn.unroll`."""
        return unroll(self._layers, carry, xs, resets)
