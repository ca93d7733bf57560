"""The report of runs: one HTML page that needs no other file and no network, and its tables in Markdown."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .figures import Picture, against, curves
from .runs import Origin, Run
from .schema import View
from .style import STYLE
from .tables import Table, make_table, plain, seeds_text, to_html, to_markdown
from .values import choices

MAKE = {"table": make_table, "curves": curves, "against": against}


@dataclass(frozen=True)
class Section:
    """A view and what was made of it (None: there are no rows for it), and the name of its picture's file."""

    view: View
    content: Table | Picture | None
    notes: tuple[str, ...]
    file: str = ""


@dataclass(frozen=True)
class Chapter:
    """A run and its sections."""

    run: Run
    sections: tuple[Section, ...]


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
    """The page, to be put into `folder`: links to raw files are relative to it. All text is escaped."""
    title = chapters[0].run.title if len(chapters) == 1 else f"{len(chapters)} experiments"
    body = [] if len(chapters) == 1 else [f"<h1>{escape(title)}</h1>", _contents(chapters)]
    for k, chapter in enumerate(chapters, 1):
        body.append(_chapter(chapter, k, folder, "h1" if len(chapters) == 1 else "h2"))
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
{"".join(body)}</main>
</body>
</html>
"""


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


def _contents(chapters: Sequence[Chapter]) -> str:
    items = "".join(f'<li><a href="#run-{k}">{escape(c.run.title)}</a></li>' for k, c in enumerate(chapters, 1))
    return f"<nav><ol>{items}</ol></nav>\n"


def _chapter(chapter: Chapter, number: int, folder: Path, heading: str) -> str:
    run = chapter.run
    under = "h2" if heading == "h1" else "h3"
    parts = [f'<section id="run-{number}">', f"<{heading}>{escape(run.title)}</{heading}>"]
    if run.description:
        parts += [f"<p>{escape(text)}</p>" for text in re.split(r"\n\s*\n", run.description.strip())]
    parts += [f'<p class="notice" role="note">{escape(notice)}</p>' for notice in run.notices]
    parts += [_section(run, section, folder, under) for section in chapter.sections]
    if not chapter.sections:
        parts.append("<p>The experiment names no tables or figures.</p>")
    parts += [_setting(run, under), "</section>\n"]
    return "\n".join(parts)


def _section(run: Run, section: Section, folder: Path, heading: str) -> str:
    content = section.content
    body = ""
    if isinstance(content, Table):
        body = f'<div class="wide" tabindex="0">{to_html(content)}</div>\n'
    elif isinstance(content, Picture):
        image = base64.b64encode(content.png).decode()
        body = f'<img alt="{escape(content.words)}" src="data:image/png;base64,{image}">\n'
    notes = "".join(f"<p>{escape(note)}</p>" for note in section.notes)
    foot = f'{notes}\n<p class="source">{_source(run, section, folder)}</p>'
    title = f"<{heading}>{escape(section.view.title)}</{heading}>"
    return f"<figure>\n{title}\n{body}<figcaption>{foot}</figcaption>\n</figure>"


def _source(run: Run, section: Section, folder: Path) -> str:
    commands = "".join(f"<code>{escape(command)}</code>" for command in _commands(run))
    seeds = f"{seeds_text(section.content.seeds)} · " if section.content is not None else ""
    return f"{commands}<br>{seeds}{', '.join(_raw(origin, folder) for origin in run.origins)}"


def _source_text(run: Run, section: Section) -> str:
    commands = ", ".join(f"`{command.replace('`', ' ')}`" for command in _commands(run))
    seeds = f"{seeds_text(section.content.seeds)}; " if section.content is not None else ""
    return f"{commands}; {seeds}{plain(', '.join(f'{o.folder.name}/results.jsonl' for o in run.origins))}"


def _commands(run: Run) -> list[str]:
    commands = dict.fromkeys(origin.command for origin in run.origins)
    return ["".join(c if c.isprintable() else " " for c in command) for command in commands]


def _raw(origin: Origin, folder: Path) -> str:
    name = escape(f"{origin.folder.name}/results.jsonl")
    address = link(origin.folder / "results.jsonl", folder)
    return f'<a href="{escape(address)}">{name}</a>' if address else name


def _setting(run: Run, heading: str) -> str:
    """What was run, with what, where and when; and the whole configuration."""
    parts = [f'<div class="setting">\n<{heading}>How it was run</{heading}>']
    for origin in run.origins:
        seeds = f"seeds {', '.join(map(str, origin.seeds))}" if origin.seeds else ""
        versions = ", ".join(f"{name} {version}" for name, version in origin.versions.items())
        started = f"started {_time(origin.started)}" if origin.started else ""
        ended = f"finished {_time(origin.finished)}" if origin.finished else "not finished"
        facts = [origin.folder.name, seeds, versions, origin.machine, started, ended]
        parts.append(f"<p><code>{escape(origin.command)}</code><br>{escape('; '.join(filter(None, facts)))}</p>")
    lines = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in _flat(run.config, "")
    )
    if lines:
        table = f'<div class="wide"><table><tbody>{lines}</tbody></table></div>'
        parts.append(f"<details><summary>Configuration</summary>{table}</details>")
    return "\n".join([*parts, "</div>"])


def _time(written: str) -> str:
    try:
        time = datetime.fromisoformat(written)
    except ValueError:
        return written
    return f"{time:%Y-%m-%d %H:%M}{' UTC' if time.utcoffset() == timedelta(0) else f'{time:%z}'}"


def _flat(config: Any, before: str) -> list[tuple[str, str]]:
    if isinstance(config, Mapping) and config:
        return [pair for name, value in config.items() for pair in _flat(value, f"{before}.{name}" if before else name)]
    return [(before, config if isinstance(config, str) else json.dumps(config))] if before else []
