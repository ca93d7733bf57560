"""Random feedback local online learning."""

from __future__ import annotations

from typing import Any

from ._internal import NoLinkTraces


class RFLO(NoLinkTraces):
    r"""Random feedback local online learning: a trace along each unit's own state, without its links.

    $$B_t = \left.\frac{\partial s_t}{\partial s_{t-1}}\right|_{\text{drives}} B_{t-1} + I_t, \qquad
      g_t = \delta_t B_t$$

    On a leaky network $B \leftarrow (1-\alpha) B + \alpha \phi' a^\top$, as published; an Elman network keeps nothing
    of its own, and gets the gradient of the present step; a gated unit keeps what its gates keep. Exact on units
    without links among them (LRU, RTU, IndRNN, MinGRU). The random feedback is the readout's:
    `sg.Readout(..., feedback="random")`.

    Raises `TypeError` when bound to a core that is not made of drives.

    Reference: Murray, Local online learning in recurrent networks with random feedback, 2019.
    """

    def traits(self, core: Any):
        return self._traits(core, "Murray 2019")
