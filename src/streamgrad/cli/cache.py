"""Compiled programs kept between two starts of the command line: JAX's persistent compilation cache, on by default."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

OPTION, VARIABLE = "--compilation-cache", "STREAMGRAD_COMPILATION_CACHE"
LARGEST = 512 * 2**20  # bytes; the programs used longest ago are removed beyond it


def split(arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """The arguments without the option, wherever it stands, and its value.

    Raises `ValueError` for an option without a value."""
    rest, value, items = [], None, iter(arguments)
    for item in items:
        name, equals, text = item.partition("=")
        if name != OPTION:
            rest.append(item)
            continue
        value = text if equals else next(items, "")
        if not value or value.startswith("--"):
            raise ValueError(f"{OPTION} needs a folder, or off.")
    return rest, value


def switch_on(value: str | None) -> None:
    """Keep compiled programs in a folder: the option's, the variable's, JAX's own, or one
    among the user's caches.

    To be called before anything is compiled. A folder that cannot be written is no error: everything is compiled anew.
    """
    import jax

    set_already = getattr(jax.config, "jax_compilation_cache_dir", None) is not None  # not in its types
    value = value or os.environ.get(VARIABLE)
    if value == "off":
        jax.config.update("jax_enable_compilation_cache", False)
    if value == "off" or (value is None and set_already):
        return
    try:
        folder = (Path(value).expanduser() if value else _folder()).absolute()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no right to it, or a user without a home
        return
    if not os.access(folder, os.W_OK | os.X_OK):
        return
    # A start is many small programs.
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if importlib.util.find_spec("filelock") is not None:  # which JAX needs to remove what is old
        jax.config.update("jax_compilation_cache_max_size", LARGEST)


def _folder() -> Path:
    """Of the user's caches, by the convention of the system."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "streamgrad" / "compiled"
