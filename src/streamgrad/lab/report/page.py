"""The report of runs: one HTML page that needs no other file and no network, and its tables in Markdown."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .figures import Picture, against, curves
from .runs import Origin, Run
from .schema import View
from .tables import Table, make_table, plain, seeds_text, to_markdown
from .values import choices

MAKE = {"table": make_table, "curves": curves, "against": against}


@dataclass(frozen=True)
class Section:
    """A view and what was made of it (None: there are no rows for it), and the name of its picture's file."""

    view: View
    content: Table | Picture | None
    notes: tuple[str, ...]
    file: str = ""

    @property
    def table(self) -> Table | None:
        """What was made, if it is a table."""
        return self.content if isinstance(self.content, Table) else None

    @property
    def picture(self) -> Picture | None:
        """What was made, if it is a picture."""
        return self.content if isinstance(self.content, Picture) else None


@dataclass(frozen=True)
class Chapter:
    """A run and its sections."""

    run: Run
    sections: tuple[Section, ...]

    @property
    def paragraphs(self) -> list[str]:
        """The description of its run."""
        return re.split(r"\n\s*\n", self.run.description.strip()) if self.run.description else []


def make_chapters(runs: Sequence[Run]) -> list[Chapter]:
    """Compute the tables and draw the figures of all views of the runs."""
    chapters = []
    for k, run in enumerate(runs, 1):
        sections = []
        for i, view in enumerate(run.views, 1):
            content = MAKE[view.kind](run, view)
            notes = [view.note, choices(run) if view.selected else ""]
            if isinstance(content, Table):
                sd = " ± standard deviation" if content.seeds[1] > 1 else ""
                notes.insert(0, f"Final values on split {view.split}: mean{sd} over seeds." if sd else "One seed.")
            elif content is not None:
                notes.insert(0, f"On split {view.split}. {content.caption}")
            else:
                splits = ", ".join(dict.fromkeys(row.split for row in run.rows)) or "none"
                final = "" if view.kind == "curves" else "final "
                names = " or ".join(view.metrics)
                notes.insert(0, f"No {final}row has {names} on split {view.split}. Splits with rows: {splits}.")
            words = "-".join(re.findall(r"[a-z0-9]+", f"{run.experiment} {view.title}".lower()))[:60].strip("-")
            file = f"{k}-{i}-{words}.png" if isinstance(content, Picture) else ""
            sections.append(Section(view, content, tuple(filter(None, notes)), file))
        chapters.append(Chapter(run, tuple(sections)))
    return chapters


def to_page(chapters: Sequence[Chapter], folder: Path) -> str:
    """The page, to be put into `folder`: links to raw files are relative to it. All text is escaped by the template."""
    title = chapters[0].run.title if len(chapters) == 1 else f"{len(chapters)} experiments"
    address = lambda origin: link(origin.folder / "results.jsonl", folder)
    return _template().render(title=title, chapters=chapters, address=address)


@functools.cache
def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    page = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    page.globals |= {"commands": _commands, "facts": _facts, "flat": _flat, "seeds_text": seeds_text}
    return page.get_template("page.html")


def to_text(chapters: Sequence[Chapter], *, figures: bool = True) -> str:
    """Titles, notices and tables in Markdown, and links to the figures' files if they are wanted."""
    parts = []
    for chapter in chapters:
        run = chapter.run
        parts.append(f"# {plain(run.title)}")
        parts += [f"**{plain(notice)}**" for notice in run.notices]
        for section in chapter.sections:
            content, source = section.content, _source_text(run, section)
            if isinstance(content, Picture) and not figures:
                continue
            parts.append(f"## {plain(section.view.title)}")
            if isinstance(content, Table):
                parts.append(to_markdown(content))
            elif isinstance(content, Picture):
                parts.append(f"![{plain(content.words)}]({section.file})")
            parts.append(plain(" ".join(section.notes)))
            parts.append(source)
    return "\n\n".join(parts) + "\n"


def link(file: Path, folder: Path) -> str | None:
    """The address of a file relative to a folder; None where they share nothing, as on two drives."""
    file, folder = file.resolve(), folder.resolve()
    try:
        shared = os.path.commonpath([file, folder])
    except ValueError:
        return None
    if shared == os.path.dirname(shared):
        return None
    return quote(Path(os.path.relpath(file, folder)).as_posix())


def _source_text(run: Run, section: Section) -> str:
    commands = ", ".join(f"`{command.replace('`', ' ')}`" for command in _commands(run))
    seeds = f"{seeds_text(section.content.seeds)}; " if section.content is not None else ""
    return f"{commands}; {seeds}{plain(', '.join(f'{o.folder.name}/results.jsonl' for o in run.origins))}"


def _commands(run: Run) -> list[str]:
    commands = dict.fromkeys(origin.command for origin in run.origins)
    return ["".join(c if c.isprintable() else " " for c in command) for command in commands]


def _facts(origin: Origin) -> str:
    """With what a run was made, where and when."""
    seeds = f"seeds {', '.join(map(str, origin.seeds))}" if origin.seeds else ""
    versions = ", ".join(f"{name} {version}" for name, version in origin.versions.items())
    started = f"started {_time(origin.started)}" if origin.started else ""
    ended = f"finished {_time(origin.finished)}" if origin.finished else "not finished"
    spent = f"{origin.cpu_seconds / 3600:.2g} core-hours" if origin.cpu_seconds else ""
    return "; ".join(filter(None, [origin.folder.name, seeds, versions, origin.machine, started, ended, spent]))


def _time(written: str) -> str:
    try:
        time = datetime.fromisoformat(written)
    except ValueError:
        return written
    return f"{time:%Y-%m-%d %H:%M}{' UTC' if time.utcoffset() == timedelta(0) else f'{time:%z}'}"


def _flat(config: Any, before: str = "") -> list[tuple[str, str]]:
    if isinstance(config, Mapping) and config:
        return [pair for name, value in config.items() for pair in _flat(value, f"{before}.{name}" if before else name)]
    return [(before, config if isinstance(config, str) else json.dumps(config))] if before else []
