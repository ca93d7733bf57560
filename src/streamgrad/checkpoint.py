"""Checkpoints of any pytree: one safetensors file a step, whole or not there at all.

A file is written under a temporary name, flushed to the disk, renamed, and its folder flushed:
after a crash at any moment the newest complete one is still there. The file holds its own SHA-256,
since neither a flipped bit nor a lost tail is noticed by the format itself. `load` passes over a
damaged file with a warning that names it, and uses the newest valid one; a checkpoint of another
model, or of another version of this format, is refused in one sentence. No pickle.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from .train import LearnerState

SCHEMA = 1
_NAME = re.compile(r"step-(\d{12})\.safetensors")
_SEAL = r"{{\"sha256\": \"{}\""  # as the text of the metadata begins, within the file's header
_NO_DIGEST = "0" * 64


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or used. The message says why and what to do."""


class Checkpoint(NamedTuple):
    """What `load` gives back: the tree, its step, what `save` was given as `meta`, and the file.

    `damaged` are the newer files that were passed over.
    """

    tree: PyTree
    step: int
    meta: dict[str, Any]
    path: Path
    damaged: tuple[Path, ...] = ()


def save(
    directory: str | os.PathLike[str],
    tree: PyTree,
    *,
    step: Any,
    meta: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    keep: int = 3,
) -> Path:
    """Write `tree` as `directory/step-<step>.safetensors` and keep the newest `keep` files.

    **Arguments:**

    - `tree`: a pytree of JAX and NumPy arrays (typed PRNG keys included), numbers, strings, None.
    - `step`: the number by which checkpoints are ordered; the same step is overwritten. Of an array, as the steps of
      learners side by side, the largest.
    - `meta`: anything that JSON can hold, handed back by `load`.
    - `config`: what makes this model another model although its arrays are alike (names of cells,
      window lengths). `load` refuses a checkpoint whose `config` differs from the one it is given.

    Raises `CheckpointError` where the disk refuses; the older checkpoints are then untouched.
    """
    step = int(np.max(step))  # of learners side by side the same number, many times
    if keep < 1:
        raise CheckpointError(f"keep={keep}: at least 1 checkpoint has to be kept.")
    directory = Path(directory)
    target = directory / f"step-{step:012d}.safetensors"
    data = _encode(tree, step, dict(meta or {}), dict(config or {}))
    temporary = directory / f".{target.name}.{os.getpid()}.tmp"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _write(temporary, data)
        os.replace(temporary, target)
        _flush_folder(directory)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        kept = steps(directory)
        last = f"the last good one is of step {kept[-1]}" if kept else "there is none yet"
        raise CheckpointError(
            f"the checkpoint {target} could not be written ({os.strerror(error.errno or 0)}); "
            f"{last}. Free some space or choose another folder, then resume."
        ) from None
    for old in steps(directory)[:-keep]:
        with contextlib.suppress(OSError):
            (directory / f"step-{old:012d}.safetensors").unlink()
    for left in directory.glob(".step-*.tmp"):  # of a process that was killed
        with contextlib.suppress(OSError):
            left.unlink()
    return target


