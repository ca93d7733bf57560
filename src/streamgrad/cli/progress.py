"""What a person sees while a run goes on: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

_IMPORTED = time.monotonic()
EVERY = 10.0  # seconds between two lines where there is no terminal


class Progress:
    """Show row, running error, rows a second and the time left. Writes to standard error.

    Use as a context manager; `update` may be called as often as one likes.
    """

    def __init__(self, title: str, start: int = 0):
        self._title, self._rows, self._first = title, start, start
        self._began = self._shown = time.monotonic()
        self._fraction0: float | None = None
        self._bar: Any = None
        self._terminal = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        if self._terminal:
            from rich.console import Console
            from rich.progress import BarColumn, Progress as Bar, TextColumn

            self._bar = Bar(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[text]}"),
                console=Console(stderr=True),
                refresh_per_second=4,
                transient=True,
            )
            self._task = self._bar.add_task(self._title, total=None, text="starting (compiling)")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, row: int, fraction: float | None, errors: dict[str, float]) -> None:
        """`row`: rows learned so far; `fraction` of the source or None; `errors`: newest nRMSE."""
        now = time.monotonic()
        if row <= self._rows or now - self._shown < (0.2 if self._terminal else EVERY):
            return
        self._shown, self._rows = now, row
        if self._fraction0 is None:  # from here on the speed is not the compiler's
            self._fraction0, self._first, self._began = fraction or 0.0, row, now
            speed, left = "", ""
        else:
            passed = now - self._began
            speed = f" · {(row - self._first) / passed:,.0f} rows/s"
            gone = (fraction or 0.0) - self._fraction0
            left = f" · {_clock(passed * (1 - fraction) / gone)} left" if fraction and gone > 0 else ""
        text = f"row {row:,}{_errors(errors)}{speed}{left}"
        if self._bar is not None:
            total = None if fraction is None else 1.0
            self._bar.update(self._task, completed=fraction or 0.0, total=total, text=text)
        else:
            print(f"{self._title}: {text}", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)


def _errors(errors: dict[str, float]) -> str:
    known = {name: error for name, error in errors.items() if error == error}
    return "".join(f" · {name} {error:.4f}" for name, error in known.items())


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def seconds_since_start() -> float:
    """Seconds since this process started, imports included (where the system tells when)."""
    try:
        with open("/proc/self/stat") as stat, open("/proc/uptime") as uptime:
            ticks = int(stat.read().rpartition(")")[2].split()[19])
            return float(uptime.read().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return time.monotonic() - _IMPORTED
