"""The native piece of a session: a hundred lines of C++ that hand rows to a running loop, built on demand."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax

from .._base.files import whole_file

SOURCE = Path(__file__).with_name("exchange.cc")
#: The folder of the library, in the place of the user's caches.
VARIABLE = "STREAMGRAD_SESSION_FOLDER"
TARGET = "streamgrad_exchange"


def place() -> Path:
    """The file of the library: named after its source, jaxlib and the machine, so that none is taken for another."""
    parts = (
        SOURCE.read_bytes(),
        importlib.metadata.version("jaxlib").encode(),
        sys.platform.encode(),
        os.uname().machine.encode(),
    )
    name = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    return _folder() / f"exchange-{name}.so"


def _folder() -> Path:
    if given := os.environ.get(VARIABLE):
        return Path(given).expanduser()
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "streamgrad" / "session"


def build(compiler: str | None = None) -> Path:
    """Compile the library, and return its file. `compiler`: a C++17 compiler; by default CXX, c++, g++ or clang++.

    Raises `RuntimeError` where there is no compiler, or where it fails."""
    if not hasattr(os, "uname"):
        raise RuntimeError("The native piece of a session is built on Linux and macOS: sessions work without it.")
    tried = [compiler] if compiler else [os.environ.get("CXX"), "c++", "g++", "clang++"]
    found = next((path for name in tried if name and (path := shutil.which(name))), None)
    if found is None:
        names = ", ".join(name for name in tried if name)
        raise RuntimeError(f"No C++ compiler was found ({names}): install one, or use sessions without native code.")
    library = place()
    library.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(library) as made:
        options = ["-O2", "-std=c++17", "-shared", "-fPIC", "-w", "-I", jax.ffi.include_dir()]
        done = subprocess.run([found, *options, str(SOURCE), "-o", str(made)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{found} could not build {SOURCE.name}:\n{done.stderr.strip()}")
    load.cache_clear()
    return library


def why_not() -> str | None:
    """Why a session must do without the native piece; None where it can be used."""
    if not hasattr(os, "uname"):
        return "it is built on Linux and macOS"
    if jax.default_backend() != "cpu":
        return f"it runs on a CPU, and JAX's backend here is {jax.default_backend()}"
    if threads() < 2:
        return "JAX has one thread here, which a session would take from all other calls (NPROC=2 gives it two)"
    if load() is None:
        return "it was not built: python -m streamgrad.session"
    return None


@functools.cache
def threads() -> int:
    """Threads of JAX's client for the CPU: as many as cores that are visible, or as NPROC says."""
    if (given := os.environ.get("NPROC", "")).isdigit():
        return int(given)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def load() -> ctypes.CDLL | None:
    """The library, known to XLA; None where it was not built."""
    if not place().exists():
        return None
    library = ctypes.CDLL(str(place()))
    number, pointer = ctypes.c_uint32, ctypes.c_void_p
    for name, takes, gives in (
        ("open", (ctypes.c_uint64, ctypes.c_uint64), number),
        ("give", (number, pointer, pointer), ctypes.c_int),
        ("await", (number, pointer), ctypes.c_int),
        ("stop", (number,), None),
        ("close", (number,), None),
    ):
        function = getattr(library, f"streamgrad_{name}")
        function.argtypes, function.restype = takes, gives
    jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(library.streamgrad_exchange), platform="cpu")
    return library