def load(
    path: str | os.PathLike[str],
    like: PyTree,
    *,
    config: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Read a checkpoint into the structure of `like`, bit for bit.

    **Arguments:**

    - `path`: a folder that `save` wrote into (the newest valid file is used), or one file.
    - `like`: a tree of the same structure, shapes and types, as fresh initialisation gives it. Its
      NumPy leaves come back as NumPy arrays, its JAX leaves as JAX arrays.
    - `config`: as for `save`.

    Raises `CheckpointError` where no file is there or none is valid, or where the newest valid one
    is of another model or version.
    """
    path = Path(path)
    files = [path]
    if path.is_dir():
        files = [path / f"step-{step:012d}.safetensors" for step in reversed(steps(path))]
    if not files or not path.exists():
        raise CheckpointError(f"there is no checkpoint in {path}: start without resuming.")
    damaged: list[Path] = []
    for file in files:
        try:
            tensors, head = _read(file)
        except _Damaged as reason:
            damaged.append(file)
            message = f"the checkpoint {file} is damaged ({reason}) and is not used"
            if len(files) > len(damaged):
                warnings.warn(f"{message}; an older one is tried.", stacklevel=2)
            continue
        _check(file, head, like, dict(config or {}))
        tree = _decode(tensors, head, like)
        return Checkpoint(tree, head["step"], head["meta"], file, tuple(damaged))
    names = ", ".join(str(file) for file in damaged)
    raise CheckpointError(
        f"no valid checkpoint: {names} {'is' if len(damaged) == 1 else 'are'} damaged. Restore a "
        "copy, or start without resuming."
    )


def config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The `config` that the newest valid checkpoint of a folder, or one file, was saved with.

    Raises `CheckpointError` where there is none."""
    path = Path(path)
    files = [path]
    if path.is_dir():
        files = [path / f"step-{step:012d}.safetensors" for step in reversed(steps(path))]
    for file in files:
        with contextlib.suppress(_Damaged):
            return _read(file)[1]["config"]
    raise CheckpointError(f"there is no valid checkpoint in {path}: give the folder that one was saved in.")


def steps(directory: str | os.PathLike[str]) -> list[int]:
    """The steps of the checkpoints in a folder, oldest first; damaged ones are not told apart."""
    directory = Path(directory)
    if not directory.is_dir():
        return []
    found = (_NAME.fullmatch(entry.name) for entry in directory.iterdir())
    return sorted(int(match[1]) for match in found if match)


# The tree as named tensors, and back.


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _is_packed(node: Any) -> bool:
    return isinstance(node, LearnerState)


def _unpacked(tree: PyTree) -> PyTree:
    """The tree with a learner's state as its named parts: the file and errors then name them."""
    open_up = lambda node: node.memory if _is_packed(node) else node
    return jax.tree.map(open_up, tree, is_leaf=_is_packed)


def _repacked(tree: PyTree, like: PyTree) -> PyTree:
    pack = lambda old, new: LearnerState(old.packing.pack(new), old.packing) if _is_packed(old) else new
    return jax.tree.map(pack, like, tree, is_leaf=_is_packed)


def _leaves(tree: PyTree) -> dict[str, Any]:
    flat, _ = jax.tree_util.tree_flatten_with_path(_unpacked(tree))
    return {jax.tree_util.keystr(path) or ".": leaf for path, leaf in flat}


def _kind(name: str, leaf: Any) -> list[Any]:
    """What a leaf is, in JSON: its part of the fingerprint."""
    if _is_key(leaf):
        return ["key", str(jax.random.key_impl(leaf)), list(leaf.shape)]
    if isinstance(leaf, jax.Array | np.ndarray | np.generic):
        if leaf.dtype.hasobject:
            raise CheckpointError(f"{name} is an array of Python objects, which cannot be saved.")
        return ["array", str(leaf.dtype), list(leaf.shape)]
    if isinstance(leaf, bool | int | float | str):
        return ["scalar", type(leaf).__name__]
    raise CheckpointError(
        f"{name} is a {type(leaf).__name__}, and only arrays, PRNG keys, numbers and strings can "
        "be saved: filter the tree first, for example by eqx.filter(tree, eqx.is_array)."
    )


def _bytes(leaf: Any) -> np.ndarray:
    """An array as its bytes: every dtype (bfloat16, complex) then fits the file format."""
    array = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
    return np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)


