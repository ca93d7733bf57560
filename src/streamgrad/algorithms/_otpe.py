"""OTPE: online training with postsynaptic estimates."""

from __future__ import annotations

from typing import Any

import equinox as eqx

from ._internal import Filtered


class OTPE(Filtered):
    r"""OTPE: for feed-forward layers of spiking units, what past spikes still do to the membranes of the next layer.

    $$\epsilon_t = \left.\frac{\partial s_t}{\partial s_{t-1}}\right|_{\text{drives}} \epsilon_{t-1} + I_t, \qquad
      R_t = \lambda R_{t-1} + \epsilon_t, \qquad g_t = \delta_t R_t$$

    A spike enters the leaky membranes above and is forgotten there at the rate λ, so that a weight acts on the present
    error through all of its past spikes, weighed by R. The gradient of a layer is that of BPTT, for a loss of each
    step, when its units are not linked, and a layer of `LIF` units of that leak stands between it and the loss whose
    reset passes no gradient (`detach_reset=True`) and which is not linked either. Further below it is an estimate.
    Links between units are left out, as in `EProp`; EProp(low_pass=λ) keeps the same trace for a leaky readout above.

    - `leak`: λ in [0, 1), the `decay` of the layer above; at 0 the traces are those of OSTL without links.

    Raises `ValueError` for λ outside [0, 1); `TypeError` when bound to a core that is not made of drives.

    Reference: Summe, Schaefer & Joshi, Estimating post-synaptic effects for online training of feed-forward SNNs, 2023
    (2311.16151).
    """

    leak: float = eqx.field(static=True, default=0.9)

    def __check_init__(self):
        if not 0 <= self.leak < 1:
            raise ValueError(f"OTPE(leak=λ) needs 0 <= λ < 1, got {self.leak!r}.")

    @property
    def kappa(self):
        return self.leak

    def traits(self, core: Any):
        return self._filtered_traits(core, "Summe et al. 2023", "the membranes of the layer above; below those")
