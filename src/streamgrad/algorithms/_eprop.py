"""e-prop: eligibility propagation."""

from __future__ import annotations

from typing import Any

import equinox as eqx

from ._internal import Filtered


class EProp(Filtered):
    r"""e-prop: eligibility traces of each unit's internal state, weighed by a learning signal from above.

    $$\epsilon_t = \left.\frac{\partial s_t}{\partial s_{t-1}}\right|_{\text{drives}} \epsilon_{t-1} + I_t, \qquad
      \bar\epsilon_t = \kappa\,\bar\epsilon_{t-1} + \epsilon_t, \qquad g_t = \delta_t\, \bar\epsilon_t$$

    The internal state of a unit is all of its own: v of an `LIF`, (v, b) of an `ALIF`, and through them its own
    spike (by the surrogate gradient of `spike`; with `detach_reset=True` of the cell, as published, not through the
    reset). What it hears of itself through a link is left out. The learning signal $\delta$ is the readout's:
    `sg.Readout(feedback="symmetric" | "random" | "adaptive")`.

    Without `low_pass` it is the trace of `RFLO`.

    - `low_pass`: κ in [0, 1), the decay of a leaky readout (`sg.nn.LowPass(κ)` between layer and readout), through
      which a spike of the past still acts on the present output.

    Raises `ValueError` for κ outside [0, 1); `TypeError` when bound to a core that is not made of drives.

    Reference: Bellec et al., A solution to the learning dilemma for recurrent networks of spiking neurons, 2020.
    """

    low_pass: float = eqx.field(static=True, default=0.0)

    def __check_init__(self):
        if not 0 <= self.low_pass < 1:
            raise ValueError(f"EProp(low_pass=κ) needs 0 <= κ < 1, got {self.low_pass!r}.")

    @property
    def kappa(self):
        return self.low_pass

    def traits(self, core: Any):
        return self._filtered_traits(core, "Bellec et al. 2020", "a leaky readout; under such a readout")
