"""What RFLO and e-prop share: a trace along each unit's own state."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..influence import Internal
from ._banks import require_bank
from ._structured import Structured


class Internally(Structured):
    """Keeps each parameter's effect along its unit's own state, what links say held fixed."""

    @property
    def order(self):
        return 1

    def bind(self, core: Any, state, x):
        require_bank(self, core)
        return dataclasses.replace(self, layout=Internal())
