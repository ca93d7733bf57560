"""The shape of the house: who imports whom, which names are public, what a bare import costs."""

import ast
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import streamgrad as sg

PACKAGE = Path(sg.__file__).parent
ROOT = PACKAGE.parent.parent
TESTS = Path(__file__).parent

# A module imports from its own layer and from those above it in this list.
LAYERS = [
    {"_base"},
    {"_cpu", "structure", "wiring", "losses"},
    {"cells", "session"},
    {"influence"},
    {"algorithms"},
    {"recurrent", "readout", "estimators"},
    {"nn"},
    {"optimisers"},
    {"train"},
    {"td", "meta"},
    {"inspect"},
    {"checkpoint", "data"},
    {"forecast"},
    {"fleet"},
    {"sharding"},
    {"lab"},
    {"cli"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
CORE_RANK = RANK["td"]
CORE_LIBRARIES = {"jax", "equinox", "optax", "jaxtyping", "numpy", "scipy"}
EXTRA_LIBRARIES = {"cells/_function_pattern.py": {"asdex"}, "checkpoint.py": {"safetensors"}}
HEAVY = {
    *("asdex", "matplotlib", "numba", "pandas", "pyarrow", "rich", "safetensors", "tyro"),
}

PUBLIC = {
    "": """cells wiring nn losses Recurrent Learner Readout RTRL SnAp TBPTT BPTT Spatial Frozen
           explain check_gradients inference compare PES ForwardGradient UORO KFRTRL OK RFLO EProp DNI KeRNL DODGE
           Fleet""",
    "cells": """Vanilla GRU LSTM LeakyRNN IndRNN MinGRU LRU RTU LIF ALIF LinearRNN LaggedRNN ByAction Chain Function""",
    "wiring": "Dense Sparse Blocks Columns",
    "losses": "mse",
    "fleet": "Fleet Forecasters Kernel Record Summary apply FleetError",
    "sharding": "streams columns",
    "nn": """Sequential Parallel Residual Deep Block GatedLinear Dropout RunningMean Normalise Lags GenerateAndTest
             unroll""",
    "optimisers": "adamw recurrent_parameters",
    "inspect": "explain compare check_gradients flops Explanation Comparison GradientCheck",
}
NAMES = [(space, name) for space, names in PUBLIC.items() for name in names.split()]
CELLS, ALGORITHMS = (
    {name for name, kind in vars(room._every).items() if isinstance(kind, type)} for room in (sg.cells, sg.algorithms)
)

#: Rooms of one small file, or without a face of their own, and the file of tests that holds them.
TESTED_ELSEWHERE = {
    "losses": "train/test_kalman_families.py",
    "readout": "nn/test_nn.py",
}

SOURCES = sorted(PACKAGE.rglob("*.py"))
each_source = pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())


def top(path: Path) -> str:
    """The child of the package that a file belongs to: `cells/gru.py` -> `cells`."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at the top or within a function, with its full name."""
    parts = ["streamgrad", *path.relative_to(PACKAGE).with_suffix("").parts]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = parts[: -node.level] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            # `from . import cells` names a module only in its last part.
            yield from (".".join([*module, alias.name]) for alias in node.names)


def identifiers(path: Path) -> set[str]:
    """Names used in the code of a file; its docstrings and comments may say what they like."""
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    return {node.id for node in nodes if isinstance(node, ast.Name)} | {
        node.attr for node in nodes if isinstance(node, ast.Attribute)
    }


@each_source
def test_imports_go_one_way(path):
    here = top(path)
    if here.startswith("__"):
        return  # __init__ and __main__ gather everything
    assert here in RANK, f"{here} has no layer yet: give it one in LAYERS"
    used = {name.split(".")[1] for name in imports(path) if name.startswith("streamgrad.")}
    for other in sorted(used & RANK.keys()):
        assert RANK[other] <= RANK[here], f"{here} imports {other}, which stands above it"


@each_source
def test_the_lab_stands_on_public_names(path):
    """Tasks, experiments, reports and benchmarks use what every user has."""
    if top(path) != "lab":
        return
    for name in imports(path):
        room = name.split(".")[1:]
        if name.startswith("streamgrad.") and room[0] not in ("lab", "__version__"):
            assert not [part for part in room if part.startswith("_")], f"{name} is private"


def test_rooms_import_each_other_in_no_circle():
    """Layers may hold several rooms: of those, too, none leads back to itself."""
    used = {}
    for path in SOURCES:
        names = {name.split(".")[1] for name in imports(path) if name.startswith("streamgrad.")}
        used.setdefault(top(path), set()).update(names & RANK.keys() - {top(path)})
    done: set[str] = set()
    while ready := {room for room in used if room not in done and used[room] <= done}:
        done |= ready
    left = {room: sorted(used[room] - done) for room in used.keys() - done if not room.startswith("__")}
    assert not left


@each_source
def test_the_core_stands_on_few_libraries(path):
    if RANK.get(top(path), 0) > CORE_RANK:
        return
    allowed = CORE_LIBRARIES | EXTRA_LIBRARIES.get(path.relative_to(PACKAGE).as_posix(), set())
    used = {name.split(".")[0] for name in imports(path)} - {"streamgrad"}
    assert used - allowed <= set(sys.stdlib_module_names)


@each_source
def test_cells_and_algorithms_do_not_know_each_other(path):
    named = identifiers(path) | {name.split(".")[-1] for name in imports(path)}
    if top(path) in ("algorithms", "influence"):
        assert not named & CELLS  # contracts such as `Core` are all that an algorithm knows
    elif top(path) == "cells":
        assert not named & ALGORITHMS


@each_source
def test_nothing_private_or_unsafe(path):
    names = list(imports(path))
    assert not [name for name in names if name.startswith("jax._src")]
    assert not {name.split(".")[0] for name in names} & {"pickle", "cloudpickle", "dill", "shelve"}
    assert not identifiers(path) & {"eval", "exec", "_src"}


@each_source
def test_files_stay_short(path):
    assert len(path.read_text("utf-8").splitlines()) <= 500


def test_a_bare_import_loads_nothing_heavy():
    script = "import sys, streamgrad; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    path = os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    loaded = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert "streamgrad" in loaded
    assert not HEAVY & set(loaded)


@pytest.mark.parametrize(("space", "name"), NAMES, ids=[f"{s}.{n}".strip(".") for s, n in NAMES])
def test_public_names_exist_and_are_documented(space, name):
    thing = getattr(getattr(sg, space) if space else sg, name)
    assert inspect.getdoc(thing), f"{name} has no docstring"
    if inspect.isclass(thing):
        for method, function in inspect.getmembers(thing, inspect.isfunction):
            ours = function.__module__.startswith("streamgrad")
            if ours and not method.startswith("_"):
                assert inspect.getdoc(getattr(thing, method)), f"{name}.{method} has no docstring"


def test_whatever_is_public_is_documented():
    for name, thing in vars(sg).items():
        if not name.startswith("_") and name != "jaxtyping":  # which the import hook adds
            assert inspect.getdoc(thing), f"{name} has no docstring"


def test_version_is_kept_in_one_place():
    assert f'"{sg.__version__}"' not in (ROOT / "pyproject.toml").read_text("utf-8")


def test_no_docstring_says_the_same_twice_in_a_row():
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                continue
            words = [word.strip(".:,;").lower() for word in (ast.get_docstring(node) or "").split()]
            for size in range(4, 60):
                for start in range(len(words) - 2 * size + 1):
                    said = words[start : start + size]
                    where = f"{path.name}, {getattr(node, 'name', 'module')}"
                    assert said != words[start + size : start + 2 * size], f"{where}: {' '.join(said)} (twice)"


def test_tests_stand_in_the_rooms_of_what_they_test():
    """`tests/<room>/` for each room of the package; what concerns all of it stands at the top."""
    rooms = {top(path) for path in SOURCES} - {"__init__"}
    folders = {path.parent.name for path in TESTS.glob("*/test_*.py")}
    assert not folders - rooms, "folders of tests after no room of src/streamgrad"
    assert rooms - folders == TESTED_ELSEWHERE.keys(), "rooms without tests"
    assert not [name for name in TESTED_ELSEWHERE.values() if not (TESTS / name).is_file()]


def test_files_of_tests_have_names_of_their_own():
    """They are imported by name, helpers too, whichever folder they stand in."""
    names = sorted(path.name for path in TESTS.rglob("*.py"))
    assert names == sorted(set(names))
