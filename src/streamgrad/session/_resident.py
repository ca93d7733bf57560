"""A compiled loop that stays in a thread, and takes one row after another while it runs."""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .._base.words import WORD, Words
from . import _native

#: Loops that run now. Each keeps one of JAX's threads.
_running: weakref.WeakSet[Resident] = weakref.WeakSet()


class Loop(NamedTuple):
    """What a loop is made of.

    - `turn(memory, row) -> (memory, answer)`: one step, pure;
    - `enter(arrays) -> memory` and `leave(memory) -> arrays`: from the arrays of a state, which are consumed, and back;
    - `restored(arrays) -> state`: on the host;
    - `options`: of the compiler, those of the learner's `run`, so that both round alike.
    """

    turn: Callable
    enter: Callable
    leave: Callable
    restored: Callable
    options: dict[str, str]


class Program:
    """A loop, compiled for rows of one form.

    Raises `Unfit` for rows or answers that no vector of words can hold.
    """

    def __init__(self, parts: Loop, state: PyTree, row: PyTree):
        turn, enter, leave, self.restored, options = parts
        said = jax.eval_shape(lambda state, row: turn(enter(state), row)[1], state, row)
        self.row, self.answer = Words(row), Words(said)
        words = lambda size: jax.ShapeDtypeStruct((size,), WORD)
        exchange = jax.ffi.ffi_call(_native.TARGET, [words(self.row.size), words(1)], has_side_effect=True)

        def loop(state, channel):
            def body(now):
                memory, row, _ = now
                memory, said = turn(memory, self.row.tree(row))
                # Without the barrier an answer may leave before its row is learned.
                memory, said = jax.lax.optimization_barrier((memory, self.answer.of(said)))
                return memory, *exchange(channel, said)

            first = exchange(channel, jnp.zeros(self.answer.size, WORD))
            memory, _, _ = jax.lax.while_loop(lambda now: now[2][0] != 0, body, (enter(state), *first))
            return leave(memory)

        compiled = jax.jit(loop, donate_argnums=0, compiler_options=options)
        self.compiled = compiled.lower(state, jax.ShapeDtypeStruct((1,), WORD)).compile()


class Resident:
    """A program that runs, with the state in it.

    Raises `RuntimeError` in a process that was forked from the one that started it.
    """

    def __init__(self, program: Program, state: PyTree):
        library = _native.load()
        assert library is not None
        self._library, self._process, self._pending = library, os.getpid(), False
        self._id = library.streamgrad_open(4 * program.row.size, 4 * program.answer.size)
        row, answer = np.zeros(program.row.size, WORD), np.zeros(program.answer.size, WORD)
        self._row, self._answer = program.row.views(row), program.answer.views(answer)
        self._read, self._restored = program.answer.read, program.restored
        self._buffers = row, answer
        self._from, self._to = ctypes.c_void_p(row.ctypes.data), ctypes.c_void_p(answer.ctypes.data)
        self._ended: list[Any] = []
        channel = jnp.full(1, self._id, WORD)
        arguments = library, self._id, program.compiled, state, channel, self._ended
        self._thread = threading.Thread(target=_run, args=arguments, name="streamgrad session", daemon=True)
        _running.add(self)
        self._thread.start()
        self._wait()  # for the loop to ask for its first row

    def step(self, row: list[Any]) -> PyTree:
        """The answer to one row, given as its leaves."""
        if os.getpid() != self._process:
            raise RuntimeError(FORKED)
        if self._pending:  # an exception came while the row before was under way
            self._wait()
        for view, leaf in zip(self._row, row, strict=True):
            view[...] = leaf
        self._pending = True
        code = self._library.streamgrad_give(self._id, self._from, self._to)
        if code:
            self._wait(code)
        self._pending = False
        return self._read(self._answer)

    def _wait(self, code: int = 1) -> None:
        while code == 1:
            code = self._library.streamgrad_await(self._id, self._to)
        if code == 2:
            self._thread.join()
            error = self._ended[0] if self._ended else None
            raise RuntimeError("The loop of this session has ended.") from (
                error if isinstance(error, BaseException) else None
            )
        if code == 3:
            raise RuntimeError("This session is in another step at this moment: one thread at a time may call it.")
        self._pending = False

    def stop(self) -> PyTree:
        """End the loop, after the row that is under way, and return the state."""
        if os.getpid() != self._process:
            raise RuntimeError(FORKED)
        try:
            if self._pending:
                self._wait()
        finally:
            self._end()
        (state,) = self._ended
        if isinstance(state, BaseException):
            raise state
        return self._restored(state)

    def _end(self) -> None:
        _running.discard(self)
        self._library.streamgrad_stop(self._id)
        if threading.current_thread() is not self._thread:  # where the garbage may be collected
            self._thread.join()
        self._library.streamgrad_close(self._id)

    def __del__(self):
        if getattr(self, "_thread", None) is not None and os.getpid() == self._process and self in _running:
            self._end()


FORKED = (
    "This session belongs to the process that this one was forked from, and its loop did not come along: open a "
    "session in the process that uses it."
)


def _run(library, channel_id, compiled, state, channel, ended) -> None:
    """The thread of a loop: it knows nothing of the session, which may be collected meanwhile."""
    try:
        ended.append(jax.block_until_ready(compiled(state, channel)))
    except BaseException as error:
        ended.append(error)
    library.streamgrad_stop(channel_id)


def has_room() -> bool:
    """Whether another loop would leave a thread to all other calls of JAX."""
    return len(_running) < _native.threads() - 1


@atexit.register
def _end_all() -> None:
    """At the interpreter's exit a loop that still waits would keep JAX's client from ending."""
    for resident in list(_running):
        if resident._process == os.getpid():
            resident._end()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_running.clear)
