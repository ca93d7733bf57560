"""Exact real-time recurrent learning."""

from __future__ import annotations

from ._structured import Structured


class RTRL(Structured):
    r"""Real-time recurrent learning: the influence in full, and so the exact gradient at every step.

    $$J_t = I_t + D_t J_{t-1}, \qquad g_t = \frac{\partial L_t}{\partial s_t} J_t$$

    Kept on the closed structural pattern: a bank without links between units costs O(parameters), a dense
    one state x parameters numbers and a product of that size with D at every step.

    Reference: Williams & Zipser, A learning algorithm for continually running fully recurrent neural
    networks, 1989.
    """

    @property
    def order(self):
        return None

    def traits(self, core):
        return self._traits(core, "Williams & Zipser 1989")
