"""`streamgrad report`: tables and figures of what `streamgrad experiment` wrote."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro


@dataclasses.dataclass(frozen=True)
class Options:
    """Make tables and figures of experiments: a page that opens in any browser (report.html), the figures (PNG),
    and the tables as text (tables.md)."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUNS ...")]
    """Folders that `streamgrad experiment` wrote. Those that differ in their seeds alone are taken together."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Where to write; `report` in the first of the runs if not given."""


def main(arguments: Sequence[str]) -> int:
    """Read the runs, print their tables, and write the page."""
    options = tyro.cli(Options, args=arguments, prog="streamgrad report")
    from rich.console import Console
    from rich.markdown import Markdown

    from ..lab.report.figures import Picture
    from ..lab.report.page import make_chapters, to_page, to_text
    from ..lab.report.runs import RunError, read_runs

    if not options.runs:
        print("streamgrad report: which runs? Give the folders that `streamgrad experiment` wrote.", file=sys.stderr)
        return 2
    try:
        runs = read_runs(options.runs)
    except RunError as error:
        print(f"streamgrad report: {error}", file=sys.stderr)
        return 1
    chapters = make_chapters(runs)
    out = options.out or options.runs[0] / "report"
    try:
        out.mkdir(parents=True, exist_ok=True)
        for chapter in chapters:
            for section in chapter.sections:
                if isinstance(section.content, Picture):
                    (out / section.file).write_bytes(section.content.png)
        (out / "tables.md").write_text(to_text(chapters), "utf-8")
        (out / "report.html").write_text(to_page(chapters, out), "utf-8")
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        print(
            f"streamgrad report: {error.filename or out} could not be written ({reason}): free some space, or name "
            "another folder with --out.",
            file=sys.stderr,
        )
        return 1
    console = Console()
    console.print(Markdown(to_text(chapters, figures=False)))
    console.print(f"The page is {out / 'report.html'}", highlight=False, markup=False, soft_wrap=True)
    return 0
