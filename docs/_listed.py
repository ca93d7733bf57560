"""Fills `<!-- others: room space -->` on a page of the API with what the room lists and the page does not name."""

import re
from pathlib import Path

from markdown import Extension
from markdown.preprocessors import Preprocessor

SOURCE = Path(__file__).parent.parent / "src" / "streamgrad"
MARK = re.compile(r"^<!-- others: (\S+) (\S+) -->$", re.MULTILINE)


class _Others(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        page = "\n".join(lines)
        return MARK.sub(lambda match: _others(page, *match.groups()), page).split("\n")


class Listed(Extension):
    """Before the blocks of mkdocstrings are read."""

    def extendMarkdown(self, md):
        md.preprocessors.register(_Others(md), "listed", 100)


def makeExtension(**options):
    return Listed(**options)


def _others(page: str, room: str, space: str) -> str:
    lines = re.findall(r"^from .* import (.*)", (SOURCE / room / "_every.py").read_text("utf-8"), re.MULTILINE)
    blocks = [f"::: {space}.{name}" for line in lines for name in re.findall(r"as (\w+)", line)]
    absent = [block for block in blocks if not re.search(f"^{re.escape(block)}$", page, re.MULTILINE)]
    return "\n\n".join(["## Others", *absent]) if absent else ""
