"""The page of the papers' claims says what the raw files say."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import tyro

from streamgrad.lab.experiments import EXPERIMENTS

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def results():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS)
        yield importlib.import_module("_results")


def test_the_fidelity_page_says_what_the_raw_files_say(results):
    page = (DOCS / "fidelity.md").read_text("utf-8")
    assert results.filled(page, pictures=False) == page, "run: python docs/_results.py"


def test_every_claim_that_is_computed_is_told(results):
    pages = "".join((DOCS / name).read_text("utf-8") for name in results.PAGES)
    assert set(re.findall(r"<!-- say: (\S+) -->", pages)) == set(results.SAID)


def test_a_figure_that_no_run_has_is_an_error(results):
    with pytest.raises(ValueError, match="columns-gradient has no cosine"):
        results.SAID["columns-beside-the-published-code"].__globals__["values"](
            "columns-gradient", "cosine", "end", s=7
        )


def test_prices_are_of_commands_that_exist(results):
    commands = re.findall(r"`streamgrad experiment (.*?)`", results.SAID["what-is-left"]())
    assert len(commands) > 5
    for command in commands:
        name, *options = shlex.split(command.partition(" --out ")[0])
        config = EXPERIMENTS[name].config
        assert isinstance(tyro.cli(type(config), args=options, default=config), type(config))
