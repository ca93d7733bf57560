"""A session: one learner, stepped row by row from Python."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from .._base.owned import owned
from .._base.trees import as_arrays, shapes, signature
from .._base.words import Unfit
from . import _native
from ._resident import Program, Resident, has_room


class Session:
    """A learner with its state, stepped row by row from Python.

        with learner.session(state) as session:
            out = session.step(x, target)         # out.prediction, out.loss: NumPy arrays
        state = session.state

    Every step gives what `learner.step` gives, bit for bit. With the native piece (`python -m streamgrad.session`
    builds it, once) the learner's compiled loop stays in a thread, and a step costs the exchange of one row; without it
    a step is a call of `learner.step`. `native` says which of both this session is.

    - `state` of the learner: consumed with the first step. A copy of the present one: `session.state`, at any time.
    - `native`: None, the native piece where it can be used; True, refuse with the reason where it cannot; False,
      without.

    An exception in a step leaves the session as it was; a row that was under way when Ctrl-C came is learned. A session
    that nobody holds any longer ends by itself. One thread at a time may call it.

    - `learner`: has `step(state, x, target, ...)`, as its users call it; `resident(state, x, target, ...)`, which
      refuses what `step` refuses and gives the state's arrays and their `Loop`; `loops`, a dict for what was compiled.

    Raises `RuntimeError` for native=True where it cannot be, after `close`, and in a forked process.
    """

    def __init__(self, learner: Any, state: Any, *, native: bool | None = None):
        why = None if native is False else _native.why_not()
        if native and why:
            raise RuntimeError(f"session(native=True): the native piece cannot be used: {why}.")
        if native and not has_room():
            raise RuntimeError(
                f"session(native=True): {_native.threads() - 1} sessions are open, and JAX has {_native.threads()} "
                "threads: one more session would take the last from all other calls."
            )
        self._learner, self._state = learner, state
        self._wanted = native is not False and not why
        self._loop: Resident | None = None
        self._seen: Any = None
        self._closed = False

    @property
    def native(self) -> bool:
        """Whether the loop stays in a thread; before the first step, whether it is going to."""
        return self._loop is not None or (self._wanted and has_room())

    @property
    def state(self) -> Any:
        """The learner's state after the last step: while the session is open a copy of it."""
        self._leave()
        return self._state if self._closed or self._seen is None else owned(self._state)

    def step(self, x: Any, target: Any, **more: Any) -> Any:
        """One step of the stream, as the learner's `step` without its state."""
        if self._closed:
            raise RuntimeError("This session is closed: open another with learner.session(session.state).")
        x, target = as_arrays(x), as_arrays(target)
        more = {name: as_arrays(more[name]) for name in sorted(more) if more[name] is not None}
        seen = signature(x), signature(target), *((name, signature(value)) for name, value in more.items())
        if (self._loop is None or seen != self._seen) and not self._open((x, target, more), seen):
            self._state, out = self._learner.step(self._state, x, target, **more)
            return jax.tree.map(np.asarray, out)
        assert self._loop is not None
        plain = hasattr(x, "dtype") and hasattr(target, "dtype")
        return self._loop.step([x, target, *more.values()] if plain else jax.tree.leaves((x, target, more)))

    def _open(self, row: tuple[Any, Any, dict], seen: Any) -> bool:
        """Enter the loop for rows of this form; False where a session has to do without."""
        self._leave()
        self._seen = seen
        if not self._wanted or not has_room():
            return False
        x, target, more = row
        arrays, loop = self._learner.resident(self._state, x, target, **more)
        form = signature(arrays), seen
        if form not in self._learner.loops:
            try:
                self._learner.loops[form] = Program(loop, arrays, shapes(row))
            except Exception as error:
                self._state = loop.restored(arrays)
                if not isinstance(error, Unfit):
                    raise
                self._wanted = False
                return False
        self._state, self._loop = None, Resident(self._learner.loops[form], arrays)
        return True

    def _leave(self) -> None:
        if self._loop is not None:
            loop, self._loop = self._loop, None
            self._state = loop.stop()

    def close(self) -> None:
        """End the loop. The state stays."""
        if not self._closed:
            self._closed = True
            self._leave()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()
