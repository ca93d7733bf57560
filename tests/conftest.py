"""Every test runs in float64, under strict dtype promotion, with shapes checked at each call.

The settings go through `jax.config` and not the environment, so that a test that starts a process
(the command line, a cold import) runs it as a user does.
"""

import gc
import os
import typing
import zlib

import jax
import pytest
from beartype import BeartypeConf, FrozenDict, beartype
from jaxtyping import install_import_hook
from quick_flags import FLAGS

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Programs here are compiled more often than they run. What is asserted of them, buffers included, does not change.
jax.config.update("jax_disable_most_optimizations", True)
# XLA reads its flags once, with the first device: no process that a test starts gets them.
with pytest.MonkeyPatch.context() as patch:
    patch.setenv("XLA_FLAGS", f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}")
    jax.devices()

# Methods are decorated one by one, and there `Self` says nothing that could be checked.
checked = beartype(conf=BeartypeConf(hint_overrides=FrozenDict({typing.Self: object})))

install_import_hook("streamgrad", f"{__name__}.checked")


@pytest.fixture(scope="session", autouse=True)
def _compiled_once(tmp_path_factory):
    """Runs that are compared with each other compile the same programs: they are kept on the disk meanwhile."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("cache")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_collection_finish():
    """Tracing makes many objects that live shortly, beside many that stay: look for cycles less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


QUICK = pytest.StashKey[list]()


def pytest_collection_modifyitems(config, items):
    for item in _pairs_seen_before(items):
        item.add_marker(pytest.mark.full)
    config.stash[QUICK] = [item for item in items if not item.get_closest_marker("full")]
    # Files of few and long tests first: a worker that got one last would go on alone.
    long = ("test_docs", "test_experiments", "test_snap_experiments", "test_compare", "test_learn", "test_unroll")
    items.sort(key=lambda item: item.path.stem not in long)


@pytest.fixture
def quick(request):
    """The items of a test's file that `make tests` runs, whatever this run has selected."""
    return [item for item in request.config.stash[QUICK] if item.path == request.path]


def _pairs_seen_before(items):
    """Of each test marked `cross`, the items whose class and parameters all occur in others that are kept.

    Items are looked at in an order without meaning but always the same, so that the pairs that are kept are mixed;
    a file that moves to another folder keeps its pairs."""

    def order(item):
        return zlib.crc32(f"tests/{item.path.name}::{item.nodeid.partition('::')[2]}".encode())

    seen = set()
    crossed = [item for item in items if item.get_closest_marker("cross")]
    for item in sorted(crossed, key=order):
        given = item.callspec.params if hasattr(item, "callspec") else {}
        parts = item.cls.__name__.split("-") if item.cls else [""]  # TestGRU-sparse is one of GRU and one of sparse
        values = {("class", part) for part in parts} | {(name, str(given[name])) for name in given}
        new = {(item.path, item.originalname, *value) for value in values} - seen
        seen |= new
        if not new:
            yield item