def _encode(tree: PyTree, step: int, meta: dict[str, Any], config: dict[str, Any]) -> bytes:
    from safetensors.numpy import save as to_bytes

    leaves = _leaves(tree)
    kinds = {name: _kind(name, leaf) for name, leaf in leaves.items()}
    scalars = {name: leaf for name, leaf in leaves.items() if kinds[name][0] == "scalar"}
    head = {"schema": SCHEMA, "step": step, "kinds": kinds, "scalars": scalars}
    head |= {"config": config, "meta": meta}
    tensors = {n: _bytes(leaf) for n, leaf in leaves.items() if kinds[n][0] != "scalar"}
    # Sorted, and one entry in the header, so that equal states give equal files.
    text = json.dumps({"sha256": _NO_DIGEST, **json.loads(json.dumps(head, sort_keys=True))})
    data = to_bytes(tensors, {"streamgrad": text})
    digest = hashlib.sha256(data).hexdigest()
    return data.replace(_SEAL.format(_NO_DIGEST).encode(), _SEAL.format(digest).encode(), 1)


def _decode(tensors: dict[str, np.ndarray], head: dict[str, Any], like: PyTree) -> PyTree:
    restored = []
    for name, leaf in _leaves(like).items():
        kind = head["kinds"][name]
        if kind[0] == "scalar":
            restored.append(head["scalars"][name])
            continue
        raw = tensors[name].tobytes()
        if kind[0] == "key":
            data = jax.random.key_data(leaf)
            words = np.frombuffer(raw, data.dtype).reshape(data.shape)
            restored.append(jax.random.wrap_key_data(jax.numpy.asarray(words), impl=kind[1]))
            continue
        array = np.frombuffer(raw, leaf.dtype).reshape(leaf.shape).copy()
        array = array[()] if isinstance(leaf, np.generic) else array
        restored.append(jax.numpy.asarray(array) if isinstance(leaf, jax.Array) else array)
    tree = jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(_unpacked(like)), restored)
    return _repacked(tree, like)


# The file.


class _Damaged(Exception):
    """A file whose content is not what was written."""


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(directory: Path) -> None:
    if os.name == "nt":
        return  # a folder cannot be opened there
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(file: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load as from_bytes

    try:
        data = file.read_bytes()
    except OSError as error:
        raise _Damaged(os.strerror(error.errno or 0)) from None
    try:
        length = int.from_bytes(data[:8], "little")
        head = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["streamgrad"])
        digest = str(head["sha256"])
    except (ValueError, KeyError, TypeError, MemoryError):
        raise _Damaged("its header cannot be read") from None
    blank = data.replace(_SEAL.format(digest).encode(), _SEAL.format(_NO_DIGEST).encode(), 1)
    if hashlib.sha256(blank).hexdigest() != digest:
        raise _Damaged("its content does not match its SHA-256")
    try:
        return from_bytes(data), head
    except (SafetensorError, ValueError) as error:
        raise _Damaged(str(error)) from None


def _check(file: Path, head: dict[str, Any], like: PyTree, config: dict[str, Any]) -> None:
    if head["schema"] != SCHEMA:
        raise CheckpointError(
            f"the checkpoint {file} has format {head['schema']} and this version of streamgrad "
            f"reads format {SCHEMA}: use the version that wrote it, or start without resuming."
        )
    advice = "Give the options it was made with, or start without resuming in another folder."
    config = json.loads(json.dumps(config))  # tuples become lists, as in the file
    for name in sorted(config.keys() | head["config"].keys()):
        was, now = head["config"].get(name), config.get(name)
        if was != now:
            raise CheckpointError(
                f"the checkpoint {file} is of another model: {name} was {was!r} and is now {now!r}. {advice}"
            )
    kinds = {name: _kind(name, leaf) for name, leaf in _leaves(like).items()}
    for name in sorted(kinds.keys() | head["kinds"].keys()):
        was, now = head["kinds"].get(name), kinds.get(name)
        if was != now:
            raise CheckpointError(
                f"the checkpoint {file} is of another model: {name} was {_words(was)} and is now "
                f"{_words(now)}. {advice}"
            )


def _words(kind: list[Any] | None) -> str:
    return "absent" if kind is None else " ".join(str(part) for part in kind)
